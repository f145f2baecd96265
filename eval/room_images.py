"""The built-in rooms in the place of ImageNet, ADE20K and NYUv2: the same protocols, small, at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interlace.data_recipes import Sample
from interlace.data_recipes.statistics import scene

from .augment import to_pixels
from .dense_probe import DenseBudget
from .heads import split
from .images import Data, DepthRules, classified, measured, segmented
from .linear_probe import LinearBudget
from .probe import Rooms, true_depths
from .rooms import CLASSES

NAME, UNIT = "built-in rooms", "room"
CLASS_BUDGET = LinearBudget(steps=200, batch=64)
DENSE_BUDGET = DenseBudget(steps=300, warmup=20, rate=1e-2)
#: The label that images are classified by: the floor is the only one that every frame of every clip shows.
LABEL = "floor"
HELD_BACK = 0.2

_Read = Callable[[Tensor, Any, np.random.Generator | None], Any]


class RoomItems:
    """Frames [n, f] of clips, each with what is ``known`` of it [n * f], read by ``read``."""

    def __init__(self, samples: Sequence[Sample], frames: np.ndarray, known: Sequence[Any], read: _Read) -> None:
        self.images = [sample.frames[at] for sample, row in zip(samples, frames, strict=True) for at in row]
        self.names = [f"{sample.key}/{at}" for sample, row in zip(samples, frames, strict=True) for at in row]
        self.known, self._read = known, read

    @property
    def units(self) -> list[str]:
        return [scene(name) for name in self.names]

    def read(self, index: int, rng: np.random.Generator | None) -> Any:
        return self._read(to_pixels(self.images[index]), self.known[index], rng)


def room_classes(rooms: Rooms, names: Sequence[str], seed: int = 0) -> Data:
    """Frames by their room's floor; a fifth of the training rooms picks the rate. ``names``: of the classes."""
    size = rooms.test[0].frames.shape[1]

    def read(pixels: Tensor, label: int, rng: np.random.Generator | None) -> tuple[Tensor, int]:
        return classified(pixels, size, round(size * 256 / 224), rng), label

    def items(samples: Sequence[Sample], frames: np.ndarray) -> RoomItems:
        return RoomItems(
            samples, frames, [each.labels[LABEL] for each in samples for _ in range(frames.shape[1])], read
        )

    learning, aside = split([scene(sample.key) for sample in rooms.train], HELD_BACK, seed)
    parts = [items([rooms.train[int(k)] for k in part], rooms.train_frames[part.numpy()]) for part in (learning, aside)]
    test = items(rooms.test, rooms.test_frames)
    return Data(NAME, tuple(names), parts[0], test, test.units, UNIT, parts[1], rooms.left_out, rooms.missing)


def room_masks(rooms: Rooms) -> tuple[Data, int]:
    """Frames with the classes of their pixels, and the side that they have."""
    size = rooms.test[0].frames.shape[1]

    def items(samples: Sequence[Sample], frames: np.ndarray, classes: np.ndarray) -> RoomItems:
        known = torch.from_numpy(classes).flatten(0, 1)
        return RoomItems(samples, frames, list(known), lambda pixels, mask, rng: segmented(pixels, mask, size, rng))

    train = items(rooms.train, rooms.train_frames, rooms.train_classes)
    test = items(rooms.test, rooms.test_frames, rooms.test_classes)
    return Data(NAME, CLASSES, train, test, test.units, UNIT, None, rooms.left_out, rooms.missing), size


def room_depths(rooms: Rooms) -> Data:
    """Frames with their depth in metres; training crops are whole frames."""
    size = rooms.test[0].frames.shape[1]
    rules = DepthRules(crop=(size, size), box=None, judged=None, size=None)

    def items(samples: Sequence[Sample], frames: np.ndarray) -> RoomItems:
        known = list(true_depths(samples, frames).flatten(0, 1))
        return RoomItems(samples, frames, known, lambda pixels, depth, rng: measured(pixels, depth, rules, rng))

    test = items(rooms.test, rooms.test_frames)
    train = items(rooms.train, rooms.train_frames)
    return Data(NAME, (), train, test, test.units, UNIT, None, rooms.left_out, rooms.missing)
