"""When held-out samples are measured, and what the log calls the time of training."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from interlace.pretrain import watch as module
from interlace.pretrain.ranks import join
from interlace.pretrain.run_folder import RunFolder, append
from interlace.pretrain.step import Clock, Outcome
from interlace.pretrain.watch import Watch

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the pictures that were drawn."""
    labels: list[str] = []
    row = {"task": "ssl", "measure": "knn", "value": 1.0, "blind": 0.5}
    monkeypatch.setattr(module, "evaluate", lambda backbone, held_out, step: [{"step": step, **row}])
    monkeypatch.setattr(module, "pictures", lambda backbone, held_out, folder, label: labels.append(label))
    return labels


class Engine:
    @contextmanager
    def full_parameters(self) -> Iterator[Any]:
        yield SimpleNamespace(backbone=None)


def watch(root: Path) -> Watch:
    parts: Any = SimpleNamespace(engine=Engine(), cosine=SimpleNamespace(cosines=dict))
    broken: Any = SimpleNamespace(counts=dict)
    return Watch(RunFolder(root), parts, {}, {}, {"ssl": 4}, broken, join())


def measured(root: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (root / "eval.jsonl").read_text().splitlines()]


def test_a_run_that_begins_again_is_measured_once(tmp_path: Path, drawn: list[str]) -> None:
    append(tmp_path / "eval.jsonl", [{"step": 0, "value": 1.0}])
    watch(tmp_path).begin(0, every=4, last=10)
    assert (measured(tmp_path), drawn) == ([0], ["start"])


def test_a_run_cut_after_its_last_checkpoint_is_measured_at_its_end(tmp_path: Path, drawn: list[str]) -> None:
    append(tmp_path / "eval.jsonl", [{"step": 0}, {"step": 4}, {"step": 8}])
    watch(tmp_path).begin(10, every=4, last=10)
    assert (measured(tmp_path), drawn) == ([0, 4, 8, 10], ["end"])
    watch(tmp_path).begin(10, every=4, last=10)
    assert (measured(tmp_path), drawn) == ([0, 4, 8, 10], ["end"])


def test_saving_and_measuring_are_no_part_of_the_throughput(tmp_path: Path) -> None:
    found = watch(tmp_path)
    found.begin(1, every=4, last=10)
    with found.aside():
        time.sleep(0.5)
    time.sleep(0.05)
    found.step(2, Outcome(seconds={"ssl": 0.05, "step": 0.0}), 0.0, rate=0.1, log=True)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert 0.05 <= row["seconds_per_step"] < 0.5
    assert row["samples_per_second"] == pytest.approx(4 / row["seconds_per_step"])


def test_curves_of_a_resumed_run_have_each_step_once(tmp_path: Path, drawn: list[str]) -> None:
    """It was cut after its fifth step, and goes on from a checkpoint of the third."""
    for start, rate in ((0, 1.0), (3, 2.0)):
        found = watch(tmp_path)
        found.begin(start, every=100, last=100)
        for done in range(start + 1, 6):
            found.step(done, Outcome(seconds={"ssl": 0.1}), 0.0, rate=rate, log=True)
        found.close()
    curves = EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    assert [(each.step, each.value) for each in curves.Scalars("rate")] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["rate"]) for row in rows] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]


def test_a_gpus_time_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told its work in no time, and passes the marks when it has done it."""
    passes = iter([1.0, 1.5, 4.5])

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = next(passes)

        def elapsed_time(self, other: Any) -> float:  # milliseconds
            return (other.at - self.at) * 1000

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = Clock(torch.device("cuda"))
    clock.mark()
    clock.mark()
    assert clock.seconds() == [0.5, 3.0]
