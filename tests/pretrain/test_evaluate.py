"""Held-out rows: the better blind guess, and scenes as the unit of the interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from interlace.pretrain.evaluate import interval, row, scene
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


def test_interval_agrees_with_scipys_bootstrap() -> None:
    gain = np.random.default_rng(0).normal(0.3, 1.0, 80)
    ours = interval(gain, [str(i) for i in range(80)])
    theirs = stats.bootstrap((gain,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(1))
    assert ours == pytest.approx((theirs.confidence_interval.low, theirs.confidence_interval.high), abs=0.03)


def test_copies_of_a_scene_add_no_certainty() -> None:
    gain = np.random.default_rng(0).normal(0.3, 1.0, 20)
    once = interval(gain, [str(i) for i in range(20)])
    repeated = interval(np.repeat(gain, 50), [str(i) for i in np.repeat(np.arange(20), 50)])
    assert repeated == pytest.approx(once)


def test_scene_is_the_room_not_the_clip() -> None:
    assert scene("rooms/000012/path1") == "rooms/000012"
    assert scene("rooms/000012") == "rooms/000012"
