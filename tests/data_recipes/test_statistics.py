"""The interval of a mean: scenes are what is drawn again, and a ratio of sums is resampled as a ratio."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from interlace.data_recipes import statistics
from interlace.data_recipes.statistics import bounds, finite, interval, ratio, resampled, scene, signed, verdict


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


def test_one_scene_says_nothing_of_others() -> None:
    low, high = interval(np.array([0.3, 0.4, 0.5]), ["rooms/1"] * 3)
    assert (low, high) == (-np.inf, np.inf)
    assert finite(low, high) == (None, None)
    assert verdict(low, high) == "unknown"
    assert [verdict(0.1, 0.2), verdict(-0.2, -0.1), verdict(-0.1, 0.2)] == ["better", "worse", "no different"]


def test_scene_is_the_room_not_the_clip() -> None:
    assert scene("rooms/000012/path1") == "rooms/000012"
    assert scene("rooms/000012") == "rooms/000012"


def test_ratio_is_a_mean_over_the_parts_that_are_there() -> None:
    sums, counts = np.array([[3.0, 5.0, 0.0], [0.0, 0.0, 0.0]]), np.array([[4.0, 10.0, 0.0], [0.0, 0.0, 0.0]])
    assert ratio(sums, counts) == pytest.approx([(0.75 + 0.5) / 2, np.nan], nan_ok=True)


def test_a_ratio_is_resampled_as_scipy_does() -> None:
    rng = np.random.default_rng(3)
    counts = rng.uniform(1, 20, 60)
    sums = counts * rng.normal(1, 0.4, 60)
    low, high = bounds(resampled(sums[:, None], counts[:, None]))
    theirs = stats.bootstrap(
        (sums, counts),
        lambda s, c, axis: s.sum(axis) / c.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_little_memory_changes_the_draws_of_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=50), [str(i % 10) for i in range(50)]
    whole = interval(values, groups)
    monkeypatch.setattr(statistics, "_AT_ONCE", 1000)
    assert interval(values, groups) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.0312, -0.2, 0.0), ["+0.031", "-0.200", "+0.000"]),
        ((0.0213, 0.0004, 0.05), ["+0.0213", "+0.0004", "+0.0500"]),  # an interval that leaves out 0 shows that it does
        ((0.00094, -0.00012), ["+0.0009", "-0.0001"]),
        ((0.001, 1.0), ["+0.001", "+1.000"]),
        ((3e-9, 0.5), ["+0.000000", "+0.500000"]),
        ((float("nan"), 0.25), ["+nan", "+0.250"]),
    ],
)
def test_a_difference_that_is_not_0_does_not_read_as_0(numbers: tuple[float, ...], text: list[str]) -> None:
    assert signed(*numbers) == text
