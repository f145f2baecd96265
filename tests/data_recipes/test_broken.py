"""A broken sample costs itself: another of its source takes its place, whoever loads, and what was lost is named."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shard_samples import make_sample, write_samples

from interlace.data_recipes import DataError, Sample, ShardReader
from interlace.data_recipes.broken import Broken, read_samples
from interlace.data_recipes.feed import SUBSTITUTES, Feed
from interlace.data_recipes.loader import Loader, MicroBatch

SAMPLES = 12
PLAN = [("ssl", 0), ("ssl", 1)]


class Picky:
    """A task that tells what it was given, and refuses some samples by their numbers, or fails at them."""

    needs = frozenset({"frames"})

    def __init__(self, refused: Sequence[int] = (), bugs: Sequence[int] = (), blunder: bool = False) -> None:
        self.refused, self.bugs, self.blunder = refused, bugs, blunder

    def frame_indices(self, times: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        if self.blunder:
            return np.array([len(times)])
        return np.sort(rng.choice(len(times), 2, replace=False))

    def item(self, sample: Sample, rng: np.random.Generator) -> Any:
        number = int(sample.key.split("/")[1])
        if number in self.refused:
            raise DataError(f"sample {sample.key!r}: its poses\nare not finite")
        if number in self.bugs:
            raise TypeError("a bug in the task")
        return torch.tensor([number, *sample.frames[:, 0, 0, 0].tolist(), rng.random()], dtype=torch.float64)

    def collate(self, items: Sequence[Any]) -> dict[str, Any]:
        return {"rows": torch.stack(list(items))}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("rooms") / "rooms", [make_sample(n) for n in range(SAMPLES)])


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Rooms of which the first sample of each shard has a broken picture."""
    folder = write_samples(tmp_path / "rooms", [make_sample(n) for n in range(SAMPLES)], ("frames",), shard_bytes=2000)
    for shard in folder.glob("*.mds"):
        data = shard.read_bytes()
        place = data.index(b"IDAT")
        shard.write_bytes(data[: place + 8] + bytes(8) + data[place + 16 :])
    return folder


def make_feed(folder: Path, task: Picky | None = None, **options: Any) -> Feed:
    settings: dict[str, Any] = {"weights": {"rooms": 1.0}, "batch": 7, "micro_batches": 2, "seed": 5}
    return Feed("ssl", task or Picky(), {"rooms": ShardReader(folder, "rooms")}, **settings | options)


def loaded(feed: Feed, **options: Any) -> list[list[MicroBatch]]:
    with Loader({"ssl": feed}, PLAN, **{"stop_step": 4} | options) as loader:
        return list(loader)


def numbers(micros: Sequence[MicroBatch]) -> list[int]:
    return [int(row[0]) for micro in micros for row in micro.batch["rows"]]


def test_a_broken_sample_is_replaced_and_no_other_changes(rooms: Path) -> None:
    whole, holed = loaded(make_feed(rooms)), loaded(make_feed(rooms, Picky(refused=[3, 8])))
    replaced = 0
    for one, other in zip(itertools.chain(*whole), itertools.chain(*holed), strict=True):
        for was, now in zip(one.batch["rows"], other.batch["rows"], strict=True):
            if int(was[0]) in (3, 8):
                assert int(now[0]) not in (3, 8)
                replaced += 1
            else:
                assert torch.equal(was, now)
    assert replaced >= 4
    assert all(not micro.broken for micro in itertools.chain(*whole))


def test_what_was_lost_is_named(rooms: Path) -> None:
    steps = loaded(make_feed(rooms, Picky(refused=[3, 8])))
    whole = loaded(make_feed(rooms))
    found = [each for micro in itertools.chain(*steps) for each in micro.broken]
    draws = dict(enumerate(numbers(list(itertools.chain(*whole)))))
    met = {each.draw: each for each in reversed(found)}  # of a draw the first that it met
    assert {draw for draw, number in draws.items() if number in (3, 8)} == set(met)
    for draw, each in met.items():
        index = draws[draw]
        reason = f"sample 'rooms/{index:06d}': its poses are not finite"
        assert each == Broken("rooms", f"rooms/{index:06d}", index, reason, draw)


def test_substitutes_are_spread_over_the_source(rooms: Path) -> None:
    feed = make_feed(rooms, Picky(refused=[3]))
    drawn = [feed.item(n) for n in range(40 * SAMPLES)]
    instead = [int(item[0]) for (_, item), broken in drawn if broken]
    assert len(instead) == 40
    assert len(set(instead)) >= 9
    assert len({float(item[-1]) for (_, item), _ in drawn}) == len(drawn)  # each with random numbers of its own


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 2}], ids=str)
def test_workers_change_nothing(damaged: Path, options: dict[str, int]) -> None:
    here, there = loaded(make_feed(damaged)), loaded(make_feed(damaged), **options)
    lost = 0
    for one, other in zip(itertools.chain(*here), itertools.chain(*there), strict=True):
        assert (one.keys, one.broken) == (other.keys, other.broken)
        assert torch.equal(one.batch["rows"], other.batch["rows"])
        lost += len(one.broken)
    assert lost > 4


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_parts_are_the_whole_batch(damaged: Path, world: int) -> None:
    whole = loaded(make_feed(damaged))
    parts = [loaded(make_feed(damaged), rank=rank, world=world) for rank in range(world)]
    for step, micros in enumerate(whole):
        for place, micro in enumerate(micros):
            mine = [parts[rank][step][place] for rank in range(world)]
            assert [key for part in mine for key in part.keys] == micro.keys
            assert [each for part in mine for each in part.broken] == micro.broken
            assert torch.equal(torch.cat([part.batch["rows"] for part in mine]), micro.batch["rows"])


