"""Numbers that are not finite stop every rank before the step, and can be seen again."""

from __future__ import annotations

import math
import re
from pathlib import Path

import four_cases as cases
import pytest
from harness import Ranks
from tiny_run import POISONED


@pytest.mark.parametrize("stage", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_nan_on_one_rank_stops_all_and_is_replayed(
    two_ranks: Ranks, one_rank: Ranks, data: Path, tmp_path: Path, stage: int
) -> None:
    overrides = [f"tasks.geometry.sources.tiny.path={data / 'poisoned'}", f"engine.zero.stage={stage}"]
    found = two_ranks.run(cases.poisoned, root=str(data), run=str(tmp_path / "run"), overrides=overrides)
    said = {each["said"] for each in found}
    assert len(said) == 1
    (message,) = said
    assert re.match(r"step \d stopped before the update: geometry/\w+ = (nan|inf)", message)
    assert "weights unchanged on every rank" in message
    assert f"tiny/scene-{POISONED:03d}/0" in message
    assert [each["changed"] for each in found] == [[], []]
    (file,) = (tmp_path / "run").glob("replay_*.pt")
    assert str(file) in message
    (again,) = one_rank.run(cases.replayed, file=str(file))
    bad = {name for name, value in again.items() if not math.isfinite(value)}
    assert {name for name in bad if name.startswith("geometry/")}
    assert not {name for name in bad if name.startswith(("ssl/", "captioning/", "clusters/"))}
