"""Recipes that are right: extending, overriding, the environment, paths, and reading back what was resolved."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_recipe import GOOD, SECTIONS, edit, lines_of, write

from interlace.backbone import PRESETS
from interlace.data_recipes import Sample, SampleWriter
from interlace.data_recipes.check import summary
from interlace.data_recipes.recipe import Recipe, RecipeErrors, find_recipe, read_recipe, resolve


def good(
    *changes: tuple[str, str], overrides: tuple[str, ...] = (), environment: dict[str, str] | None = None
) -> Recipe:
    return resolve(edit(*changes), SECTIONS, overrides, environment or {})


def errors_of(path: Path, *overrides: str, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(RecipeErrors) as raised:
        read_recipe(path, overrides, SECTIONS, environment or {})
    return str(raised.value).splitlines()


def test_values_reach_their_places() -> None:
    recipe = good()
    assert (recipe.name, recipe.seed, recipe.start_from) == ("small", 3, None)
    assert recipe.backbone.config == dataclasses.replace(PRESETS["dinov3_vits16"], depth=4)
    assert (recipe.engine.steps, recipe.engine.lr, recipe.engine.betas) == (100, 1e-4, (0.9, 0.999))
    assert (recipe.engine.zero.stage, recipe.engine.zero.offload) == (1, "cpu")
    ssl = recipe.tasks["ssl"]
    assert (ssl.weight, ssl.batch, ssl.micro_batches) == (0.1, 8, 1)
    assert type(ssl.options) is SECTIONS.tasks["ssl"].options
    assert ssl.options.model_dump()["size"] == 64
    assert [(source.name, source.weight) for source in ssl.sources] == [("photos", 1.0), ("clips", 2.0)]


def test_a_backbone_without_preset_is_given_in_full() -> None:
    recipe = good(("  preset: dinov3_vits16\n", "  hidden_size: 32\n  heads: 2\n  mlp_size: 64\n"))
    assert (recipe.backbone.preset, recipe.backbone.config.hidden_size) == (None, 32)


def test_what_is_resolved_reads_back_equal() -> None:
    recipe = good(
        ("    batch: 8", "    batch: 8\n    held_out: []"),
        ("    held_out:\n      - {name: photos, format: webdataset, path: /store/held}\n", ""),
        ("      size: 64", "      head: {count: 3}\n      layers: [1, 2]\n      decoder: 'yes'"),
        ("  lr: 1e-4", "  lr: 2.5e-5\n  betas: [0.5, 0.75]"),
    )
    again = resolve(recipe.to_yaml(), SECTIONS, environment={})
    assert again == recipe
    assert again.digest() == recipe.digest()
    assert again.to_yaml() == recipe.to_yaml()


def test_the_resolved_form_says_everything() -> None:
    resolved = good().resolved()
    assert set(resolved) == {"name", "seed", "start_from", "backbone", "engine", "tasks"}
    assert set(resolved["engine"]) == set(type(good().engine).model_fields)
    assert set(resolved["backbone"]) == {"preset", "init", "frozen", *dataclasses.asdict(good().backbone.config)}
    assert resolved["tasks"]["ssl"]["options"]["crops"] == {"count": 2, "scale": [0.05, 0.32]}


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "engine.workers=7",
        "engine.max_broken=0.5",
        "engine.log_every=3",
        "engine.checkpoint_every=9",
        "engine.cosine_every=5",
        "engine.zero.stage=3",  # a checkpoint is read at any stage
        "tasks.ssl.sources.clips.path=/elsewhere/clips",
        "tasks.ssl.held_out.photos.path=/elsewhere/held",
        "tasks.geometry.options.weights=/elsewhere/weights",
        "backbone.init=/weights",
        "backbone.fps=4.0",
    ],
)
def test_the_digest_leaves_out_what_no_weight_depends_on(override: str) -> None:
    with_paths = ("      size: 32", "      size: 32\n      weights: /w")
    assert good(with_paths, overrides=(override,)).digest() == good(with_paths).digest()


@pytest.mark.parametrize(
    "override",
    [
        "seed=4",
        "engine.steps=101",
        "engine.clip=2.0",
        "engine.precision=bf16",
        "backbone.depth=5",
        "tasks.ssl.weight=0.2",
        "tasks.ssl.batch=9",
        "tasks.ssl.options.frames=4",
        "tasks.ssl.sources.clips.weight=3",
        "tasks.ssl.sources.clips.name=films",
        "tasks.geometry=null",
    ],
)
def test_the_digest_holds_what_training_depends_on(override: str) -> None:
    assert good(overrides=(override,)).digest() != good().digest()


def test_parts_have_rates_of_their_own() -> None:
    recipe = good(overrides=("tasks.ssl.rates={head: 1e-3, neck: 2}",))
    assert (recipe.tasks["ssl"].rates, good().tasks["ssl"].rates) == ({"head": 1e-3, "neck": 2.0}, {})
    assert recipe.digest() != good().digest()
    assert good(overrides=("tasks.ssl.rates={}",)).digest() == good().digest()


def test_a_digest_without_rates_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints that were made before recipes could name rates go on."""
    hashed, original = list[Any](), json.dumps
    monkeypatch.setattr(json, "dumps", lambda value, **options: hashed.append(value) or original(value, **options))
    good().digest()
    assert not any("rates" in task for task in hashed[-1]["tasks"].values())


