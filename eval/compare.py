"""Results side by side: a sheet for each protocol and data set, a column for each backbone, never two in one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from interlace.data_recipes.randomness import generator
from interlace.data_recipes.statistics import bounds, resampled, signed, verdict, width

from .result import Facts, Result, read, read_pictures

#: Where a run keeps what was measured of it.
RESULTS = "results"

_Column = tuple[str, str, int]


@dataclass(frozen=True)
class Sheet:
    """A table of text. ``notes``: what a reader must know beside it: samples, scenes, what was left out."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", _line(self.columns), _line(["---"] * len(self.columns))]
        return "\n".join([*lines, *map(_line, self.rows), "", *self.notes]) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


@dataclass(frozen=True)
class Pictured:
    """A picture that lies beside results. ``measurement``: such as probe-rooms; ``subject``: of what."""

    file: Path
    measurement: str
    subject: str
    name: str
    title: str
    caption: str


def result_files(places: Sequence[Path]) -> list[Path]:
    """The files of results of runs, folders and files, each once. Raises ValueError for a place that holds none."""
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise ValueError(f"{place}: no such file or folder; give a run's folder, or results of `interlace eval`")
        folder = place / RESULTS if (place / RESULTS).is_dir() else place
        files = [place] if place.is_file() else sorted(folder.glob("*.json")) if folder.is_dir() else []
        files = [file for file in files if place.is_file() or '"interlace.results"' in file.read_text()[:200]]
        if not files:
            raise ValueError(f"{place}: holds no results; make some with `interlace eval`")
        found += files
    return list({file.resolve(): file for file in found}.values())


def collect(places: Sequence[Path]) -> list[Result]:
    """All results of runs, folders and files. Raises ValueError for a place that holds none."""
    return [each for file in result_files(places) for each in read(file)]


def collect_pictures(places: Sequence[Path]) -> list[Pictured]:
    """The pictures that lie beside these results; those that were moved away are left out."""
    found = []
    for file in result_files(places):
        subject = read(file)[0].facts.subject
        for row in read_pictures(file):
            path = file.parent / row["file"]
            if path.is_file():
                found.append(Pictured(path, file.stem, subject, row["name"], row["title"], row["caption"]))
    return found


def sheets(results: Sequence[Result]) -> list[Sheet]:
    """One sheet for each (protocol, data, settings): what differs in any of them cannot be compared.

    Columns in the order of first appearance. From the second column on, a cell also holds the difference to the
    first, paired by unit, where both were measured on the same units.
    """
    groups: dict[tuple[str, ...], list[Result]] = {}
    for each in results:
        facts = each.facts
        settings = json.dumps(facts.settings, sort_keys=True)
        groups.setdefault((facts.protocol, facts.data, facts.data_hash, settings), []).append(each)
    return [_sheet(group) for group in groups.values()]


def _sheet(group: Sequence[Result]) -> Sheet:
    columns = list(dict.fromkeys(_column(each.facts) for each in group))
    cells = {(each.measure, _column(each.facts)): each for each in group}
    rows = []
    for measure in dict.fromkeys(each.measure for each in group):
        row = [cells.get((measure, column)) for column in columns]
        better = next(each.better for each in row if each)
        texts = ["-" if each is None else _cell(each, row[0] if place else None) for place, each in enumerate(row)]
        rows.append((f"{measure} {'↑' if better == 'higher' else '↓'}", *texts))
    facts = group[0].facts
    labels = _labels(columns)
    return Sheet(
        title=f"{facts.protocol} on {facts.data}",
        columns=("", *labels),
        rows=tuple(rows),
        notes=_notes(group, dict(zip(columns, labels, strict=True))),
    )


def _column(facts: Facts) -> _Column:
    return facts.subject, facts.backbone_hash, facts.seed


def _labels(columns: Sequence[_Column]) -> list[str]:
    """Subjects' names, with hash or seed where names alone would not tell two apart."""
    labels = []
    for subject, backbone_hash, seed in columns:
        same = [each for each in columns if each[0] == subject]
        label = subject
        if len({each[1] for each in same}) > 1:
            label += f" {backbone_hash[:8]}"
        if len({each[2] for each in same}) > 1:
            label += f" seed {seed}"
        labels.append(label)
    return labels


