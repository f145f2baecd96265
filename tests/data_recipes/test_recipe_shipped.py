"""The recipes that come with the package, read against the real tasks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from shard_samples import make_sample, write_samples

from interlace.backbone import PRESETS, BackboneConfig
from interlace.data_recipes.check import summary
from interlace.data_recipes.recipe import (
    Recipe,
    RecipeErrors,
    Sections,
    TaskSpec,
    find_recipe,
    read_recipe,
    resolve,
    shipped,
)
from interlace.data_recipes.schema import path_fields
from interlace.launchers.export_vlm import named
from interlace.tasks import TASKS

SECTIONS = Sections(BackboneConfig, PRESETS, {name: TaskSpec.of(task) for name, task in TASKS.items()})
ROOTS = (
    *("INTERLACE_DATA", "DINOV3_VITL16", "QWEN3_0_6B", "OMNISTREAM_STAGE1"),
    *("OMNISTREAM_BACKBONE", "QWEN2_5_7B", "VLM_STAGE1", "VLM_STAGE1_5", "VLM_STAGE2", "VLM_STAGE3"),
    *("VLM_DEMO_BACKBONE", "VLA_DEMO_BACKBONE", "VLA_DEMO_GLANCES"),
)

#: OmniStream Table 1, row by row.
TABLE_1 = {
    "ssl": "datacomp imagenet21k kinetics ssv2 pe_video",
    "geometry": "co3dv2 wildrgbd blendedmvs megadepth mvs_synth pointodyssey hypersim tartanair dl3dv scannet "
    "scannetpp arkitscenes vkitti2 mapfree dynamic_replica spring omniworld_game aria_synthetic waymo",
    "captioning": "grit refcoco blip3_ocr sa1b_caption",
}


def environment(root: Path) -> dict[str, str]:
    return {name: str(root / name.lower()) for name in ROOTS}


def unseen(name: str, root: Path) -> Recipe:
    """A shipped recipe, its paths not looked for."""
    file = find_recipe(name)
    return resolve(file.read_text(), SECTIONS, environment=environment(root), file=str(file))


def make_paths(recipe: Recipe) -> None:
    """Everything that a recipe says is there, and as little of it as can be."""
    folders = {recipe.backbone.init, recipe.start_from}
    for name, task in recipe.tasks.items():
        for source in (*task.sources, *task.held_out, *task.pictured):
            if source.format == "mds" and not Path(source.path).exists():
                write_samples(Path(source.path), [make_sample(0)])
            folders.add(source.path)
        folders |= {getattr(task.options, field) for field in path_fields(SECTIONS.tasks[name].options)}
    for path in (Path(folder) for folder in folders if isinstance(folder, str)):
        if path.suffix == ".model":
            path.touch()
            continue
        path.mkdir(parents=True, exist_ok=True)
        for file in ("config.json", "model.safetensors"):
            (path / file).touch()


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_with_its_roots_present_passes(name: str, tmp_path: Path) -> None:
    expected = unseen(name, tmp_path)
    make_paths(expected)
    recipe = read_recipe(name, (), SECTIONS, environment(tmp_path))
    assert recipe == expected
    again = tmp_path / "recipe.yaml"
    again.write_text(recipe.to_yaml())
    assert read_recipe(again, (), SECTIONS, {}) == recipe
    rows = summary(recipe, SECTIONS)
    assert [row.task for row in rows] == list(recipe.tasks)
    assert all(row.tokens > 0 and sum(source.share for source in row.sources) == pytest.approx(1) for row in rows)


@pytest.mark.parametrize("roots_set", [True, False])
def test_stage_1_names_all_that_is_missing_and_nothing_else(roots_set: bool, tmp_path: Path) -> None:
    with pytest.raises(RecipeErrors) as raised:
        read_recipe("omnistream_stage1", (), SECTIONS, environment(tmp_path) if roots_set else {})
    missing = [f"tasks.{task}.sources.{name}.path" for task, names in TABLE_1.items() for name in names.split()]
    assert len(missing) == 28
    missing += ["backbone.init", "tasks.captioning.options.decoder", "tasks.captioning.options.tokenizer"]
    assert sorted(error.key for error in raised.value.errors) == sorted(missing)
    for error in raised.value.errors:
        if roots_set:
            assert error.found.startswith(str(tmp_path))
            assert error.allowed.startswith("an existing")
        else:
            assert error.problem.endswith("is not set")
    assert not list(tmp_path.iterdir())


def test_stage_1_is_the_papers(tmp_path: Path) -> None:
    recipe = unseen("omnistream_stage1", tmp_path)
    engine, tasks = recipe.engine, recipe.tasks
    assert recipe.backbone.preset == "dinov3_vitl16"
    assert (recipe.backbone.config.attention, recipe.backbone.config.rope) == ("causal", "rotary")
    assert (engine.steps, engine.optimizer, engine.lr, engine.warmup, engine.weight_decay) == (
        60_000,
        "adam",
        1e-4,
        4_000,
        0,
    )
    assert {name: task.weight for name, task in tasks.items()} == {"ssl": 0.1, "geometry": 1.0, "captioning": 1.0}
    options = {name: task.options.model_dump() for name, task in tasks.items()}
    assert (options["ssl"]["global_size"], options["geometry"]["size"], options["captioning"]["size"]) == (
        224,
        224,
        224,
    )
    assert (options["ssl"]["frames"], options["geometry"]["frames"]) == (16, 16)
    terms = [options["ssl"][f"{term}_weight"] for term in ("dino", "ibot", "koleo", "gram")]
    assert (terms, options["ssl"]["gram"]) == ([1, 1, 0.1, 1], True)


def test_stage_2_is_stage_1_at_512_from_its_run(tmp_path: Path) -> None:
    first, second = (flat(unseen(f"omnistream_stage{stage}", tmp_path).resolved()) for stage in (1, 2))
    changed = {key: second[key] for key in second if second[key] != first[key]}
    assert changed == {
        "name": "omnistream_stage2",
        "start_from": str(tmp_path / "omnistream_stage1"),
        "backbone.init": None,
        "engine.steps": 120_000,
        "tasks.ssl.options.global_size": 512,
        "tasks.ssl.options.local_size": 224,
        "tasks.ssl.options.teacher_temperature": 0.07,
        "tasks.geometry.options.size": 512,
        "tasks.geometry.options.dpt_frames": 4,
        "tasks.captioning.options.size": 512,
    }


def test_interlace_stage_1_only_adds_clusters(tmp_path: Path) -> None:
    paper, ours = (flat(unseen(name, tmp_path).resolved()) for name in ("omnistream_stage1", "interlace_stage1"))
    assert {key for key in ours if ours[key] != paper.get(key)} - {"name"} == {
        key for key in ours if key.startswith("tasks.clusters.")
    }


#: Values that need no source in a comment: the papers give them, the environment does, or they change no weight.
GIVEN = {
    "omnistream_stage1": "preset attention steps optimizer lr warmup weight_decay weight frames size global_size gram "
    "dino_weight ibot_weight koleo_weight gram_weight init decoder tokenizer keep log_every evaluate_every "
    "cosine_every workers",
    "omnistream_stage2": "steps size global_size",
    "interlace_stage1": "size object motion positives negatives",
    "vlm_stage1": "preset init frozen lr weight micro_batches llm size fps max_frames pool keep log_every "
    "evaluate_every workers",
    "vlm_stage1_5": "lr trains grids batch micro_batches",
    "vlm_stage2": "",
    "vlm_stage3": "batch micro_batches",
    "vla_calvin": "preset init frozen optimizer lr clip weight rates micro_batches llm size high keep log_every "
    "evaluate_every workers",
    "vla_bridge": "micro_batches high",
}


@pytest.mark.parametrize("name", GIVEN)
def test_every_other_value_names_its_source(name: str) -> None:
    """In a comment behind it or right above it."""
    silent, above = set(), False
    for line in find_recipe(name).read_text().splitlines():
        found = re.match(r"\s+(\w+): \S", line)
        if found and not above and "#" not in line:
            silent.add(found[1])
        above = line.strip().startswith("#")
    assert silent == set(GIVEN[name].split())


#: OmniStream table 12: what trains, tiles at most beside the whole image, batch, rate, thousands of samples.
TABLE_12 = {
    "vlm_stage1": ("projector", 0, 512, 1e-3, 558),
    "vlm_stage1_5": ("projector and llm", 4, 256, 1e-5, 4000),
    "vlm_stage2": ("projector and llm", 9, 256, 1e-5, 3200),
    "vlm_stage3": ("projector and llm", 9, 128, 1e-5, 4000),
}


@pytest.mark.parametrize("name", TABLE_12)
def test_the_vlms_stages_are_table_12s(name: str, tmp_path: Path) -> None:
    recipe = unseen(name, tmp_path)
    trains, tiles, batch, rate, thousands = TABLE_12[name]
    engine, task = recipe.engine, recipe.tasks["vlm"]
    options: Any = task.options
    assert recipe.backbone.frozen
    assert (options.trains, options.size, options.max_frames, options.fps, options.pool) == (trains, 512, 32, 1.0, 2)
    assert (options.max_tiles if options.grids else 0) == tiles
    assert task.batch * task.micro_batches == batch
    assert (engine.lr, engine.optimizer, engine.weight_decay) == (rate, "adamw", 0)
    assert (engine.final_lr, engine.precision, engine.zero.stage, options.max_tokens) == (0, "bf16", 3, 32768)
    assert engine.steps == pytest.approx(1000 * thousands / batch, abs=1)
    assert engine.warmup == pytest.approx(0.03 * engine.steps, abs=1)
    grids = {
        "vlm_stage1": set(),
        "vlm_stage1_5": {(2, 2), (1, 2), (1, 3), (2, 1), (3, 1)},
    }.get(name, {(rows, columns) for rows in range(1, 7) for columns in range(1, 7)})
    assert set(options.grids) == grids
    before = {"vlm_stage1_5": "vlm_stage1", "vlm_stage2": "vlm_stage1_5", "vlm_stage3": "vlm_stage2"}.get(name)
    assert recipe.start_from == (str(tmp_path / before) if before else None)


def flat(data: Any, key: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    if not isinstance(data, dict):
        return {key: data}
    return {inner: value for name in data for inner, value in flat(data[name], f"{key}.{name}".lstrip(".")).items()}


@pytest.mark.parametrize(("name", "batch", "chunk"), [("vla_calvin", 128, 10), ("vla_bridge", 512, 4)])
def test_the_policies_are_table_13s(name: str, batch: int, chunk: int, tmp_path: Path) -> None:
    recipe = unseen(name, tmp_path)
    engine, task = recipe.engine, recipe.tasks["vla"]
    options = task.options.model_dump()
    assert (engine.optimizer, engine.lr, engine.clip, engine.precision, engine.zero.stage) == (
        "adam",
        2e-5,
        1,
        "bf16",
        2,
    )
    assert (engine.final_lr, engine.weight_decay, task.rates) == (2e-5, 0, {"projector": 1e-4})
    assert (options["gripper_weight"], options["huber_delta"], options["head_size"]) == (0.01, 1, 1024)
    samples = {"vla_calvin": 18_000 * 64, "vla_bridge": 2_135_463}[name]
    assert engine.steps == pytest.approx(5 * samples / batch, abs=5), "table 13: five epochs"
    assert engine.warmup == pytest.approx(engine.steps / 5 / 4, abs=1), "VLM4VLA: a quarter of an epoch"
    assert {"vla_calvin": (-0.65, 0.65), "vla_bridge": (-0.0287, 0.0283)}[name] == (
        options["low"][0],
        options["high"][0],
    )
    assert len(options["high"]) == 6, "the gripper is not scaled"
    assert recipe.start_from == str(tmp_path / "vlm_stage3")
    assert task.batch == 8 * 8
    assert task.batch * task.micro_batches == batch
    assert (options["size"], options["chunk"], options["context"], len(options["low"])) == (224, chunk, 1, 6)
    assert recipe.backbone.frozen


def test_a_language_model_may_be_named_as_the_hub_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it was downloaded; nothing is fetched, and a folder of that name comes first."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    home, file = tmp_path / "hub" / "models--Qwen--Tiny", find_recipe("vlm_stage1")
    (home / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)

    def llm(name: str) -> Any:
        change, known = [f"tasks.vlm.options.llm={name}"], environment(tmp_path)
        recipe = resolve(file.read_text(), SECTIONS, change, known, str(file))
        return recipe.tasks["vlm"].options.llm  # type: ignore[attr-defined]

    snapshot = str(home / "snapshots" / ("a" * 40))
    assert llm("Qwen/Tiny") == llm(f"Qwen/Tiny@{'a' * 40}") == snapshot
    assert llm("Qwen/Other") == str(tmp_path / "Qwen" / "Other")
    with pytest.raises(
        RecipeErrors, match=r"options\.llm: found .*Qwen/Other.*owner/name that `hf download owner/name`"
    ):
        read_recipe(file, ["tasks.vlm.options.llm=Qwen/Other"], SECTIONS, environment(tmp_path))
    (tmp_path / "Qwen" / "Tiny").mkdir(parents=True)
    assert llm("Qwen/Tiny") == str(tmp_path / "Qwen" / "Tiny")
    assert named(Path(snapshot)) == f"Qwen/Tiny ({'a' * 40})"
    assert named(Path("/models/llm")) == "llm"
