"""Broken samples are counted by source, named in a file, told once, and stop a run when they are too many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from interlace.data_recipes.broken import Broken
from interlace.data_recipes.feed import MicroBatch
from interlace.pretrain.broken import READS, BrokenSamples, TooManyBroken
from interlace.pretrain.ranks import join
from interlace.pretrain.run_folder import RunFolder


class Counting:
    """A feed of which 100 samples a step are drawn from "photos" and 1 from "films"."""

    def cursors(self, step: int) -> dict[str, dict[str, int]]:
        return {"photos": {"drawn": 100 * step}, "films": {"drawn": step}}


pytestmark = pytest.mark.usefixtures("alone")


def record(root: Path, limit: float = 0.05, said: list[str] | None = None, start: int = 0) -> BrokenSamples:
    feeds: Any = {"ssl": Counting(), "geometry": Counting()}
    found = BrokenSamples(RunFolder(root), feeds, limit, join(), ([] if said is None else said).append)
    found.begin(start)
    return found


def met(source: str, *draws: int, task: str = "ssl", index: int = 0) -> MicroBatch:
    broken = [Broken(source, f"k{draw}", draw, "it is torn", draw) for draw in draws]
    return MicroBatch(task, index, {}, [], broken)


def lines(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "broken.jsonl").read_text().splitlines()]


def test_a_line_each_and_a_count_by_source(tmp_path: Path) -> None:
    counted = record(tmp_path)
    assert counted.counts() == {}
    counted.step(1, [met("photos", 5, 9), met("films", 3, task="geometry"), met("films", 11)])
    counted.step(4, [met("photos", 400)])
    assert counted.counts() == {"broken/geometry/films": 1, "broken/ssl/films": 1, "broken/ssl/photos": 3}
    assert [(line["step"], line["task"], line["source"], line["draw"]) for line in lines(tmp_path)] == [
        (1, "ssl", "photos", 5),
        (1, "ssl", "photos", 9),
        (1, "geometry", "films", 3),
        (1, "ssl", "films", 11),
        (4, "ssl", "photos", 400),
    ]
    wanted = {"step": 1, "use": "training", "task": "ssl", "source": "photos", "draw": 5}
    assert lines(tmp_path)[0] == {**wanted, "key": "k5", "index": 5, "reason": "it is torn"}


def test_each_source_is_told_once(tmp_path: Path) -> None:
    said: list[str] = []
    counted = record(tmp_path, said=said)
    counted.step(1, [met("photos", 5, 9)])
    counted.step(2, [met("photos", 12), met("films", 2)])
    assert said == [
        f"ssl: sample photos/k5 is broken and replaced by another (it is torn); {tmp_path}/broken.jsonl names all such "
        "samples",
        f"ssl: sample films/k2 is broken and replaced by another (it is torn); {tmp_path}/broken.jsonl names all such "
        "samples",
    ]


def test_the_first_ten_pass_and_then_one_in_twenty(tmp_path: Path) -> None:
    counted = record(tmp_path)
    counted.step(1, [met("films", *range(10))])  # 10 of 11 reads, which count as 200
    with pytest.raises(TooManyBroken) as caught:
        counted.step(2, [met("films", 10)])
    assert str(caught.value) == (
        "source 'films' of task 'ssl': 11 of 13 samples that were read are broken, more than engine.max_broken = 0.05 "
        f"lets pass; the last: it is torn. {tmp_path}/broken.jsonl names them all; mend or remove the source, or raise "
        "engine.max_broken, and go on with --resume"
    )
    assert len(lines(tmp_path)) == 11  # the last one too


@pytest.mark.parametrize(("broken", "stops"), [(52, False), (53, True)])
def test_a_share_is_of_all_reads(tmp_path: Path, broken: int, stops: bool) -> None:
    counted = record(tmp_path)
    micros = [met("photos", *range(broken))]  # 1000 were drawn; 5% of 1052 is 52.6
    if stops:
        with pytest.raises(TooManyBroken, match="53 of 1053 samples"):
            counted.step(10, micros)
    else:
        counted.step(10, micros)


@pytest.mark.parametrize(("limit", "passes"), [(0.0, 0), (0.5, READS // 2), (1.0, 10_000)])
def test_the_limit_is_the_recipes(tmp_path: Path, limit: float, passes: int) -> None:
    counted = record(tmp_path, limit)
    if passes:
        counted.step(1, [met("films", *range(passes))])
    if limit < 1:
        with pytest.raises(TooManyBroken, match=f"max_broken = {limit:g} "):
            counted.step(1, [met("films", passes)])


def test_tasks_do_not_add_up(tmp_path: Path) -> None:
    counted = record(tmp_path)
    counted.step(1, [met("films", *range(10)), met("films", *range(10), task="geometry")])


def test_a_resumed_run_forgets_the_steps_that_it_takes_again(tmp_path: Path) -> None:
    first = record(tmp_path)
    first.beside("held_out", "ssl", [Broken("rooms", "r", 4, "torn")], 0)
    first.step(1, [met("photos", 5)])
    first.step(2, [met("photos", 120, 121)])
    first.step(3, [met("photos", 250)])
    with (tmp_path / "broken.jsonl").open("a") as file:
        file.write('{"step": 3, "use"')  # cut by a crash
    said: list[str] = []
    again = record(tmp_path, said=said, start=2)
    assert again.counts() == {"broken/ssl/photos": 3}
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2, 2]
    again.beside("held_out", "ssl", [Broken("rooms", "r", 4, "torn"), Broken("rooms", "s", 5, "torn")], 2)
    assert [(line["step"], line["key"]) for line in lines(tmp_path) if line["use"] == "held_out"] == [
        (0, "r"),
        (2, "s"),
    ]
    assert said == [
        "ssl: sample rooms/s is broken and left out of all measures (torn); "
        f"{tmp_path}/broken.jsonl names all such samples"
    ]
    assert again.counts() == {"broken/ssl/photos": 3}  # those that were not trained on bound nothing


def test_a_run_without_broken_samples_has_no_file(tmp_path: Path) -> None:
    record(tmp_path).beside("held_out", "ssl", [], 0)
    assert not (tmp_path / "broken.jsonl").exists()
