"""How certain a mean over correlated samples is: whole scenes, sequences or episodes are drawn with replacement."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .randomness import generator

#: Resamplings of the bootstrap, and the share of them inside the interval.
RESAMPLINGS, COVERAGE = 2000, 0.95
#: Numbers held at once while resampling.
_AT_ONCE = 1 << 24
#: Decimals of a difference as text: so many, or as many as its smallest number needs, up to the most.
_DECIMALS, _MOST_DECIMALS = 3, 6
#: An interval of equal groups is so wide by rounding, at most.
_ROUNDING = 1e-9


def scene(key: str) -> str:
    """The scene a sample belongs to: the first two parts of its key, ``source/scene``."""
    return "/".join(key.split("/")[:2])


def interval(values: np.ndarray, scenes: Sequence[str]) -> tuple[float, float]:
    """The bootstrap interval of the mean of ``values`` [n], whole scenes drawn with replacement: see :func:`bounds`."""
    _, member = np.unique(np.asarray(scenes), return_inverse=True)
    return bounds(resampled(np.bincount(member, weights=values)[:, None], np.bincount(member)[:, None]))


def ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[...] the mean over k of sums / counts, both [..., k]; a part whose count is 0 is left out, NaN if all are.

    With k = 1 it is a weighted mean; with a part for each class it is, of intersections and unions, the mean IoU.
    """
    there = counts > 0
    parts = np.divide(sums, counts, out=np.zeros(np.broadcast(sums, counts).shape), where=there)
    number = there.sum(-1)
    total = parts.sum(-1)
    return np.divide(total, number, out=np.full(np.shape(total), np.nan), where=number > 0)


def resampled(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[RESAMPLINGS] what :func:`ratio` would be of other groups: ``sums`` and ``counts`` [groups, k], a row a group.

    All NaN for a single group, which does not tell how much groups differ.
    """
    groups, width = sums.shape
    if groups == 1:
        return np.full(RESAMPLINGS, np.nan)
    rng, rows = generator(0, "bootstrap", groups), max(1, _AT_ONCE // (groups * width))
    drawn = []
    for start in range(0, RESAMPLINGS, rows):
        chosen = rng.integers(0, groups, (min(rows, RESAMPLINGS - start), groups))
        drawn.append(ratio(sums[chosen].sum(1), counts[chosen].sum(1)))
    return np.concatenate(drawn)


def bounds(draws: np.ndarray) -> tuple[float, float]:
    """The interval that holds :data:`COVERAGE` of ``draws``, tails alike; everything where no draw is known."""
    if np.isnan(draws).all():
        return -math.inf, math.inf
    tail = (1 - COVERAGE) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def width(low: float, high: float) -> float:
    """Of an interval; 0 but for rounding where all groups are alike, and resampling has nothing to tell."""
    return high - low if high - low > _ROUNDING else 0.0


def verdict(low: float, high: float) -> str:
    """What the interval of a gain says: better or worse where it leaves out 0, unknown where it is everything."""
    if math.isinf(low) and math.isinf(high):
        return "unknown"
    return "better" if low > 0 else "worse" if high < 0 else "no different"


def finite(*numbers: float) -> tuple[float | None, ...]:
    """For JSON, which knows no infinity: None in its place."""
    return tuple(each if math.isfinite(each) else None for each in numbers)


def signed(*numbers: float) -> list[str]:
    """Differences, such as one and its interval, as text with signs and equally many decimals.

    Three, and more where one that is not 0 would read as 0.
    """
    small = min((abs(each) for each in numbers if each and math.isfinite(each)), default=1.0)
    decimals = min(max(_DECIMALS, math.ceil(-math.log10(small))), _MOST_DECIMALS)
    return [f"{each:+.{decimals}f}" for each in numbers]
