"""The page on recipes says what the schemas say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel
from small_recipe import SECTIONS, write

from interlace.data_recipes.recipe import resolve, shipped
from interlace.data_recipes.schema import BESIDE_TRAINING, Engine, Recipe, TaskRecipe, Zero

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
SHIPPED, KEYS = PAGE.split("## Keys")
ROWS = dict(re.findall(r"^\| `([^`]+)` \| ([^|]*?) ?\| ", KEYS, re.MULTILINE))


def default(model: type[BaseModel], name: str) -> str:
    info = model.model_fields[name]
    if info.is_required():
        return ""
    return info.default if isinstance(info.default, str) else json.dumps(info.default)


def test_the_table_has_every_key_with_its_default() -> None:
    expected = {key: default(Recipe, key) for key in ("name", "seed", "start_from")}
    expected |= {f"engine.{key}": default(Engine, key) for key in Engine.model_fields if key != "zero"}
    expected |= {f"engine.zero.{key}": default(Zero, key) for key in Zero.model_fields}
    expected |= {f"tasks.T.{key}": default(TaskRecipe, key) for key in TaskRecipe.model_fields}
    expected |= {
        "backbone.preset": "null",
        "backbone.init": "null",
        "backbone.frozen": "false",
        "backbone.*": "the preset's",
    }
    assert expected == ROWS


def test_the_page_names_every_shipped_recipe_and_what_the_digest_leaves_out() -> None:
    rows = re.findall(r"^\| (`[^|]+`) \| ", SHIPPED, re.MULTILINE)
    assert sorted(re.findall(r"`([^`]+)`", " ".join(rows))) == shipped()
    assert all(f"`{key}`" in PAGE.split("leaves out")[1].split("##")[0] for key in BESIDE_TRAINING)


def test_its_example_extends_as_it_says(tmp_path: Path) -> None:
    example = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert example
    base = {
        "name": "base",
        "backbone": {"preset": "dinov3_vits16"},
        "engine": {"steps": 5},
        "tasks": {
            "ssl": {"batch": 1, "sources": [{"name": "a", "format": "mds", "path": "/a"}]},
            "geometry": {"batch": 1, "sources": []},
        },
    }
    write(tmp_path, "demo.yaml", json.dumps(base))
    left_out = dict.fromkeys(("captioning", "clusters"), SECTIONS.tasks["geometry"])
    sections = replace(SECTIONS, tasks={**SECTIONS.tasks, **left_out})
    recipe = resolve(example[1], sections, environment={"MY_SHARDS": "/mine"}, file=str(tmp_path / "mine.yaml"))
    assert (recipe.name, recipe.engine.steps, list(recipe.tasks)) == ("mine", 2000, ["ssl"])
    assert recipe.tasks["ssl"].sources[0].path == "/mine"
