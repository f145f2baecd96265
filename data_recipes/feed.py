"""One task's samples: which they are, how they are read and made ready, and how a micro-batch is split over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor, nn

from .broken import Broken, key_of
from .media import DataError
from .mixture import Mixture
from .order import Order
from .randomness import generator
from .sample import Sample
from .sources import Source

#: How many samples of its source are tried in place of one that is broken. Where one in ten is, all of them are broken
#: once in 10 ** 17 draws; where all are, the first draw tells.
SUBSTITUTES = 16

Made = TypeVar("Made")


class ItemMaker(Protocol):
    """The part of a task that loading needs."""

    @property
    def needs(self) -> frozenset[str]: ...

    def frame_indices(self, times: np.ndarray, rng: np.random.Generator) -> np.ndarray | None: ...
    def item(self, sample: Sample, rng: np.random.Generator) -> Any: ...
    def collate(self, items: Sequence[Any]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class MicroBatch:
    """One rank's part of a task's ``index``-th micro-batch of a step. ``keys``: "source/key" of its samples.

    ``broken``: the samples that they stand for, in the order of the draws that met them.
    """

    task: str
    index: int
    batch: dict[str, Any]
    keys: list[str]
    broken: list[Broken]

    def pin_memory(self) -> MicroBatch:
        """The same in page-locked memory, from which a GPU takes it while the host goes on. torch's loader calls it."""

        def pin(leaf: Any) -> Any:
            return leaf.pin_memory() if isinstance(leaf, Tensor) else leaf

        return replace(self, batch=changed(self.batch, pin))


@dataclass
class Feed:
    """A task's endless sequence of draws: draw n is one source's sample, with random numbers of its own.

    ``sources`` by name, with the ``weights`` of their mixture; ``batch`` samples a global micro-batch, of which a step
    has ``micro_batches``. Draw n is a pure function of (seed, name, n, the sources): step s, micro-batch m takes draws
    (s * micro_batches + m) * batch and on. Of ``task`` a copy without parameters, submodules and hooks is kept, to
    travel to loader workers: make feeds before an engine hangs attributes of its own on the modules. Raises
    :class:`DataError` when a source lacks what the task needs.

    A sample is broken when its source cannot read it or the task refuses it, which both say by :class:`DataError`; any
    other error is the program's and goes through. The draw then takes others of the same source, which it alone decides
    by (seed, name, n), until one can be used: that too is a pure function, for as long as the files stay as they are.
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

    def sample(self, n: int, accept: Callable[[Sample], None] | None = None) -> tuple[Sample, list[Broken]]:
        """The sample of draw n, whole, with all its source offers: a blind guess may need what training does not.

        ``accept`` raises :class:`DataError` for a sample that is of no use; those that were broken come second.
        """

        def make(name: str, index: int, rng: np.random.Generator) -> Sample:
            sample = self.sources[name].read(index)
            if accept is not None:
                accept(sample)
            return sample

        return self._usable(n, make)

    def item(self, n: int) -> tuple[tuple[str, Any], list[Broken]]:
        """Draw n made ready by the task, ("source/key", item), and the broken samples that it met on the way.

        DataError naming task and source where no substitute can be used either; other errors have a note that names
        the sample.
        """

        def make(name: str, index: int, rng: np.random.Generator) -> tuple[str, Any]:
            try:
                sample = self.sources[name].read(
                    index, self.task.needs, lambda times: self.task.frame_indices(times, rng)
                )
                return f"{name}/{sample.key}", self.task.item(sample, rng)
            except DataError:
                raise
            except Exception as error:
                key = key_of(self.sources[name], index)
                error.add_note(f"while task {self.name!r} made draw {n} ready: source {name!r}, key {key!r}")
                raise

        return self._usable(n, make)

    def _usable(self, n: int, make: Callable[[str, int, np.random.Generator], Made]) -> tuple[Made, list[Broken]]:
        """What ``make`` makes of draw n's sample or, in place of one that is broken, of the first that is not."""
        name, number = self.mixture.source_and_number(n)
        broken: list[Broken] = []
        for index in self._candidates(n, name, number):
            again = (len(broken),) if broken else ()
            try:
                return make(name, index, generator(self.seed, self.name, "item", n, *again)), broken
            except DataError as error:
                broken.append(Broken.of(self.sources[name], name, index, error, n))
        first, others = broken[0], len(broken) - 1
        raise DataError(
            f"task {self.name!r}, draw {n}: {first.reason}; and "
            + (f"none of {others} other" if others else "no other")
            + f" samples of source {name!r} can be used"
        )

    def _candidates(self, n: int, name: str, number: int) -> Iterator[int]:
        """The index of draw n's sample in its source ``name``, then those of its substitutes."""
        index = self.orders[name].index(number)
        yield index
        length = len(self.orders[name])
        rng = generator(self.seed, self.name, "substitute", n)
        others = rng.choice(length, min(length, SUBSTITUTES + 1), replace=False)
        yield from [int(other) for other in others if other != index][:SUBSTITUTES]

    def first_draw(self, step: int, micro: int = 0) -> int:
        """The first draw of a micro-batch; of micro-batch 0: how many draws all steps before ``step`` consumed."""
        return (step * self.micro_batches + micro) * self.batch

    def micro_batch(self, step: int, micro: int, rank: int = 0, world: int = 1) -> MicroBatch:
        """This rank's part of a global micro-batch: samples floor(rank * batch / world) to the next rank's first."""
        first = self.first_draw(step, micro)
        begin, end = rank * self.batch // world, (rank + 1) * self.batch // world
        drawn = [self.item(first + place) for place in range(begin, end)]
        batch = self.task.collate([item for (_, item), _ in drawn])
        broken = [each for _, met in drawn for each in met]
        return MicroBatch(self.name, micro, batch, [key for (key, _), _ in drawn], broken)

    def cursors(self, step: int) -> dict[str, dict[str, Any]]:
        """Where every source stands before ``step``: samples drawn of it, how many it has, the epoch it is in, and
        the ``order`` they are in, as a hash of its shards."""
        counts = self.mixture.counts(self.first_draw(step))
        return {
            name: {
                "drawn": counts[name],
                "samples": len(order),
                "epoch": counts[name] // len(order),
                "order": order.fingerprint,
            }
            for name, order in self.orders.items()
        }


def changed(part: Any, change: Callable[[Any], Any]) -> Any:
    """A batch or a part of one: ``change`` of all that lies in its dicts, lists and tuples, however deep."""
    if isinstance(part, dict):
        return {key: changed(inner, change) for key, inner in part.items()}
    if isinstance(part, list | tuple):
        return type(part)(changed(inner, change) for inner in part)
    return change(part)


def _without_parameters(task: ItemMaker) -> ItemMaker:
    """A copy that prepares items alike: a worker would otherwise be sent every weight, and the hooks of its engine."""
    if not isinstance(task, nn.Module):
        return task
    bare = object.__new__(type(task))
    nn.Module.__init__(bare)
    bare.__dict__.update({key: value for key, value in task.__dict__.items() if key not in bare.__dict__})
    return bare
