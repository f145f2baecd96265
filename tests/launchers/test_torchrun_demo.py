"""The demo's recipe under torchrun, two processes and ZeRO-2, beside the same recipe in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from interlace.data_recipes.worlds.demo import DemoSettings, prepare_demo
from interlace.data_recipes.worlds.render import RAYS

#: A demo's input in seconds: everything the recipe names, little of each.
SMALL = DemoSettings(
    train_rooms=6,
    train_scenes=2,
    held_out_rooms=8,
    photograph_crops=1,
    clip_crops=1,
    object_centres=32,
    motion_centres=12,
)
STEPS = 4
CHANGES = [
    f"engine.steps={STEPS}",
    "engine.warmup=2",
    "engine.log_every=1",
    f"engine.evaluate_every={STEPS}",
    "engine.blind_samples=12",
    "tasks.captioning.options.blind={steps: 4, batch: 8, check_every: 2}",
    f"tasks.clusters.options.banks.object.rows={SMALL.object_centres}",
    f"tasks.clusters.options.banks.motion.rows={SMALL.motion_centres}",
]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
#: The first step's losses are sums in another order. From then on Adam's first updates, which are signs of gradients,
#: carry differences of rounding on.
FIRST, LATER = 1e-5, 5e-3


def train(launcher: list[str], separator: list[str], run: Path, data: Path, *changes: str) -> None:
    command = [sys.executable, *launcher, "-m", "interlace.launchers", *separator, "pretrain", "demo", *changes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "INTERLACE_DATA": str(data)}
    done = subprocess.run(
        [*command, *CHANGES, "--run", str(run)], env=environment, capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stderr[-3000:]


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_end_where_one_ends(tmp_path: Path) -> None:
    data, one, two = tmp_path / "data", tmp_path / "one", tmp_path / "two"
    prepare_demo(data / "demo", settings=SMALL, backend=RAYS, workers=1, say=lambda line: None)
    train([], [], one, data)
    train(TORCHRUN, ["--"], two, data, "engine.zero.stage=2")

    alone, together = rows(one / "metrics.jsonl"), rows(two / "metrics.jsonl")
    assert [row["step"] for row in together] == [row["step"] for row in alone] == list(range(1, STEPS + 1))
    for step, (ours, theirs) in enumerate(zip(together, alone, strict=True)):
        losses = {name: value for name, value in theirs.items() if name.startswith("loss/")}
        assert {name.split("/")[1] for name in losses} == {"ssl", "geometry", "captioning", "clusters"}
        tolerance = LATER if step else FIRST
        assert {name: ours[name] for name in losses} == pytest.approx(losses, rel=tolerance, abs=tolerance), step
    alone, together = rows(one / "eval.jsonl"), rows(two / "eval.jsonl")
    places = [[[row[key] for key in ("step", "task", "measure", "n")] for row in each] for each in (alone, together)]
    assert places[0] == places[1]
    assert {row["step"] for row in alone} == {0, STEPS}
    for ours, theirs in zip(together, alone, strict=True):
        # a vote of nearest neighbours or a written word may turn on rounding: one sample's worth
        close = FIRST if theirs["step"] == 0 else max(LATER, 1.01 / theirs["n"])
        for key in ("value", "blind"):
            assert ours[key] == pytest.approx(theirs[key], rel=close, abs=close), (theirs["step"], theirs["measure"])
