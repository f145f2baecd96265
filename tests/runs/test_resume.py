"""A run that was cut goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import four_cases as cases
import numpy as np
import pytest
from harness import CaseFailed, Ranks


def same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a["tensors"].keys() == b["tensors"].keys()
    different = [name for name in a["tensors"] if not np.array_equal(a["tensors"][name], b["tensors"][name])]
    assert not different
    assert a["state"]["cursors"] == b["state"]["cursors"]


@pytest.mark.parametrize(
    "stage", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 3]
)
def test_killed_and_resumed_equals_undisturbed_bit_for_bit(
    two_ranks: Ranks, data: Path, tmp_path: Path, stage: int
) -> None:
    overrides = [f"engine.zero.stage={stage}"]
    whole = two_ranks.run(cases.whole_run, root=str(data), run=str(tmp_path / "whole"), overrides=overrides)[0]
    run = str(tmp_path / "cut")
    # The first rank dies after step 3, and the other notices or is left waiting.
    with pytest.raises(CaseFailed, match=r"died with status|Connection (reset|closed) by peer"):
        two_ranks.run(cases.whole_run, root=str(data), run=run, overrides=overrides, kill_after=3)
    resumed = two_ranks.run(cases.whole_run, root=str(data), run=run, overrides=overrides)[0]
    assert whole["step"] == resumed["step"] == 6
    same(whole, resumed)
    assert [row["step"] for row in resumed["rows"]] == [1, 2, 3, 4, 5, 6]


def test_other_numbers_of_ranks_take_the_same_samples(
    one_rank: Ranks, two_ranks: Ranks, data: Path, tmp_path: Path
) -> None:
    whole = two_ranks.run(cases.whole_run, root=str(data), run=str(tmp_path / "whole"), overrides=[])[0]
    run = str(tmp_path / "changing")
    for ranks, term in ((two_ranks, 2), (one_rank, 4), (two_ranks, None)):
        found = ranks.run(cases.whole_run, root=str(data), run=run, overrides=[], term=term)[0]
    assert found["state"]["cursors"] == whole["state"]["cursors"]
    for ours, theirs in zip(found["rows"], whole["rows"], strict=True):
        losses = {name: value for name, value in theirs.items() if name.startswith("loss/")}
        assert {name: ours[name] for name in losses} == pytest.approx(losses, abs=1e-4)


def test_sigterm_saves_and_exits_143(one_rank: Ranks, data: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    found = one_rank.run(cases.whole_run, root=str(data), run=run, overrides=[], term=3)[0]
    assert found["status"] == 143
    assert found["step"] == 4  # the signal came while step 4 began; it was finished and saved
    again = one_rank.run(cases.whole_run, root=str(data), run=run, overrides=[])[0]
    assert (again["status"], again["step"]) == (None, 6)


def test_another_recipe_does_not_resume(one_rank: Ranks, data: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    one_rank.run(cases.whole_run, root=str(data), run=run, overrides=["engine.steps=2"])
    with pytest.raises(CaseFailed, match="was made with another recipe"):
        one_rank.run(cases.whole_run, root=str(data), run=run, overrides=["engine.steps=2", "engine.lr=1"])
