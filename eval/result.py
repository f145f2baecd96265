"""What a measurement leaves behind: a value that says of what, on what, how certain, and by which rules."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from interlace.data_recipes.statistics import bounds, finite, ratio, resampled, scene, width

KIND, VERSION = "interlace.results", 1
#: Units that hold several samples, whose keys begin with the unit's name: see :func:`scene`.
SHARED_UNITS = ("room", "scene")


@dataclass(frozen=True)
class Scores:
    """One measure of n samples, before they are summed up: ``sums`` and ``counts`` [n, k], ``units`` [n].

    The measure is the mean over k of (sum of ``sums``) / (sum of ``counts``): plain means have k = 1 and count 1,
    pixel-weighted ones count pixels, a mean IoU has a column a class. ``units``: the scene, sequence or episode that
    each sample belongs to, which is what the interval resamples.
    """

    measure: str
    better: Literal["higher", "lower"]
    units: Sequence[str]
    sums: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(
        measure: str,
        better: Literal["higher", "lower"],
        units: Sequence[str],
        values: Sequence[float] | np.ndarray,
        weights: Sequence[float] | np.ndarray | None = None,
    ) -> Scores:
        """The mean of ``values`` [n], weighted if ``weights`` [n] are given."""
        numbers = np.asarray(values, np.float64)
        counts = np.ones(len(numbers)) if weights is None else np.asarray(weights, np.float64)
        return Scores(measure, better, units, (numbers * counts)[:, None], counts[:, None])


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What all results of one measurement of one subject have in common.

    ``protocol``: its full name: two protocols never share a column. ``data``: the data set's name. ``unit``: what is
    resampled. ``settings``: every choice that could move the value. ``missing``: sample or unit -> why it was left out.
    ``found``: what a head's tuning came to, such as the rate that was kept; it is part of no comparison.
    """

    protocol: str
    data: str
    unit: str
    subject: str
    backbone_hash: str
    data_hash: str
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A measure with its facts. ``groups``: unit -> (sums [k], counts [k]); ``samples``: how many they hold."""

    facts: Facts
    measure: str
    better: Literal["higher", "lower"]
    samples: int
    groups: Mapping[str, tuple[list[float], list[float]]]

    @cached_property
    def sums(self) -> np.ndarray:
        """[units, k], in the order of ``groups``."""
        return np.array([sums for sums, _ in self.groups.values()], np.float64)

    @cached_property
    def counts(self) -> np.ndarray:
        """[units, k], in the order of ``groups``."""
        return np.array([counts for _, counts in self.groups.values()], np.float64)

    @property
    def value(self) -> float:
        return float(ratio(self.sums.sum(0), self.counts.sum(0)))

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Bounds of the value, units resampled; of a single unit infinite."""
        return bounds(resampled(self.sums, self.counts))

    @property
    def text(self) -> str:
        """Value and interval, as in "0.717 [0.600, 0.833]".

        Of units that are all alike, resampling tells nothing about the next one, and neither does a single unit: both
        are said in place of the interval.
        """
        low, high = self.interval
        if self.n == 1:
            return f"{self.value:.3f} (one {self.facts.unit})"
        if not width(low, high):
            return f"{self.value:.3f} (all {self.n} {self.facts.unit}s alike)"
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}]"

    @property
    def n(self) -> int:
        """Units measured."""
        return len(self.groups)

    @property
    def of(self) -> int:
        """Units that there were, those included of which all was left out."""
        shared = self.facts.unit in SHARED_UNITS
        lost = {scene(name) if shared else name for name in self.facts.missing}
        return len(lost.union(self.groups))


def result(scores: Scores, facts: Facts) -> Result:
    """Sum a measure up by unit. Raises ValueError, naming the unit, for a score that is not finite, or for none."""
    where = f"{facts.protocol} on {facts.data}: {scores.measure}"
    if not len(scores.units) or not (scores.counts > 0).any():
        first, *others = [f": {name}: {why}" for name, why in facts.missing.items()] or [""]
        more = f" (and {len(others)} more left out)" if others else ""
        raise ValueError(f"{where}: nothing could be measured{first}{more}")
    bad = ~np.isfinite(scores.sums).all(1) | ~np.isfinite(scores.counts).all(1)
    if bad.any():
        names = sorted({scores.units[place] for place in np.flatnonzero(bad)})
        raise ValueError(f"{where} is not finite in {', '.join(names)}; leave such samples out by name")
    names, member = np.unique(np.asarray(scores.units), return_inverse=True)
    sums, counts = np.zeros((len(names), scores.sums.shape[1])), np.zeros((len(names), scores.sums.shape[1]))
    np.add.at(sums, member, scores.sums)
    np.add.at(counts, member, scores.counts)
    groups = {str(name): (a.tolist(), b.tolist()) for name, a, b in zip(names, sums, counts, strict=True)}
    return Result(facts=facts, measure=scores.measure, better=scores.better, samples=len(scores.units), groups=groups)


def write(results: Sequence[Result], path: Path, pictures: Sequence[Mapping[str, str]] = ()) -> Path:
    """Write results as JSON, whole or not at all. ``value``, ``low`` and ``high`` are there for other tools; of a
    single unit, which has no interval, the last two are null.

    ``pictures``: what was drawn beside, each with its ``file``, ``name``, ``title`` and ``caption``.
    """
    rows = []
    for each in results:
        low, high = finite(*each.interval)
        row = dataclasses.asdict(each)
        rows.append(
            {**row.pop("facts"), **row, "n": each.n, "of": each.of, "value": each.value, "low": low, "high": high}
        )
    content = {"kind": KIND, "version": VERSION, "pictures": list(pictures), "results": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)
    return path


def read_pictures(path: Path) -> list[dict[str, str]]:
    """The pictures that a file of results names. Raises ValueError for another file."""
    return list(_content(path).get("pictures", []))


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ValueError(f"{path}: no results of `interlace eval`")
    if content["version"] != VERSION:
        raise ValueError(f"{path}: version {content['version']!r} of the results; this program reads {VERSION}")
    return content


def read(path: Path) -> list[Result]:
    """What :func:`write` wrote. Raises ValueError for another file."""
    content = _content(path)
    names = [each.name for each in dataclasses.fields(Facts)]
    try:
        return [
            Result(
                facts=Facts(**{name: row[name] for name in names if name in row or name != "found"}),
                measure=row["measure"],
                better=row["better"],
                samples=row["samples"],
                groups={name: (sums, counts) for name, (sums, counts) in row["groups"].items()},
            )
            for row in content["results"]
        ]
    except KeyError as error:
        raise ValueError(f"{path}: a result lacks {error}; measure again") from None
