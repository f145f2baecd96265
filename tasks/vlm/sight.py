"""How images and videos are looked at, as plain data, and what a backbone sees of them.

It needs numpy and torch alone: an exported model looks with the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interlace.backbone.model import Backbone
from interlace.backbone.preprocess import normalise

from ..frames import resize
from .positions import position_code
from .tiles import Plan, cut, merge, plan, pooled, with_newlines
from .video import look_at, watch

#: Tiles that go through the backbone together.
TILES = 16

#: (height, width) of an image, in pixels; None of a video.
Size = tuple[int, int] | None


@dataclass(frozen=True)
class Sight:
    """The options of a vision-language model that say how it sees; ``side``: patches a side of a tile or a frame."""

    size: int
    side: int
    grids: tuple[tuple[int, int], ...]
    max_tiles: int
    fps: float
    max_frames: int
    pool: int
    patch_positions: bool
    blind: bool

    def chosen(self, times: np.ndarray) -> np.ndarray:
        """Which frames of a video with these times [T] in seconds are looked at."""
        return look_at(times, self.fps, self.max_frames)

    def views(self, frames: np.ndarray) -> tuple[np.ndarray, Size]:
        """An image's tiles, or a video's frames, of ``frames`` [T, H, W, 3] uint8: [n, 3, size, size] uint8.

        n is 0 where there are no frames, or where the model is blind.
        """
        if self.blind or len(frames) == 0:
            return np.zeros((0, 3, self.size, self.size), np.uint8), None
        if len(frames) > 1:
            return self.views_of_video(frames)
        shape = (frames.shape[1], frames.shape[2])
        return cut(frames[0], self.plan(shape), self.size), shape

    def views_of_video(self, frames: np.ndarray) -> tuple[np.ndarray, None]:
        """The same of a video, whose ``frames`` may be a single one so far."""
        return resize(frames, (self.size, self.size)), None

    def plan(self, shape: tuple[int, int]) -> Plan:
        """How an image of this (height, width) is looked at."""
        return plan(*shape, self.grids, self.max_tiles, self.size, self.side)

    def visual_tokens(self, views: int, size: Size) -> int:
        """How many tokens :meth:`tokens` gives for so many views."""
        if size is not None:
            return self.plan(size).count
        rows = self.side // self.pool
        return views * rows * (rows + 1)

    def tokens(self, grid: Tensor, size: Size, newline: Tensor) -> Tensor:
        """Visual tokens [V, E] of projected patches [n, h, w, E]; every row ends with ``newline`` [E]."""
        if len(grid) == 0:
            return newline.new_zeros(0, len(newline))
        if self.patch_positions:
            grid = grid + position_code(grid)
        if size is not None:
            return merge(grid, self.plan(size), newline)
        return with_newlines(pooled(grid, self.pool).flatten(0, 1), newline)


def look(
    backbone: Backbone,
    views: Sequence[Tensor],
    sizes: Sequence[Size],
    watch: Callable[[Backbone, Tensor], Tensor] = watch,
) -> list[Tensor]:
    """Patches [n, h, w, D] of each sample's views [n, 3, size, size] uint8, on the backbone's device.

    Tiles of images go through it together, each a stream of one frame; a video's frames one by one, by ``watch``.
    """
    found: list[Tensor] = [backbone.norm.weight.new_zeros(0, 1, 1, backbone.config.hidden_size)] * len(views)
    images = [index for index, size in enumerate(sizes) if size is not None]
    if images:
        tiles = torch.cat([views[index] for index in images]).split(TILES)
        patches = torch.cat([backbone(normalise(some[:, None])).patches[:, 0] for some in tiles])
        for index, own in zip(images, patches.split([len(views[index]) for index in images]), strict=True):
            found[index] = own
    for index, size in enumerate(sizes):
        if size is None and len(views[index]):
            found[index] = watch(backbone, views[index])
    return found
