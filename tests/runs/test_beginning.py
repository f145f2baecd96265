"""What a recipe begins with is held against it before a run begins, and a run that is refused leaves nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import four_cases as cases
import pytest
import torch
from harness import Ranks
from safetensors.torch import load_file
from tiny_run import read
from typer.testing import CliRunner

from interlace.backbone import Backbone, save
from interlace.launchers.cli import app


@pytest.fixture(scope="module")
def before(one_rank: Ranks, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all four tasks, two steps long."""
    run = tmp_path_factory.mktemp("before") / "run"
    one_rank.run(cases.whole_run, root=str(data), run=str(run), overrides=["engine.steps=2"])
    return run


def checked(data: Path, *changes: str) -> list[str]:
    """What ``interlace check`` says is wrong, a line each."""
    said = CliRunner().invoke(app, ["check", str(data / "recipe.yaml"), *changes])
    return [] if said.exit_code == 0 else str(said.exception).splitlines()


def test_a_run_begins_with_another_ones_weights(one_rank: Ranks, data: Path, before: Path, tmp_path: Path) -> None:
    changes = [f"start_from={before}", "engine.steps=1", "engine.warmup=0", "engine.lr=1e-30"]
    assert checked(data, *changes) == []
    one_rank.run(cases.whole_run, root=str(data), run=str(tmp_path / "run"), overrides=changes)
    for file in ("backbone/model", "heads/ssl", "heads/captioning"):
        theirs, ours = (load_file(run / f"{file}.safetensors") for run in (before, tmp_path / "run"))
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(value, ours[name]) for name, value in theirs.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "tasks.captioning=null",
            r"step_00000002 holds what this recipe has not: student's tasks\.captioning\.\S+, .* more",
        ),
        ("backbone.depth=3", r"step_00000002 lacks: student's backbone\.blocks\.2\.\S+, .* and \d+ more"),
        (
            "tasks.ssl.options.dino_prototypes=32",
            r"differs in shape: .*\(\[24, 16\], here \[32, 16\]\), teacher's ssl/",
        ),
        ("tasks.clusters.options.embedding_size=24", r"differs in shape: centres clusters\.motion \(\[16, 16\], here"),
        ("tasks.ssl.options.gram=false", r"holds what this recipe has not: teacher's ssl/gram"),
        ("start_from={data}", r"^start_from: {data} holds no checkpoint to start from"),
        ("backbone.init={data}", r"backbone\.init: .*start_from brings its own backbone"),
    ],
)
def test_another_run_that_does_not_fit_is_told_by_check(data: Path, before: Path, change: str, message: str) -> None:
    said = checked(data, f"start_from={before}", change.format(data=data))
    assert len([line for line in said if re.search(message.replace("{data}", re.escape(str(data))), line)]) == 1, said


def test_weights_that_do_not_fit_are_told_by_check(data: Path, tmp_path: Path) -> None:
    save(Backbone(read(data).backbone.config), tmp_path / "backbone")
    assert checked(data, f"backbone.init={tmp_path / 'backbone'}") == []
    (said,) = checked(data, f"backbone.init={tmp_path / 'backbone'}", "backbone.depth=3")
    assert re.match(r"backbone\.init: .*depth", said)


def test_what_is_refused_leaves_an_empty_folder(one_rank: Ranks, data: Path, before: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    changes = [f"start_from={before}", "engine.steps=1", "engine.warmup=0"]
    broken = tmp_path / "broken"
    shutil.copytree(data / "held_out", broken)
    for shard in broken.glob("*.mds"):
        shard.write_bytes(shard.read_bytes().replace(b"\x89PNG", b"GNP\x89"))
    for change, message in (
        ("tasks.ssl.options.dino_prototypes=32", "[32, 16] in this student"),
        (f"tasks.captioning.held_out.held.path={broken}", "no sample of held-out source 'held' can be used"),
    ):
        said = one_rank.run(cases.refused, root=str(data), run=str(run), overrides=[*changes, change])[0]
        assert message in said
        assert [path.name for path in run.iterdir()] == []
    assert one_rank.run(cases.refused, root=str(data), run=str(run), overrides=changes) == ["nothing"]
