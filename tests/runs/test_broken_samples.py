"""Broken samples cost themselves: a run goes on, says what it lost, and loses the same on other ranks and resumed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import four_cases as cases
import numpy as np
import pytest
from harness import CaseFailed, Ranks
from tiny_run import sample

from interlace.data_recipes.media import encode_image

#: Of 24 training samples: one whose picture does not decode, one whose path is not a number. Of 6 held-out ones: one.
UNDECODABLE, NOWHERE, HELD_OUT = 3, 11, 102
TWO_TASKS = ["tasks.captioning=null", "tasks.clusters=null", "engine.cosine_every=0"]


def damage(folder: Path, number: int, *, pose: bool) -> None:
    """Write what the program itself would refuse to write over what it wrote."""
    whole = sample(number)
    old = whole.c2w.tobytes() if pose else encode_image(whole.frames[0], "png")
    new = np.full_like(whole.c2w, np.nan).tobytes() if pose else old[:60] + bytes(len(old) - 60)
    (shard,) = (shard for shard in folder.glob("*.mds") if old in shard.read_bytes())
    shard.write_bytes(shard.read_bytes().replace(old, new))


@pytest.fixture(scope="module")
def broken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that train and measure on copies that are not whole."""
    root = tmp_path_factory.mktemp("broken")
    for split in ("train", "held_out"):
        shutil.copytree(data / split, root / split)
    damage(root / "train", UNDECODABLE, pose=False)
    damage(root / "train", NOWHERE, pose=True)
    damage(root / "held_out", HELD_OUT, pose=True)
    paths = [f"tasks.{task}.sources.tiny.path={root / 'train'}" for task in ("ssl", "geometry")]
    paths += [f"tasks.{task}.held_out.held.path={root / 'held_out'}" for task in ("ssl", "geometry")]
    return [*TWO_TASKS, *paths]


def lines(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(two_ranks: Ranks, data: Path, broken: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    two_ranks.run(cases.whole_run, root=str(data), run=str(run), overrides=broken)
    return run


def test_each_is_a_line(whole: Path) -> None:
    found = lines(whole, "broken.jsonl")
    training = [line for line in found if line["use"] == "training"]
    assert {(line["task"], line["key"]) for line in training} == {
        ("ssl", f"scene-{UNDECODABLE:03d}/0"),
        ("geometry", f"scene-{UNDECODABLE:03d}/0"),
        ("geometry", f"scene-{NOWHERE:03d}/0"),  # to ssl it is a sample like any other
    }
    assert all(1 <= line["step"] <= 6 and line["source"] == "tiny" for line in training)
    reasons = {line["key"]: line["reason"] for line in training}
    assert "frame 0: broken image" in reasons[f"scene-{UNDECODABLE:03d}/0"]
    assert "a camera is not finite" in reasons[f"scene-{NOWHERE:03d}/0"]
    beside = [{key: line[key] for key in ("use", "task", "source", "key")} for line in found if not line["step"]]
    held_out = {"use": "held_out", "task": "geometry", "source": "held", "key": f"scene-{HELD_OUT}/0"}
    assert [line for line in beside if line["use"] == "held_out"] == [held_out]
    assert {line["use"] for line in beside} <= {"held_out", "blind"}


def test_they_are_counted_by_source(whole: Path) -> None:
    training = [line for line in lines(whole, "broken.jsonl") if line["use"] == "training"]
    rows = lines(whole, "metrics.jsonl")
    for row in rows:
        for task in ("ssl", "geometry"):
            so_far = sum(line["task"] == task and line["step"] <= row["step"] for line in training)
            assert row.get(f"broken/{task}/tiny", 0) == so_far
    assert rows[-1]["broken/geometry/tiny"] >= 2


def test_held_out_measures_say_n_of_how_many(whole: Path) -> None:
    rows = lines(whole, "eval.jsonl")
    assert {(row["n"], row["of"]) for row in rows if row["task"] == "geometry"} == {(5, 6)}
    assert {row["of"] - row["n"] for row in rows if row["task"] == "ssl"} == {0}


def test_one_rank_loses_and_learns_the_same(
    one_rank: Ranks, data: Path, broken: list[str], whole: Path, tmp_path: Path
) -> None:
    found = one_rank.run(cases.whole_run, root=str(data), run=str(tmp_path / "run"), overrides=broken)[0]
    assert (tmp_path / "run" / "broken.jsonl").read_text() == (whole / "broken.jsonl").read_text()
    for ours, theirs in zip(found["rows"], lines(whole, "metrics.jsonl"), strict=True):
        wanted = {name: value for name, value in theirs.items() if name.startswith(("loss/", "broken/"))}
        assert {name: ours[name] for name in wanted} == pytest.approx(wanted, abs=1e-4)


@pytest.mark.slow
def test_a_resumed_run_counts_on(two_ranks: Ranks, data: Path, broken: list[str], whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "cut"
    with pytest.raises(CaseFailed, match=r"died with status|Connection (reset|closed) by peer"):
        two_ranks.run(cases.whole_run, root=str(data), run=str(run), overrides=broken, kill_after=3)
    two_ranks.run(cases.whole_run, root=str(data), run=str(run), overrides=broken)
    assert (run / "broken.jsonl").read_text() == (whole / "broken.jsonl").read_text()
    counts = [[row.get(f"broken/{task}/tiny") for task in ("ssl", "geometry")] for row in lines(run, "metrics.jsonl")]
    assert counts == [
        [row.get(f"broken/{task}/tiny") for task in ("ssl", "geometry")] for row in lines(whole, "metrics.jsonl")
    ]


def test_too_many_stop_every_rank_with_one_line(
    two_ranks: Ranks, data: Path, broken: list[str], tmp_path: Path
) -> None:
    overrides = [*broken, "engine.max_broken=0"]
    found = two_ranks.run(cases.refused, root=str(data), run=str(tmp_path / "run"), overrides=overrides)
    assert len(set(found)) == 1
    assert re.match(
        r"source 'tiny' of task '(ssl|geometry)': 1 of \d+ samples that were read are broken, more than "
        r"engine.max_broken = 0 lets pass; the last: source 'tiny' .*broken.jsonl names them all; mend or remove the "
        "source, or raise engine.max_broken, and go on with --resume$",
        found[0],
    )