def test_starting_later_goes_on(damaged: Path) -> None:
    whole, later = loaded(make_feed(damaged)), loaded(make_feed(damaged), start_step=2)
    for one, other in zip(itertools.chain(*whole[2:]), itertools.chain(*later), strict=True):
        assert (one.keys, one.broken) == (other.keys, other.broken)
        assert torch.equal(one.batch["rows"], other.batch["rows"])


def test_a_damaged_picture_is_named_by_key_and_place(damaged: Path) -> None:
    found = {each.key: each for micro in itertools.chain(*loaded(make_feed(damaged))) for each in micro.broken}
    assert found
    for key, each in found.items():
        assert f"sample {key!r}, frame 0: broken image" in each.reason
        assert "\n" not in each.reason
        with pytest.raises(DataError, match="broken image"):
            ShardReader(damaged).read(each.index)


def test_a_sample_whose_key_is_unreadable_has_its_number(rooms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(reader: ShardReader, index: int) -> str:
        raise DataError("the shard is cut short")

    monkeypatch.setattr(ShardReader, "key", cut)
    found = [each for micro in itertools.chain(*loaded(make_feed(rooms, Picky(refused=[3])))) for each in micro.broken]
    assert {each.key for each in found} == {"#3"}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_of_nothing_else_stops_at_once(rooms: Path, workers: int) -> None:
    with pytest.raises(DataError) as caught:
        loaded(make_feed(rooms, Picky(refused=range(SAMPLES))), workers=workers)
    message = str(caught.value)
    assert message.startswith("task 'ssl', draw 0: sample 'rooms/0000")
    assert message.endswith("its poses are not finite; and none of 11 other samples of source 'rooms' can be used")


def test_a_source_of_one_broken_sample(tmp_path: Path) -> None:
    folder = write_samples(tmp_path / "one", [make_sample(0)])
    with pytest.raises(DataError, match="its poses are not finite; and no other samples of source 'rooms' can be used"):
        make_feed(folder, Picky(refused=[0])).item(0)


def test_so_many_substitutes_and_no_more(tmp_path: Path) -> None:
    folder = write_samples(tmp_path / "many", [make_sample(n, height=4, width=4) for n in range(3 * SUBSTITUTES)])
    feed = make_feed(folder, Picky(refused=range(1, 3 * SUBSTITUTES)))
    given_up = []
    for n in range(40):
        try:
            (key, _), broken = feed.item(n)
        except DataError as error:
            given_up.append(str(error))
        else:
            assert key == "rooms/rooms/000000"
            assert len(broken) <= SUBSTITUTES
            assert len({each.index for each in broken}) == len(broken)  # none is tried twice
    assert 5 < len(given_up) < 35  # of 47 others 16 are tried
    assert all(f"none of {SUBSTITUTES} other samples" in said for said in given_up)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_is_no_broken_sample(rooms: Path, workers: int) -> None:
    with pytest.raises(TypeError) as caught:
        loaded(make_feed(rooms, Picky(refused=[3], bugs=[4])), workers=workers)
    text = "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "a bug in the task" in text
    assert "source 'rooms', key 'rooms/000004'" in text


def test_frames_that_a_clip_does_not_have_are_the_tasks_mistake(rooms: Path) -> None:
    with pytest.raises(IndexError, match=r"frames \[3\] asked for; they must ascend within its 3"):
        make_feed(rooms, Picky(blunder=True)).item(0)


def test_a_task_that_fails_while_choosing_frames_is_not_taken_for_damage(rooms: Path) -> None:
    task = Picky()
    task.frame_indices = lambda times, rng: times["a"]  # type: ignore[method-assign]
    with pytest.raises(IndexError, match="only integers"):
        make_feed(rooms, task).item(0)


def test_blind_guesses_get_substitutes_too(rooms: Path) -> None:
    feed = make_feed(rooms)

    def accept(sample: Sample) -> None:
        if sample.key == "rooms/000003":
            raise DataError("not this one")

    found = [feed.sample(n, accept) for n in range(2 * SAMPLES)]
    assert [sample.key for sample, _ in found].count("rooms/000003") == 0
    lost = [each for _, broken in found for each in broken]
    assert {(each.key, each.reason) for each in lost} == {("rooms/000003", "not this one")}
    plain = [feed.sample(n)[0].key for n in range(2 * SAMPLES)]
    same = [key == sample.key for key, (sample, _) in zip(plain, found, strict=True)]
    assert same.count(False) == plain.count("rooms/000003") == 2


def test_outside_training_broken_samples_stand_apart(damaged: Path) -> None:
    reader = ShardReader(damaged, "rooms")
    found = read_samples(reader, "mine")
    assert len(found.samples) + len(found.broken) == SAMPLES
    assert found.broken
    for each in found.broken:
        assert (each.source, each.key, each.draw) == ("mine", f"rooms/{each.index:06d}", None)
    assert [sample.key for sample in read_samples(reader, "mine", [1, 2]).samples] == [
        sample.key for sample in found.samples if sample.key in ("rooms/000001", "rooms/000002")
    ]
    assert not read_samples(reader, "mine", fields=()).broken  # no picture of it was asked for


def test_what_is_refused_stands_apart_and_bugs_go_through(rooms: Path) -> None:
    def accept(sample: Sample) -> None:
        if sample.key == "rooms/000003":
            raise DataError("its depth does not fit")
        if sample.key == "rooms/000007":
            raise TypeError("a bug")

    reader = ShardReader(rooms, "rooms")
    (broken,) = read_samples(reader, "rooms", range(6), accept=accept).broken
    assert (broken.key, broken.index, broken.reason) == ("rooms/000003", 3, "its depth does not fit")
    with pytest.raises(TypeError, match="a bug"):
        read_samples(reader, "rooms", accept=accept)
