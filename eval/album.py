"""Test samples and what a subject said of them, kept for pictures of the best, the middle and the worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

#: What a picture of a sample shows; see :class:`Shown`.
Kind = Literal["classes", "segmentation", "depth", "pose", "propagation"]

#: Longest side of what is kept, in pixels, and frames of a sequence: data sets are large and pictures small.
LONGEST, FRAMES = 256, 5
#: Of a large test set, how many samples are kept to choose from.
CANDIDATES = 60


@dataclass(frozen=True)
class Shown:
    """A test sample: ``frames`` [k, H, W, 3] uint8, its own ``score``, ``truth`` and ``guess``.

    Of these, "classes": an int each, []; "segmentation": [H, W] uint8; "depth": [H, W], 0 = unknown; "propagation":
    [k, H, W] uint8 ids; "pose": camera centres [T, 3] in the first true camera's frame (right, down, forward).
    """

    name: str
    score: float
    frames: np.ndarray
    truth: np.ndarray
    guess: np.ndarray


@dataclass
class Album:
    """All test samples of one measurement. ``names``: of the classes. ``title``: what is told, such as a label.
    ``unit``: of depths and camera centres."""

    kind: Kind
    title: str
    measure: str
    better: Literal["higher", "lower"]
    names: Sequence[str] = ()
    shown: list[Shown] = field(default_factory=list)
    unit: str = "metres"

    def chosen(self) -> list[tuple[str, int]]:
        """(what it is, its place) of the best, the middle and the worst sample by their scores."""
        sign = 1 if self.better == "higher" else -1
        order = np.argsort([-sign * each.score for each in self.shown], kind="stable")
        last = len(order) - 1
        wanted = {0: "best", last: "worst"} if last else {0: "only"}
        if last > 1:
            wanted = {0: "best", last // 2: "middle", last: "worst"}
        return [(word, int(order[place])) for place, word in wanted.items()]


def small(pixels: np.ndarray) -> np.ndarray:
    """[..., H, W] or frames [..., H, W, 3] uint8 with every n-th row and column, at most :data:`LONGEST` of each."""
    coloured = pixels.ndim > 2 and pixels.shape[-1] == 3
    height, width = pixels.shape[-3:-1] if coloured else pixels.shape[-2:]
    step = -(-max(height, width) // LONGEST)
    chosen = (..., slice(None, None, step), slice(None, None, step))
    return pixels[(*chosen, slice(None))] if coloured else pixels[chosen]


def candidates(length: int) -> frozenset[int]:
    """At most :data:`CANDIDATES` places spread over the whole of a test set of ``length`` samples."""
    return frozenset(np.linspace(0, length - 1, min(CANDIDATES, length)).round().astype(int).tolist())


def spread(length: int) -> np.ndarray:
    """At most :data:`FRAMES` places spread over ``length`` frames, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(FRAMES, length)).round().astype(int))


def seen_from_first(c2w: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Camera centres [T, 3] of poses [T, 4, 4] in the frame of the camera ``first`` [4, 4]."""
    return (c2w[:, :3, 3] - first[:3, 3]) @ first[:3, :3]
