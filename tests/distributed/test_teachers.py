"""Teachers follow the fp32 masters, at every ZeRO stage alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zero_cases as cases
from harness import Ranks
from toy import build

from interlace.pretrain.teachers import followed_names


def label(options: dict[str, Any]) -> str:
    return "-".join(str(value) for value in options.values())


@pytest.fixture(scope="module")
def taught_at_stage_0(two_ranks: Ranks) -> dict[str, Any]:
    return two_ranks.run(cases.taught, stage=0)[0]


@pytest.mark.parametrize("options", [{"stage": 0}, {"stage": 3}, {"stage": 3, "offload": "cpu"}], ids=label)
def test_teacher_moves_at_momentum_0_9995_under_bf16(two_ranks: Ranks, options: dict[str, Any]) -> None:
    # A bf16 average would not move at all: its relative error is 1.
    for found in two_ranks.run(cases.taught, momentum=0.9995, steps=10, precision="bf16", **options):
        assert found["error"] < 1e-3


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_teachers_are_equal_at_every_stage(two_ranks: Ranks, taught_at_stage_0: dict[str, Any], stage: int) -> None:
    for found in two_ranks.run(cases.taught, stage=stage):
        assert found["error"] < 1e-5
        assert found["moved"] == 22
        assert found["fixed"] == []
        for name, value in taught_at_stage_0["teacher"].items():
            np.testing.assert_allclose(found["teacher"][name], value, atol=1e-6)


@pytest.mark.parametrize("stage", [1, 3])
def test_teachers_state_is_read_back(two_ranks: Ranks, stage: int) -> None:
    assert [found["reloaded"] for found in two_ranks.run(cases.taught, stage=stage, steps=1)] == [[], []]


def test_partitioned_teacher_is_empty_between_steps(two_ranks: Ranks) -> None:
    assert [found["resident"] for found in two_ranks.run(cases.taught, stage=3, steps=1)] == [0, 0]


def test_teacher_that_follows_nobody_is_refused() -> None:
    student = build(teaches=True)
    teacher = student.tasks["a"].build_teacher(student.backbone)  # type: ignore[union-attr, operator]
    with pytest.raises(ValueError, match=r"the teacher of b has heads.head.last.weight \[5, 9\], but .*tasks.b.head"):
        followed_names("b", teacher, student)
