"""Held-out rows: the better blind guess, and the gain over it."""

from __future__ import annotations

import numpy as np
import pytest

from interlace.pretrain.evaluate import row
from interlace.tasks.interface import Measure


def measure(better: str, values: list[float], fixed: list[float], swapped: list[float]) -> Measure:
    return Measure(
        name="m",
        better=better,
        values=np.array(values),
        fixed=np.array(fixed),
        swapped=np.array(swapped),  # type: ignore[arg-type]
    )


def test_blind_is_the_better_of_the_two() -> None:
    assert measure("lower", [0.0], [2.0], [1.0]).blind[0] == 1.0
    assert measure("higher", [0.0], [2.0], [1.0]).blind[0] == 2.0


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_gain_is_positive_when_the_model_is_better(better: str) -> None:
    good, bad = ([0.1, 0.2, 0.1], [0.9, 0.8, 0.9]) if better == "lower" else ([0.9, 0.8, 0.9], [0.1, 0.2, 0.1])
    found = row(measure(better, good, bad, bad), ["a", "b", "c"])
    assert found["low"] > 0
    assert found["value"] == pytest.approx(np.mean(good))
    assert found["blind"] == pytest.approx(np.mean(bad))


def test_samples_a_measure_does_not_apply_to_are_left_out() -> None:
    nan = float("nan")
    found = row(measure("lower", [1.0, nan, 3.0], [2.0, nan, 2.0], [4.0, nan, 4.0]), ["a", "b", "c"])
    assert (found["n"], found["value"], found["blind"]) == (2, 2.0, 2.0)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_a_measure_that_applies_nowhere_has_no_value() -> None:
    nan = float("nan")
    empty = row(measure("lower", [nan], [nan], [nan]), ["a"])
    assert (empty["n"], empty["value"]) == (0, None)


def test_a_single_scene_bounds_no_gain() -> None:
    found = row(measure("lower", [0.1, 0.2], [0.9, 0.8], [0.9, 0.8]), ["a", "a"])
    assert (found["value"], found["low"], found["high"]) == (pytest.approx(0.15), None, None)
