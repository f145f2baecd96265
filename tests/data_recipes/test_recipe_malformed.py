"""Malformed recipes, each with the exact lines that tell what is wrong with it: malformed.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from small_recipe import GOOD, edit, lines_of

from interlace.data_recipes.formats import FORMATS
from interlace.data_recipes.recipe import shipped
from interlace.data_recipes.validate import one_of

CASES: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("malformed.yaml").read_text())


def test_the_recipe_they_break_is_good() -> None:
    assert lines_of(GOOD) == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_lines(case: dict[str, Any]) -> None:
    text = case.get("text", edit(*case.get("change", {}).items()) + case.get("append", ""))
    expected = [
        line.replace("<shipped>", one_of(shipped())).replace("<formats>", one_of(FORMATS)) for line in case["lines"]
    ]
    assert lines_of(text, *case.get("overrides", ()), environment=case.get("environment")) == expected


def test_lists_nested_without_end_are_one_line() -> None:
    assert lines_of("name: " + "[" * 5000) == ["r.yaml:1: recipe: found text that nests too deep"]
