"""Training and test items, read one after another or by workers; what is broken is left out by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from interlace.data_recipes import DataError, generator

from .frozen import DataHash

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


class Share(Protocol):
    """Measures items that do not depend on each other: what was found of each, in their order."""

    def __call__(self, measure: Callable[[_Item], _Found], items: Sequence[_Item], /) -> list[_Found]: ...


def alone(measure: Callable[[_Item], _Found], items: Sequence[_Item], /) -> list[_Found]:
    """One after another, here."""
    return [measure(item) for item in items]


class Items(Protocol):
    """A data set. ``names`` [n]: of its items, all different."""

    @property
    def names(self) -> Sequence[str]: ...

    def read(self, index: int, rng: np.random.Generator | None) -> Any:
        """An item, augmented by ``rng``, or as it is tested without. Raises DataError for one that is broken."""
        ...


@dataclass(frozen=True)
class Run:
    """How a probe is run. ``device``: of its heads. ``say`` hears of progress, and of what is left out."""

    seed: int = 0
    workers: int = 0
    device: str = "cpu"
    say: Callable[[str], None] = lambda line: None


@dataclass
class Ledger:
    """What was left out of training (``left_out``) and of test (``missing``), by name, and the hash of test items."""

    left_out: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    hashed: DataHash = field(default_factory=DataHash)

    def tell(self, say: Callable[[str], None]) -> None:
        for name, why in {**self.left_out, **self.missing}.items():
            say(f"left out {name}: {why}")

    def counts(self) -> dict[str, int]:
        """For the settings."""
        return {"left_out_of_training": len(self.left_out), "left_out_of_test": len(self.missing)}


@dataclass(frozen=True)
class _Broken:
    why: str


class _Reader(Dataset[tuple[int, Any]]):
    def __init__(self, items: Items, order: np.ndarray, seed: int | None) -> None:
        self.items, self.order, self.seed = items, order, seed

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> tuple[int, Any]:
        index = int(self.order[place])
        rng = None if self.seed is None else generator(self.seed, "probe item", place)
        try:
            return index, self.items.read(index, rng)
        except DataError as error:
            return index, _Broken(str(error))


def batches(
    items: Items,
    order: np.ndarray,
    size: int,
    left_out: dict[str, str],
    *,
    workers: int = 0,
    seed: int | None = None,
) -> Iterator[list[tuple[int, Any]]]:
    """(index, item) in this ``order``, ``size`` at once, fewer where some are broken.

    ``left_out`` gathers name -> why of those. ``seed``: items are augmented by generators that depend on it and on the
    place in ``order`` alone; None: none is. The order, and what is drawn, do not depend on ``workers``.
    """
    reader = _Reader(items, order, seed)
    # a generator of its own, or the loader would draw its workers' seed from the one that heads begin with
    loader = DataLoader(reader, size, num_workers=workers, collate_fn=list, generator=torch.Generator())
    for batch in loader:
        whole = []
        for index, value in batch:
            if isinstance(value, _Broken):
                left_out[items.names[index]] = value.why
            else:
                whole.append((index, value))
        if whole:
            yield whole


def training_order(length: int, count: int, seed: int) -> np.ndarray:
    """[count] int64: epoch after epoch, each of all ``length`` items in an order of its own."""
    epochs = -(-count // length)
    return np.concatenate([generator(seed, "probe order", each).permutation(length) for each in range(epochs)])[:count]
