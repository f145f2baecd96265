"""Samples that a run could not use: each a line of ``broken.jsonl``, counted by source, and not too many of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch.distributed as dist

from interlace.data_recipes.broken import Broken
from interlace.data_recipes.feed import Feed, MicroBatch

from .ranks import Ranks
from .run_folder import RunFolder, append, forget_after, rows

#: A source's broken samples are a share of what was read of it, and of so many where less was: one broken sample among
#: a source's first ten reads tells little about it.
READS = 200

Use = Literal["training", "blind", "held_out", "picture"]

#: What became of a sample, for the console.
_DONE = {
    "training": "replaced by another",
    "blind": "replaced by another",
    "held_out": "left out of all measures",
    "picture": "not drawn",
}


class TooManyBroken(ValueError):
    """More of a source is broken than ``engine.max_broken`` lets pass; the message says what to do."""


class BrokenSamples:
    """Every rank has one and knows the same counts; the first writes and speaks, once a source.

    A line is ``{"step", "use", "task", "source", "key", "index", "draw", "reason"}``. ``use`` "training": draw ``draw``
    met the sample in the ``step``-th step and went on with another. "blind": so did a draw that blind guesses were
    fitted on. "held_out", "picture": the sample is left out of all measures, or not drawn, and ``draw`` is null. Lines
    do not depend on the ranks.
    """

    def __init__(
        self, folder: RunFolder, feeds: Mapping[str, Feed], limit: float, ranks: Ranks, say: Callable[[str], None]
    ) -> None:
        """``limit``: the largest share, 0 to 1, of a source's reads that may be broken."""
        self._path, self._feeds, self._limit = folder.broken, feeds, limit
        self._ranks, self._say = ranks, say
        self._counts: dict[tuple[str, str], int] = defaultdict(int)
        self._known: set[tuple[Any, ...]] = set()
        self._told: set[tuple[str, str]] = set()

    def begin(self, start: int) -> None:
        """Training begins at step ``start``: go on with what was counted before it. Collective."""
        lines: list[list[dict[str, Any]]] = [[]]
        if self._ranks.first:
            forget_after(self._path, start)
            lines = [rows(self._path)]
        dist.broadcast_object_list(lines)
        for line in lines[0]:
            if line["use"] == "training":
                self._counts[line["task"], line["source"]] += 1
            self._known.add(_identity(line))

    def beside(self, use: Use, task: str, found: Sequence[Broken], step: int) -> None:
        """Write down what was met outside training, by all ranks alike. What a resumed run meets again is known."""
        lines = [_line(step, use, task, each) for each in found]
        self._write([line for line in lines if _identity(line) not in self._known])
        self._known.update(map(_identity, lines))

    def step(self, done: int, micros: Sequence[MicroBatch]) -> None:
        """Some rank met broken samples in the ``done``-th step: write them down. Collective.

        Raises :class:`TooManyBroken`, on every rank, for the first source that has more than the limit.
        """
        mine = [(place, micro.task, each) for place, micro in enumerate(micros) for each in micro.broken]
        gathered: list[list[tuple[int, str, Broken]]] = [[] for _ in range(self._ranks.world)]
        dist.all_gather_object(gathered, mine)
        found = sorted((each for part in gathered for each in part), key=lambda each: (each[0], each[2].draw))
        self._write([_line(done, "training", task, each) for _, task, each in found])
        last: dict[tuple[str, str], Broken] = {}
        for _, task, each in found:
            self._counts[task, each.source] += 1
            last[task, each.source] = each
        for (task, source), each in last.items():
            self._demand_few(task, source, done, each)

    def counts(self) -> dict[str, int]:
        """``broken/TASK/SOURCE`` of every source that had any: how many since the run began."""
        return {f"broken/{task}/{source}": count for (task, source), count in sorted(self._counts.items())}

    def _demand_few(self, task: str, source: str, done: int, last: Broken) -> None:
        broken = self._counts[task, source]
        read = broken + self._feeds[task].cursors(done)[source]["drawn"]
        if broken > self._limit * max(read, READS):
            raise TooManyBroken(
                f"source {source!r} of task {task!r}: {broken} of {read} samples that were read are broken, more than "
                f"engine.max_broken = {self._limit:g} lets pass; the last: {last.reason}. {self._path} names them all; "
                "mend or remove the source, or raise engine.max_broken, and go on with --resume"
            )

    def _write(self, lines: Sequence[dict[str, Any]]) -> None:
        if not self._ranks.first or not lines:
            return
        append(self._path, lines)
        for line in lines:
            if (line["task"], line["source"]) not in self._told:
                self._told.add((line["task"], line["source"]))
                self._say(
                    f"{line['task']}: sample {line['source']}/{line['key']} is broken and {_DONE[line['use']]} "
                    f"({line['reason']}); {self._path} names all such samples"
                )


def _line(step: int, use: Use, task: str, found: Broken) -> dict[str, Any]:
    return {"step": step, "use": use, "task": task, **asdict(found)}


def _identity(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return line["use"], line["task"], line["source"], line["index"]
