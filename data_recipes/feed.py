"""One task's samples: which they are, how they are read and made ready, and how a micro-batch is split over ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import nn

from .media import DataError
from .mixture import Mixture
from .order import Order
from .randomness import generator
from .sample import Sample
from .sources import Source


class ItemMaker(Protocol):
    """The part of a task that loading needs."""

    @property
    def needs(self) -> frozenset[str]: ...

    def frame_indices(self, times: np.ndarray, rng: np.random.Generator) -> np.ndarray | None: ...
    def item(self, sample: Sample, rng: np.random.Generator) -> Any: ...
    def collate(self, items: Sequence[Any]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class MicroBatch:
    """One rank's part of a task's ``index``-th micro-batch of a step. ``keys``: "source/key" of its samples."""

    task: str
    index: int
    batch: dict[str, Any]
    keys: list[str]


@dataclass
class Feed:
    """A task's endless sequence of draws: draw n is one source's sample, with random numbers of its own.

    ``sources`` by name, with the ``weights`` of their mixture; ``batch`` samples a global micro-batch, of which a step
    has ``micro_batches``. Draw n is a pure function of (seed, name, n, the sources): step s, micro-batch m takes draws
    (s * micro_batches + m) * batch and on. Of ``task`` a copy without parameters, submodules and hooks is kept, to
    travel to loader workers: make feeds before an engine hangs attributes of its own on the modules. Raises
    :class:`DataError` when a source lacks what the task needs.
    """

    name: str
    task: ItemMaker
    sources: Mapping[str, Source]
    weights: Mapping[str, float]
    batch: int
    micro_batches: int
    seed: int
    mixture: Mixture = field(init=False)
    orders: dict[str, Order] = field(init=False)

    def __post_init__(self) -> None:
        self.task = _without_parameters(self.task)
        for name, source in self.sources.items():
            if lacking := sorted(self.task.needs - source.fields):
                offers = ", ".join(sorted(source.fields))
                raise DataError(f"task {self.name!r} needs {', '.join(lacking)}; source {name!r} has {offers}")
        self.mixture = Mixture({name: self.weights[name] for name in self.sources}, self.seed, self.name)
        # The order of a source that two tasks share is each task's own.
        self.orders = {
            name: Order(source.shard_sizes, self.seed, f"{self.name}/{name}") for name, source in self.sources.items()
        }

    def sample(self, n: int) -> Sample:
        """The sample of draw n, whole, with all its source offers: a blind guess may need what training does not."""
        source, number = self.mixture.source_and_number(n)
        return self.sources[source].read(self.orders[source].index(number))

    def item(self, n: int) -> tuple[str, Any]:
        """Draw n made ready by the task: ("source/key", item). Errors name task, source and key."""
        source, number = self.mixture.source_and_number(n)
        index = self.orders[source].index(number)
        rng = generator(self.seed, self.name, "item", n)
        try:
            sample = self.sources[source].read(
                index, self.task.needs, lambda times: self.task.frame_indices(times, rng)
            )
        except DataError as error:
            raise DataError(f"task {self.name!r}, draw {n}: {error}") from error
        try:
            return f"{source}/{sample.key}", self.task.item(sample, rng)
        except Exception as error:
            error.add_note(f"while task {self.name!r} made draw {n} ready: source {source!r}, key {sample.key!r}")
            raise

    def first_draw(self, step: int, micro: int = 0) -> int:
        """The first draw of a micro-batch; of micro-batch 0: how many draws all steps before ``step`` consumed."""
        return (step * self.micro_batches + micro) * self.batch

    def micro_batch(self, step: int, micro: int, rank: int = 0, world: int = 1) -> MicroBatch:
        """This rank's part of a global micro-batch: samples floor(rank * batch / world) to the next rank's first."""
        first = self.first_draw(step, micro)
        begin, end = rank * self.batch // world, (rank + 1) * self.batch // world
        found = [self.item(first + place) for place in range(begin, end)]
        return MicroBatch(self.name, micro, self.task.collate([item for _, item in found]), [key for key, _ in found])

    def cursors(self, step: int) -> dict[str, dict[str, int]]:
        """Where every source stands before ``step``: samples drawn of it, how many it has, and the epoch it is in."""
        counts = self.mixture.counts(self.first_draw(step))
        return {
            name: {"drawn": counts[name], "samples": len(order), "epoch": counts[name] // len(order)}
            for name, order in self.orders.items()
        }


def _without_parameters(task: ItemMaker) -> ItemMaker:
    """A copy that prepares items alike: a worker would otherwise be sent every weight, and the hooks of its engine."""
    if not isinstance(task, nn.Module):
        return task
    bare = object.__new__(type(task))
    nn.Module.__init__(bare)
    bare.__dict__.update({key: value for key, value in task.__dict__.items() if key not in bare.__dict__})
    return bare
