"""Samples outside training: whole, accepted by the task, and those that are not, named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from interlace.data_recipes import DataError, Sample
from interlace.data_recipes.feed import Feed
from interlace.data_recipes.prepare_folder import prepare_folder
from interlace.data_recipes.sources import open_source
from interlace.pretrain.feeds import held_out_samples, pictured_samples, training_samples
from interlace.tasks.interface import Task

PHOTOS = 8


class Choosy:
    """Refuses dark photographs."""

    name = "choosy"
    check_held_out: Any = Task.check_held_out
    needs = frozenset({"frames"})

    def __init__(self, darkest: int = 0) -> None:
        self.darkest, self.asked = darkest, 0

    def accept(self, sample: Sample) -> None:
        self.asked += 1
        if sample.frames.mean() < self.darkest:
            raise DataError(f"sample {sample.key!r}: too dark")

    def frame_indices(self, times: np.ndarray, rng: np.random.Generator) -> None:
        return None


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    (root / "files").mkdir()
    for number in range(PHOTOS):
        Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(root / "files" / f"{number}.png")
    prepare_folder(root / "files", root / "shards")
    return root / "shards"


def levels(samples: Any) -> list[int]:
    return [round(float(sample.frames.mean()) / 20) for sample in samples]


def row(path: Path, name: str = "mine") -> Any:
    return SimpleNamespace(name=name, format="mds", path=str(path))


def held_out(photos: Path, *tasks: Any) -> list[Any]:
    """Of each task its one source of held-out photographs."""
    parts = {str(number): SimpleNamespace(held_out=[row(photos)]) for number in range(len(tasks))}
    by_name: Any = {str(number): task for number, task in enumerate(tasks)}
    read = held_out_samples(SimpleNamespace(tasks=parts), by_name)  # type: ignore[arg-type]
    return [found for each in read.values() for found in each]


def test_held_out_samples_are_those_that_the_task_accepts(photos: Path) -> None:
    task: Any = Choosy(50)
    (found,) = held_out(photos, task)
    assert sorted(levels(found.samples)) == [3, 4, 5, 6, 7]
    assert {(each.source, each.draw) for each in found.broken} == {("mine", None)}
    assert sorted(each.key for each in found.broken) == ["0.png", "1.png", "2.png"]
    assert all("too dark" in each.reason for each in found.broken)


def test_a_held_out_source_of_which_nothing_can_be_used(photos: Path) -> None:
    task: Any = Choosy(500)
    with pytest.raises(DataError, match=r"no sample of held-out source 'mine' can be used: sample '\d.png': too dark"):
        held_out(photos, task)


def test_what_cannot_be_measured_on_is_told_at_once(photos: Path) -> None:
    with pytest.raises(DataError) as told:
        held_out(photos, Choosy(500), Choosy(50), Choosy(130))
    nothing, alone = str(told.value).split("\n")
    assert nothing.startswith("no sample of held-out source 'mine' can be used")
    assert alone == (
        "choosy: '7.png' is the one held-out sample that can be used; measuring needs two, to swap their frames"
    )


def test_pictures_are_of_accepted_samples(photos: Path) -> None:
    task: Any = Choosy(50)
    measured = held_out(photos, task)
    drawn = pictured_samples(measured, [], task, 3)
    assert levels(drawn.samples) == [levels(measured[0].samples)[at] for at in (0, 2, 4)]
    both = pictured_samples(measured, [row(photos, "more")], task, 2 * PHOTOS)
    assert len(both.samples) == 2 * 5
    assert {each.source for each in both.broken} == {"more"}  # the others are told as held-out samples
    task.needs = frozenset({"frames", "depth"})  # what lacks depth is only drawn, so that it need not be accepted
    assert len(pictured_samples(measured, [row(photos, "more")], task, 2 * PHOTOS).samples) == 5 + PHOTOS


def test_blind_guesses_are_fitted_on_accepted_samples_read_once_in_a_row(photos: Path) -> None:
    task: Any = Choosy(50)
    source = open_source("mine", "mds", photos)
    feed = Feed("t", task, {"mine": source}, {"mine": 1.0}, batch=2, micro_batches=1, seed=0)
    samples = training_samples(feed, task, 100)
    assert len(samples) == PHOTOS
    task.asked = 0
    first = samples[0]
    assert task.asked == 1 + len(samples.broken)
    assert samples[0] is first
    assert task.asked == 1 + len(samples.broken)
    assert min(levels(samples)) == 3
    assert sorted({each.key for each in samples.broken}) == ["0.png", "1.png", "2.png"]
    assert len(list(samples)) == PHOTOS
    assert len(samples.broken) == len({(each.draw, each.index) for each in samples.broken})  # each once