def _cell(each: Result, first: Result | None) -> str:
    if first is None or list(first.groups) != list(each.groups):
        return each.text
    found = gain([(each, first)])
    return f"{each.text}; {found.verdict} by {found.text}"


@dataclass(frozen=True)
class Gain:
    """By how much one subject is better than another, above 0 whichever way the measure counts, with its interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        return verdict(self.low, self.high)

    @property
    def text(self) -> str:
        """Difference and interval, as in "+0.120 [+0.041, +0.205]"; of units that all differ alike there is none."""
        value, low, high = signed(self.value, self.low, self.high)
        if math.isinf(self.low) or math.isinf(self.high):
            return f"{value} (of one alone)"
        return f"{value} (all alike)" if not width(self.low, self.high) else f"{value} [{low}, {high}]"


def gain(pairs: Sequence[tuple[Result, Result]]) -> Gain:
    """By how much the first of each pair is better than the second, the mean over pairs (a pair for each seed).

    Scenes, sequences or episodes are resampled, the same ones in all results, and so are the pairs: one training in
    three may differ by chance. Raises ValueError for results of different measures, data or units, which cannot be
    paired.
    """
    mine = pairs[0][0]
    for each in (each for pair in pairs for each in pair):
        same = (each.measure, each.facts.data_hash) == (mine.measure, mine.facts.data_hash)
        if not same or list(each.groups) != list(mine.groups):
            raise ValueError(
                f"{each.facts.subject} and {mine.facts.subject} were not measured alike: {each.measure} of {each.n} "
                f"{each.facts.unit}s and {mine.measure} of {mine.n}; measure both again on the same data"
            )
    sign = 1 if mine.better == "higher" else -1
    # the same units are drawn for all, because the draw depends on their number alone
    drawn = np.stack([resampled(a.sums, a.counts) - resampled(b.sums, b.counts) for a, b in pairs])
    chosen = generator(0, "pairs", len(pairs)).integers(0, len(pairs), drawn.shape)
    low, high = bounds(sign * np.take_along_axis(drawn, chosen, axis=0).mean(0))
    return Gain(sign * float(np.mean([a.value - b.value for a, b in pairs])), low, high)


def _told(value: object) -> str:
    """What was found, as text; numbers by name in brackets."""
    if isinstance(value, dict):
        return "(" + "; ".join(f"{key}: {number:.3f}" for key, number in value.items()) + ")"
    return str(value)


def _notes(group: Sequence[Result], labels: dict[_Column, str]) -> tuple[str, ...]:
    facts, notes = group[0].facts, []
    counts = {(each.n, each.of, each.samples) for each in group}
    for n, of, samples in sorted(counts):
        which = ", ".join(
            dict.fromkeys(each.measure for each in group if (each.n, each.of, each.samples) == (n, of, samples))
        )
        notes.append(f"{which}: {n} of {of} {facts.unit}s, {samples} samples.")
    if facts.settings:
        notes.append("Settings: " + ", ".join(f"{key} {value}" for key, value in facts.settings.items()) + ".")
    left_out = {(labels[_column(each.facts)], *item) for each in group for item in each.facts.missing.items()}
    notes += [f"Left out of {label}: {name}: {why}" for label, name, why in sorted(left_out)]
    found = {(labels[_column(each.facts)], each.measure): each.facts.found for each in group if each.facts.found}
    notes += [
        f"{label}, {measure}: " + ", ".join(f"{key} {_told(value)}" for key, value in values.items()) + "."
        for (label, measure), values in found.items()
    ]
    hashes = {labels[_column(each.facts)]: each.facts.backbone_hash for each in group}
    notes.append("Hashes: " + ", ".join(f"{label} {found[:12]}" for label, found in hashes.items()) + ".")
    return (*notes, f"Data {facts.data_hash[:12]}.")
