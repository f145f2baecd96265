"""Five interlaced steps of the four real tasks on two ranks equal plain PyTorch on the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import four_cases as cases
import numpy as np
import pytest
from harness import Ranks


@pytest.fixture(scope="module")
def plain(one_rank: Ranks, data: Path) -> dict[str, Any]:
    return one_rank.run(cases.plain_pytorch, root=str(data))[0]


def largest_difference(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> tuple[float, str]:
    assert found.keys() == expected.keys()
    return max((float(np.abs(found[name] - expected[name]).max(initial=0.0)), name) for name in expected)


def assert_equal(found: dict[str, Any], plain: dict[str, Any], tolerance: float) -> None:
    for ours, theirs in zip(found["history"], plain["history"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    for part in ("weights", "centres", "teachers"):
        difference, name = largest_difference(found[part], plain[part])
        assert difference < tolerance, (part, name)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_equal_plain_pytorch(two_ranks: Ranks, data: Path, plain: dict[str, Any], stage: int) -> None:
    found = two_ranks.run(cases.interlaced, root=str(data), overrides=[f"engine.zero.stage={stage}"])[0]
    assert_equal(found, plain, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offload_equals_plain_pytorch(two_ranks: Ranks, data: Path, plain: dict[str, Any], stage: int) -> None:
    overrides = [f"engine.zero.stage={stage}", "engine.zero.offload=cpu"]
    assert_equal(two_ranks.run(cases.interlaced, root=str(data), overrides=overrides)[0], plain, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_updates_stay_near_the_fp32_masters(
    two_ranks: Ranks, data: Path, plain: dict[str, Any], stage: int
) -> None:
    overrides = [f"engine.zero.stage={stage}", "engine.precision=bf16"]
    found = two_ranks.run(cases.interlaced, root=str(data), overrides=overrides)[0]
    moved = np.concatenate([(plain["weights"][name] - plain["initial"][name]).ravel() for name in plain["weights"]])
    error = np.concatenate([(found["weights"][name] - plain["weights"][name]).ravel() for name in plain["weights"]])
    assert np.linalg.norm(error) < 0.05 * np.linalg.norm(moved)


def test_every_weight_of_every_task_moved(plain: dict[str, Any]) -> None:
    still = [name for name, value in plain["weights"].items() if np.array_equal(value, plain["initial"][name])]
    assert not still
