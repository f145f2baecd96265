"""From a recipe's sources to samples: feeds to train on, samples to measure on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import overload

import numpy as np

from interlace.data_recipes import Sample
from interlace.data_recipes.feed import Feed
from interlace.data_recipes.schema import Recipe, TaskRecipe
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
    """The first ``count`` samples a task trains on, read when asked for."""

    def __init__(self, feed: Feed, count: int) -> None:
        self._feed, self._count = feed, count

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
        return self._feed.sample(index)


def training_samples(feed: Feed, count: int) -> TrainingSamples:
    """What blind guesses are fitted on: no more than one epoch, so that no sample counts twice."""
    once = sum(len(order) for order in feed.orders.values())
    return TrainingSamples(feed, min(count, once))


def held_out_samples(part: TaskRecipe) -> list[Sample]:
    """All samples of a task's held-out sources, whole."""
    samples: list[Sample] = []
    for source in part.held_out:
        opened = open_source(source.name, source.format, source.path)
        samples += [opened.read(index, opened.fields) for index in range(len(opened))]
    return samples


def pictured_samples(part: TaskRecipe, most: int) -> list[Sample]:
    """At most ``most`` samples to draw: one of each held-out and pictured source in turn, spread over each."""
    opened = [open_source(source.name, source.format, source.path) for source in (*part.held_out, *part.pictured)]
    places = [np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).astype(int)) for source in opened]
    turns = [
        (source, int(place[turn]))
        for turn in range(most)
        for source, place in zip(opened, places, strict=True)
        if turn < len(place)
    ]
    return [source.read(index, source.fields) for source, index in turns[:most]]