def test_overrides() -> None:
    recipe = good(
        overrides=(
            "engine.betas=[0.8, 0.9]",
            "engine.zero={stage: 0}",
            "tasks.ssl.sources.clips.weight=5",
            "tasks.ssl.sources.photos=null",
            "tasks.geometry=null",
            "backbone.rope_jitter=1.5",
            "tasks.ssl.options.crops.count=3",
        )
    )
    assert recipe.engine.betas == (0.8, 0.9)
    assert (recipe.engine.zero.stage, recipe.engine.zero.offload) == (0, "none")
    assert list(recipe.tasks) == ["ssl"]
    assert [(source.name, source.weight) for source in recipe.tasks["ssl"].sources] == [("clips", 5.0)]
    assert recipe.backbone.config.rope_jitter == 1.5
    assert recipe.tasks["ssl"].options.model_dump()["crops"]["count"] == 3


def test_a_later_override_wins_and_takes_the_error_away() -> None:
    assert good(overrides=("engine.steps=5", "engine.steps=60")).engine.steps == 60
    assert lines_of(GOOD, "engine.steps=fast", "engine.steps=60") == []


def test_environment() -> None:
    recipe = good(
        ("    batch: 8", "    batch: ${BATCH:-16}"),
        ("name: small", 'name: "${WHO}-${N}"'),
        ("path: /store/photos}", 'path: "${DATA}/photos"}'),
        ("  steps: 100", "  steps: ${N}"),
        environment={"WHO": "me", "N": "20", "DATA": "/mine"},
    )
    assert recipe.name == "me-20"
    assert recipe.engine.steps == 20
    assert recipe.tasks["ssl"].batch == 16
    assert recipe.tasks["ssl"].sources[0].path == "/mine/photos"


def test_a_value_put_over_it_needs_no_environment() -> None:
    text = edit(("        path: /store/scenes", "        path: ${UNSET}/scenes"))
    assert lines_of(text) == [
        "r.yaml:33: tasks.geometry.sources.scenes.path: found ${UNSET}/scenes; "
        "the environment variable UNSET is not set"
    ]
    assert lines_of(text, "tasks.geometry.sources.scenes.path=/store/scenes") == []


def test_paths_start_here_and_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/my-home")
    recipe = good(overrides=("tasks.ssl.sources.photos.path=photos", "tasks.ssl.sources.clips.path=~/clips"))
    assert [source.path for source in recipe.tasks["ssl"].sources] == [str(tmp_path / "photos"), "/my-home/clips"]


