"""The demo, at a fifth of its steps: what README promises, through the commands it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_recipe import interlace

from interlace.pretrain.train import recipe_from

#: Measures that a fifth of the steps already moves, whatever the seed.
MOVED = {
    ("geometry", "abs_rel"),
    ("geometry", "delta_1.25"),
    ("captioning", "token_ce"),
    ("clusters", "recall_object"),
    ("clusters", "recall_motion"),
}


def total(row: dict[str, float], task: str) -> float:
    """The sum of a task's loss terms in a row of metrics."""
    return sum(value for name, value in row.items() if name.startswith(f"loss/{task}/"))


@pytest.mark.slow
def test_a_fifth_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run = str(tmp_path / "data"), tmp_path / "run"
    prepared = interlace("prepare", "demo", cwd=tmp_path, seconds=900, INTERLACE_DATA=data)
    assert prepared.returncode == 0, prepared.stderr
    assert "input made" in prepared.stdout
    assert "input ready" in interlace("prepare", "demo", cwd=tmp_path, INTERLACE_DATA=data).stdout

    monkeypatch.setenv("INTERLACE_DATA", data)
    steps = recipe_from("demo").engine.steps // 5
    changes = (f"engine.steps={steps}", f"engine.warmup={steps // 5}", "engine.log_every=5", "engine.blind_samples=200")
    done = interlace("pretrain", "demo", *changes, "--run", run, cwd=tmp_path, seconds=1800, INTERLACE_DATA=data)
    assert done.returncode == 0, done.stderr
    reported = interlace("report", run, cwd=tmp_path, INTERLACE_DATA=data)
    assert reported.returncode == 0, reported.stderr

    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    # Not of ssl: its targets are its teacher's, which grows surer as it learns.
    for task in ("geometry", "captioning", "clusters"):
        assert total(losses[-1], task) < total(losses[0], task), task
    rows = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    values = {(row["task"], row["measure"], row["step"]): row for row in rows}
    for task, name in MOVED:
        start, end = values[task, name, 0], values[task, name, steps]
        gain = end["value"] - start["value"]
        assert (gain if end["better"] == "higher" else -gain) > 0, (task, name)
    page = (run / "report.html").read_text()
    assert "motorcycle" in page
    assert "clips_held_out" in page
