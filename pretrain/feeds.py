"""From a recipe's sources to samples: feeds to train on, samples to measure on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import overload

import numpy as np

from interlace.data_recipes import DataError, Sample
from interlace.data_recipes.broken import Broken, Readable, read_samples
from interlace.data_recipes.feed import Feed
from interlace.data_recipes.schema import HeldOut, Recipe, TaskRecipe
from interlace.data_recipes.sources import open_source
from interlace.tasks.interface import Task


def build_feeds(recipe: Recipe, tasks: Mapping[str, Task]) -> dict[str, Feed]:
    """Every task's feed. Raises DataError naming a source that cannot be opened, before any work starts."""
    return {
        name: Feed(
            name=name,
            task=tasks[name],
            sources={source.name: open_source(source.name, source.format, source.path) for source in part.sources},
            weights={source.name: source.weight for source in part.sources},
            batch=part.batch,
            micro_batches=part.micro_batches,
            seed=recipe.seed,
        )
        for name, part in recipe.tasks.items()
    }


class TrainingSamples(Sequence[Sample]):
    """The first ``count`` samples a task trains on, read when asked for.

    What ``task`` does not accept is replaced as in training; ``broken`` holds what was, each once.
    """

    def __init__(self, feed: Feed, task: Task, count: int) -> None:
        self._feed, self._task, self._count = feed, task, count
        self._broken: dict[tuple[int, int], Broken] = {}
        self._last: tuple[int, Sample] | None = None  # who asks for one often asks for it again, text by text

    @property
    def broken(self) -> list[Broken]:
        """In the order of the draws that met them."""
        return [self._broken[place] for place in sorted(self._broken)]

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        if self._last is None or self._last[0] != index:
            sample, broken = self._feed.sample(index, self._task.accept)
            self._broken.update({(index, place): each for place, each in enumerate(broken)})
            self._last = index, sample
        return self._last[1]


def training_samples(feed: Feed, task: Task, count: int) -> TrainingSamples:
    """What blind guesses are fitted on: no more than one epoch, so that no sample counts twice."""
    once = sum(len(order) for order in feed.orders.values())
    return TrainingSamples(feed, task, min(count, once))


def held_out_samples(recipe: Recipe, tasks: Mapping[str, Task]) -> dict[str, list[Readable]]:
    """By task: all samples of each held-out source that it accepts.

    DataError, a line a task, for a source without any and where :meth:`Task.check_held_out` says so.
    """
    read, wrong = {}, []
    for name, part in recipe.tasks.items():
        try:
            read[name] = _held_out_samples(part, tasks[name])
        except DataError as error:
            wrong.append(str(error))
    if wrong:
        raise DataError("\n".join(wrong))
    return read


def _held_out_samples(part: TaskRecipe, task: Task) -> list[Readable]:
    found = []
    for row in part.held_out:
        whole = read_samples(open_source(row.name, row.format, row.path), row.name, accept=task.accept)
        if not whole.samples:
            raise DataError(f"no sample of held-out source {row.name!r} can be used: {whole.broken[0].reason}")
        found.append(whole)
    task.check_held_out([sample for whole in found for sample in whole.samples])
    return found


def pictured_samples(held_out: Sequence[Readable], pictured: Sequence[HeldOut], task: Task, most: int) -> Readable:
    """At most ``most`` samples to draw: one of each held-out and pictured source in turn, spread over each."""
    others = [(row.name, open_source(row.name, row.format, row.path)) for row in pictured]
    places = [_spread(len(whole.samples), most) for whole in held_out]
    places += [_spread(len(source), most) for _, source in others]
    drawn = Readable()
    turns = [(at, place[turn]) for turn in range(most) for at, place in enumerate(places) if turn < len(place)]
    for at, index in turns[:most]:
        if at < len(held_out):
            drawn.samples.append(held_out[at].samples[index])
            continue
        name, source = others[at - len(held_out)]
        # A source that lacks what the task needs is there to be drawn alone.
        one = read_samples(source, name, [index], accept=task.accept if task.needs <= source.fields else None)
        drawn.samples += one.samples
        drawn.broken += one.broken
    return drawn


def _spread(length: int, most: int) -> list[int]:
    return np.unique(np.linspace(0, length - 1, min(most, length)).astype(int)).tolist()