def test_extends(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", GOOD)
    write(tmp_path, "middle.yaml", "extends: base.yaml\nengine: {steps: 7, warmup: 1}\ntasks: {geometry: null}\n")
    top = "extends: middle.yaml\nname: top\ntasks:\n  ssl:\n    options: {frames: 2}\n    held_out: []\n"
    recipe = resolve(top, SECTIONS, environment={}, file=str(tmp_path / "top.yaml"))
    assert (recipe.name, recipe.seed, recipe.engine.steps, recipe.engine.lr) == ("top", 3, 7, 1e-4)
    assert list(recipe.tasks) == ["ssl"]
    assert recipe.tasks["ssl"].options.model_dump()["size"] == 64
    assert recipe.tasks["ssl"].options.model_dump()["frames"] == 2
    assert (len(recipe.tasks["ssl"].sources), recipe.tasks["ssl"].held_out) == (2, ())


def test_errors_stand_where_the_value_stands(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", edit(("  lr: 1e-4", "  lr: fast"), ("    batch: 8", "    batch: 0")))
    top = write(tmp_path, "top.yaml", "name: top\nextends: base.yaml\ntasks:\n  ssl:\n    weight: -1\n")
    with pytest.raises(RecipeErrors) as raised:
        resolve(top.read_text(), SECTIONS, ("engine.steps=0",), {}, file=str(top))
    assert str(raised.value).splitlines() == [
        f"{top}:5: tasks.ssl.weight: found -1; allowed a number >= 0",
        f"{base}:8: engine.lr: found 'fast'; allowed a number > 0",
        f"{base}:14: tasks.ssl.batch: found 0; allowed a whole number >= 1",
        "command line:1: engine.steps: found 0; allowed a whole number >= 1",
    ]


def test_recipes_that_extend_each_other(tmp_path: Path) -> None:
    first = write(tmp_path, "a.yaml", "name: a\nextends: b.yaml\n")
    second = write(tmp_path, "b.yaml", "extends: a.yaml\n")
    line = f"{second}:1: extends: found 'a.yaml'; recipes extend each other: a.yaml -> b.yaml -> a.yaml"
    assert errors_of(first) == [line]
    alone = write(tmp_path, "c.yaml", "extends: c.yaml\n")
    assert errors_of(alone) == [f"{alone}:1: extends: found 'c.yaml'; recipes extend each other: c.yaml -> c.yaml"]


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeErrors, match=r"demmo:1: recipe: found no such file; .*; did you mean demo\?"):
        read_recipe("demmo", (), SECTIONS)
    top = write(tmp_path, "top.yaml", "extends: bse.yaml\n")
    write(tmp_path, "base.yaml", GOOD)
    assert errors_of(top)[0].endswith("; did you mean base.yaml?")
    assert errors_of(write(tmp_path, "folder.yaml", "extends: base.yaml\n"))[0].startswith(f"{tmp_path}/base.yaml:")


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"name: caf\xe9\n")
    assert errors_of(file) == [f"{file}:1: recipe: found bytes that are not UTF-8; allowed a text file"]


def test_a_recipe_is_found_by_its_name() -> None:
    assert find_recipe("demo") == find_recipe("demo.yaml")
    assert find_recipe("demo").parent.name == "data_recipes"


def test_every_missing_path_has_its_line(tmp_path: Path) -> None:
    text = edit(
        ("seed: 3", f"start_from: {tmp_path}/run"),
        ("      size: 32", f"      size: 32\n      weights: {tmp_path}/w"),
        ("  depth: 4", "  depth: 4"),
    ).replace("/store", str(tmp_path))
    file = write(tmp_path, "r.yaml", text)
    (tmp_path / "clips").mkdir()
    any_file, folder = "allowed an existing file or folder", "allowed an existing folder"
    assert errors_of(file) == [
        f"{file}:2: start_from: found {tmp_path}/run; {folder}",
        f"{file}:18: tasks.ssl.sources.photos.path: found {tmp_path}/photos; {any_file}",
        f"{file}:24: tasks.ssl.held_out.photos.path: found {tmp_path}/held; {any_file}",
        f"{file}:30: tasks.geometry.options.weights: found {tmp_path}/w; {any_file}",
        f"{file}:34: tasks.geometry.sources.scenes.path: found {tmp_path}/scenes; {any_file}",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "r.yaml"], "reading a recipe creates nothing"
    (tmp_path / "run").write_text("a file where a folder is due")
    assert errors_of(file)[0] == f"{file}:2: start_from: found {tmp_path}/run; {folder}"
    (tmp_path / "run").unlink()
    for name in ("run", "photos", "held", "w", "scenes"):
        (tmp_path / name).mkdir()
    assert read_recipe(file, (), SECTIONS, {}).start_from == str(tmp_path / "run")


