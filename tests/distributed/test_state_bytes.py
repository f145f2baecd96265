"""Predicted bytes of state against the tensors that two real ranks have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import state_cases as cases
from harness import Ranks


@pytest.fixture(scope="module")
def two_ranks() -> Iterator[Ranks]:
    """Two of this file alone: tensors that engines of other files left behind would come and go between two counts."""
    with Ranks(2) as ranks:
        yield ranks


OPTIONS: dict[str, dict[str, Any]] = {
    "0": {"stage": 0},
    "1": {"stage": 1},
    "2": {"stage": 2},
    "2-rates": {"stage": 2, "rates": {"tasks.b": 5.0}},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_bytes_of_state_are_those_of_a_running_engine(two_ranks: Ranks, options: dict[str, Any]) -> None:
    for found in two_ranks.run(cases.held, **options):
        predicted = found["predicted"]
        assert found["begun"] == predicted.parameters + predicted.masters + predicted.moments
        more = found["between"] - found["begun"] - predicted.gradients
        if options["stage"] < 2:
            # The gradient of what nothing used comes at the step's end.
            assert more == -found["unused"]
        else:
            # A parameter across the ranks' border is whole on both.
            assert 0 <= more <= found["largest"]


@pytest.mark.parametrize("offload", ["none", "cpu"])
def test_bytes_under_stage_3_are_no_fewer_and_near(two_ranks: Ranks, offload: str) -> None:
    for found in two_ranks.run(cases.held, stage=3, offload=offload):
        predicted = found["predicted"]
        expected = predicted.parameters + predicted.masters + predicted.moments + predicted.gradients + predicted.host
        # The gradients' buffer is there from the start; small parameters are gathered when they are first used.
        assert 0 <= expected - found["between"] <= expected - found["begun"] < expected / 20


@pytest.mark.parametrize("stage", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_offloaded_bytes_are_those_of_a_running_engine(two_ranks: Ranks, stage: int) -> None:
    for found in two_ranks.run(cases.held, stage=stage, offload="cpu"):
        predicted = found["predicted"]
        more = found["between"] - predicted.parameters - predicted.gradients - predicted.host
        if stage == 1:
            # The buffer that gradients are reduced in stays.
            assert more == predicted.buffers - found["unused"]
        else:
            assert -found["unused"] <= more <= found["largest"]


@pytest.mark.parametrize("stage", [0, 3])
def test_bytes_of_teachers_and_centres_are_those_that_are_held(two_ranks: Ranks, stage: int) -> None:
    ranks = two_ranks.run(cases.teachers_and_centres, stage=stage)
    assert all(found["teachers"] == found["teachers predicted"] for found in ranks)
    assert max(found["centres"] for found in ranks) == ranks[0]["centres predicted"]
