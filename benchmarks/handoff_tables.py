"""The tables of handoff.py: values of every seed, gains in pairs, and in how many seeds they leave out 0."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interlace.data_recipes.statistics import finite, signed
from interlace.launchers.full_jobs import Desk, Job

#: What a role is called in a table.
NAMES = {"vlm": "backbone", "vlm_blind": "no images", "vlm_initial": "initial weights"}
NAMES |= {"vla": "backbone", "vla_blind": "blank images", "vla_initial": "initial weights"}
NOTES = {
    "probes": "Heads, batches and held-back rooms are drawn anew with each seed; the backbone is one.",
    "vlm": "Exact answers by kind of question, every model trained anew with each seed.",
    "vla": "Share of episodes done on unseen layouts, every policy trained anew with each seed.",
}


@dataclass(frozen=True)
class Cell:
    """One training or measurement: a ``kind`` of a ``part`` in a seed, the job that makes it, the results it leaves."""

    kind: str
    part: str
    seed: int
    job: Job
    results: Path


@dataclass(frozen=True)
class Row:
    """One measure. ``values``: role -> one for each seed. ``gains``: role -> by how much the first role is better."""

    protocol: str
    measure: str
    better: str
    units: str
    values: Mapping[str, list[float]]
    gains: Mapping[str, Mapping[str, Any]]


def write_tables(name: str, where: str, out: Path, ended: Sequence[Cell], desk: Desk) -> Path:
    """Write ``handoff.json`` and ``handoff.md`` of the cells that have ended; returns the latter.

    ``name``: of the run. ``where``: when and on what machine.
    """
    parts = {part: rows([cell for cell in ended if cell.part == part]) for part in NOTES}
    parts = {part: found for part, found in parts.items() if found}
    minutes = {cell.job.name: round(desk.seconds(cell.job) / 60, 1) for cell in ended}
    tables = {part: [_plain(row) for row in found] for part, found in parts.items()}
    content = {"run": name, "where": where, "minutes": minutes, "tables": tables}
    _write(out / "handoff.json", json.dumps(content, indent=1) + "\n")
    head = f"# The hand-off of {name}\n\n{where}.\n"
    _write(out / "handoff.md", "\n".join((head, *(markdown(part, found) for part, found in parts.items()))))
    return out / "handoff.md"


def _plain(row: Row) -> dict[str, Any]:
    """A row for JSON: of a single unit, whose gain has no bounds, these are null."""
    gains = {}
    for role, gain in row.gains.items():
        low, high = finite(gain["low"], gain["high"])
        gains[role] = {**gain, "low": low, "high": high}
    return {**vars(row), "gains": gains}


def rows(ended: Sequence[Cell]) -> list[Row]:
    """The table of a part, from the seeds in which all of its kinds of cells have ended."""
    from interlace.eval.result import Result, read

    by_seed: dict[int, dict[str, dict[tuple[str, str], Result]]] = {}
    once: dict[str, dict[tuple[str, str], Result]] = {}
    for cell in ended:
        roles = once if cell.kind == "propagation" else by_seed.setdefault(cell.seed, {})
        for each in read(cell.results):
            role = _role(cell, each.facts.subject)
            if role is not None:
                roles.setdefault(role, {})[each.facts.protocol, each.measure] = each
    wanted = {"backbone"}.union(*by_seed.values())
    whole = [roles for _, roles in sorted(by_seed.items()) if set(roles) == wanted]
    return [*_table(whole), *_table([once] if once else [])]


def _role(cell: Cell, subject: str) -> str | None:
    """Who a result is of. Controls of a policy that are not trained count with the policy on the backbone alone."""
    if cell.part == "probes":
        untrained = subject.startswith("untrained")
        return "initial weights" if untrained else subject if subject == "raw pixels" else "backbone"
    if subject == cell.job.name:
        return NAMES[cell.kind]
    return subject.removeprefix(f"{cell.job.name}, ") if cell.kind == "vla" else None


def _table(seeds: Sequence[Mapping[str, Mapping[tuple[str, str], Any]]]) -> list[Row]:
    """A row for each measure of the first role that every role has in every seed."""
    from interlace.eval.compare import gain

    if not seeds:
        return []
    roles = sorted(seeds[0], key=lambda role: role != "backbone")
    found = []
    for key in seeds[0]["backbone"]:
        if not all(key in seed[role] for seed in seeds for role in roles):
            continue
        mine = [seed["backbone"][key] for seed in seeds]
        gains = {}
        for role in roles[1:]:
            pairs = list(zip(mine, (seed[role][key] for seed in seeds), strict=True))
            together, alone = gain(pairs), [gain([pair]) for pair in pairs]
            above = sum(each.low > 0 for each in alone)
            gains[role] = {**vars(together), "seeds above 0": above, "of": len(pairs)}
        values = {role: [seed[role][key].value for seed in seeds] for role in roles}
        units = f"{mine[0].n} {mine[0].facts.unit}s"
        found.append(Row(*key, mine[0].better, units, values, gains))
    return found


def markdown(part: str, found: Sequence[Row]) -> str:
    """A table for each set of roles: values are means over seeds with the smallest and the largest."""
    lines = [f"## {part}", "", NOTES[part]]
    for roles in dict.fromkeys(tuple(row.values) for row in found):
        mine = [row for row in found if tuple(row.values) == roles]
        others = [f"above {role}" for role in roles[1:]]
        lines += ["", _line(["measure", *roles, *others, "n"]), _line(["---"] * (2 + len(roles) + len(others)))]
        protocols = len({row.protocol for row in mine}) > 1
        for row in mine:
            name = f"{row.protocol.partition(' (')[0]}: {row.measure}" if protocols else row.measure
            arrow = "↑" if row.better == "higher" else "↓"
            gains = [_gain(row.gains[role]) for role in roles[1:]]
            lines.append(_line([f"{name} {arrow}", *(_value(row.values[role]) for role in roles), *gains, row.units]))
    return "\n".join(lines) + "\n"


def _value(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.3f}"
    return mean if len(set(values)) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


def _gain(found: Mapping[str, Any]) -> str:
    value, low, high = signed(found["value"], found["low"], found["high"])
    interval = f"{value} [{low}, {high}]"
    return f"{interval}, {found['seeds above 0']} of {found['of']} seeds" if found["of"] > 1 else interval


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)
