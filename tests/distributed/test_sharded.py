"""Matrices split over two ranks are stepped, saved and read as whole ones are."""

from __future__ import annotations

from pathlib import Path

import sharded_cases as cases
from harness import Ranks


def test_sharded_adam_equals_adam_on_the_whole_matrices(two_ranks: Ranks) -> None:
    for found in two_ranks.run(cases.stepped):
        assert found["rows"] < 1e-6
        assert found["matrices"] < 1e-6
        assert found["norms"] < 1e-6
        assert found["steps"] == 4


def test_discarded_gradient_leaves_no_trace(two_ranks: Ranks) -> None:
    assert all(two_ranks.run(cases.discarded))


def test_same_world_resumes_bit_for_bit(two_ranks: Ranks, tmp_path: Path) -> None:
    two_ranks.run(cases.saved, path=str(tmp_path / "state"))
    assert two_ranks.run(cases.continued, path=str(tmp_path / "state")) == [0.0, 0.0]


def test_other_world_size_reads_the_same_matrices(two_ranks: Ranks, one_rank: Ranks, tmp_path: Path) -> None:
    two_ranks.run(cases.saved, path=str(tmp_path / "two"))
    one_rank.run(cases.saved, path=str(tmp_path / "one"))
    assert max(one_rank.run(cases.continued, path=str(tmp_path / "two"))) < 1e-6
    assert max(two_ranks.run(cases.continued, path=str(tmp_path / "one"))) < 1e-6


def test_state_that_does_not_fit_is_refused(one_rank: Ranks) -> None:
    ((shape, strange, missing),) = one_rank.run(cases.refused)
    assert shape == "weight/clusters.object is [8, 3] in the checkpoint and [7, 3] in this run"
    assert strange == "the checkpoint holds weight/clusters.sound, which no task of this run has (or twice)"
    assert missing == "the checkpoint lacks exp_avg/clusters.motion"
