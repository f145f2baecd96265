"""Ranks that mask unlike numbers of patches, and so make unlike numbers of blocks of scores, under ZeRO-3."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import ssl_cases as cases
from harness import Ranks


@pytest.fixture(scope="module")
def alone(one_rank: Ranks) -> dict[str, Any]:
    (found,) = one_rank.run(cases.uneven_masks, stage=0, block=2**24)
    return found


def test_ranks_gather_alike_and_learn_what_one_process_learns(two_ranks: Ranks, alone: dict[str, Any]) -> None:
    first, second = two_ranks.run(cases.uneven_masks, stage=3, block=100)
    assert first["masked"] > 100
    assert second["masked"] == 0
    assert first["blocks"] > 3 * second["blocks"]
    assert first["collectives"] == second["collectives"]
    assert first["collectives"]["_allgather_base_.default"] > 0, "nothing was sharded"
    *sums, norm = (first["history"] + second["history"]).T
    np.testing.assert_allclose(sums, alone["history"].T[:-1], rtol=1e-5)
    np.testing.assert_allclose(norm / 2, alone["history"].T[-1], rtol=1e-5)
    for found in (first, second):
        for name, value in alone["weights"].items():
            np.testing.assert_allclose(found["weights"][name], value, rtol=0, atol=1e-5, err_msg=name)
