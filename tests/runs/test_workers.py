"""Worker processes that load ahead, beside an engine that has put its hooks on everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import worker_cases as cases
from harness import Ranks


@pytest.mark.slow
def test_under_zero_3_workers_change_nothing(two_ranks: Ranks, data: Path, tmp_path: Path) -> None:
    overrides = ["engine.zero.stage=3", "engine.steps=5"]
    alone, loaded = (
        two_ranks.run(
            cases.run_with_workers,
            root=str(data),
            run=str(tmp_path / str(workers)),
            overrides=[*overrides, f"engine.workers={workers}"],
        )
        for workers in (0, 2)
    )
    assert [rank["workers"] for rank in alone] == [[0] * 5] * 2
    assert [rank["workers"] for rank in loaded] == [[2] * 5] * 2
    ours, theirs = loaded[0], alone[0]
    assert ours["step"] == theirs["step"] == 5
    assert ours["state"]["cursors"] == theirs["state"]["cursors"]
    assert ours["tensors"].keys() == theirs["tensors"].keys()
    assert not [name for name, value in theirs["tensors"].items() if not np.array_equal(ours["tensors"][name], value)]
    for mine, other in zip(ours["rows"], theirs["rows"], strict=True):
        losses = {name: value for name, value in other.items() if name.startswith(("loss/", "gradient_norm"))}
        assert {name: mine[name] for name in losses} == losses
