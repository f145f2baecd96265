"""What the language tasks on a frozen backbone have in common."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_vla
import tiny_vlm
from language import write_tokenizer
from tiny_vlm import write_template_tokenizer

MAKERS = {"vlm": tiny_vlm.build, "vla": tiny_vla.build}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("words"))


@pytest.mark.parametrize("name", MAKERS)
def test_parts_are_all_that_is_trained(words: Path, name: str) -> None:
    build: Any = MAKERS[name]
    task, _ = build(words)
    assert {key.split(".")[0] for key, _ in task.named_parameters()} == set(task.parts)
    assert all(set(parts) <= set(task.parts) for parts in task.begins_with.values())


def test_a_tokenizer_is_known_by_its_tokens_wherever_it_lies(words: Path, tmp_path: Path) -> None:
    shutil.copy(words, tmp_path / "moved.model")
    template = write_template_tokenizer(tmp_path / "template")
    shutil.copytree(template, tmp_path / "moved")
    found = [
        tiny_vlm.build(path)[0].fingerprints()["tokenizer"]
        for path in (words, tmp_path / "moved.model", template, tmp_path / "moved")
    ]
    assert found[0] == found[1] != found[2] == found[3]
    assert tiny_vla.build(words)[0].fingerprints()["tokenizer"] == found[0]