def shards(folder: Path, count: int) -> Path:
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    with SampleWriter(folder, name=folder.name, fields=("frames",), split="train", licence="none") as writer:
        for index in range(count):
            writer.write(Sample(key=f"{index}", source="", frames=frames, times=np.zeros(1)))
    return folder


def test_shards_say_what_they_offer(tmp_path: Path) -> None:
    folder, empty = shards(tmp_path / "shards", 3), tmp_path / "empty"
    empty.mkdir()
    text = edit(
        ("format: scannet\n        path: /store/scenes", f"format: mds\n        path: {folder}"),
        ("{name: photos, format: webdataset, path: /store/photos}", f"{{name: photos, format: mds, path: {folder}}}"),
        ("format: webdataset\n        path: /store/clips", f"format: mds\n        path: {empty}"),
        (
            "      - {name: photos, format: webdataset, path: /store/held}",
            f"      - {{name: x, format: ssv2, path: {empty}}}",
        ),
    )
    assert len(lines_of(text)) == 1, "without looking, shards may offer anything"
    file = write(tmp_path, "r.yaml", text)
    lines = errors_of(file)
    assert lines[0].startswith(
        f"{file}:21: tasks.ssl.sources.clips.path: found '{empty}'; {empty}/dataset.json: no such"
    )
    assert lines[1:] == [
        f"{file}:24: tasks.ssl.held_out.x.path: found '{empty}'; tasks.ssl.sources.clips trains on it",
        f"{file}:33: tasks.geometry.sources.scenes.path: found '{folder}', which offers frames; "
        "allowed a source with camera, depth, frames",
    ]


def test_summary(tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards", 3)
    text = edit(
        ("{name: photos, format: webdataset, path: /store/photos}", f"{{name: photos, format: mds, path: {folder}}}")
    )
    ssl, geometry = summary(resolve(text, SECTIONS, environment={}), SECTIONS)
    assert (ssl.task, ssl.weight, ssl.samples, ssl.tokens) == ("ssl", 0.1, 8, 8 * 16 * 16)
    assert [(row.name, row.share, row.available, row.readable) for row in ssl.sources] == [
        ("photos", pytest.approx(1 / 3), 3, True),
        ("clips", pytest.approx(2 / 3), None, True),
    ]
    assert (geometry.samples, geometry.tokens) == (8, 8 * 2 * 4)
    assert [(row.name, row.share, row.readable) for row in geometry.sources] == [("scenes", 1.0, False)]


VALUES = ("[]", "{}", "null", "-1", "0.5", "x", "true", "[1,x]", "{a:}", "[[1]]", "'1'", "${X}", "${X:-3}", "${")
VALUES += ("!!int", "&a", "*a", "1e400", "{name: 3}", "{kind: 3}")


@pytest.mark.parametrize("value", VALUES)
def test_no_value_anywhere_breaks_the_reader(value: str) -> None:
    lines = GOOD.splitlines()
    for number, line in enumerate(lines):
        key = line.partition(":")[0]
        text = "\n".join([*lines[:number], f"{key}: {value}", *lines[number + 1 :]])
        for error in lines_of(text, environment={"X": "7"}):
            assert 1 <= int(error.split(":")[1]) <= len(lines) + 1


def test_what_is_only_drawn_needs_no_truth() -> None:
    film = "{name: film, format: webdataset, path: /store/film}"
    drawn = ("        path: /store/scenes\n", f"        path: /store/scenes\n    pictured:\n      - {film}\n")
    assert [source.name for source in good(drawn).tasks["geometry"].pictured] == ["film"]
    assert good(drawn).digest() == good().digest()
    (line,) = lines_of(edit((drawn[0], drawn[1].replace("pictured", "held_out"))))
    assert "tasks.geometry.held_out" in line
