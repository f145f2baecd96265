"""Samples that nobody filmed, for what depends on shapes alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from interlace.data_recipes import Sample

#: Pixels a side; tasks bring frames to their own size.
SIDE = 32


def blank(frames: int, **fields: Any) -> Sample:
    """A black sample of ``frames`` frames, one a second, with these fields of a :class:`Sample` besides."""
    pixels = np.zeros((frames, SIDE, SIDE, 3), np.uint8)
    return Sample(key="blank", source="blank", frames=pixels, times=np.arange(frames, dtype=np.float64), **fields)


def blank_scene(frames: int) -> Sample:
    """The same with a flat wall at depth 1 in front of a camera that stands still."""
    K = np.array([[SIDE, 0, SIDE / 2], [0, SIDE, SIDE / 2], [0, 0, 1]], np.float32)
    depth = np.ones((frames, SIDE, SIDE), np.float32)
    return blank(frames, depth=depth, K=np.tile(K, (frames, 1, 1)), c2w=np.tile(np.eye(4), (frames, 1, 1)))
