"""Images of any shape as tiles, and which tokens of them are read (LLaVA-OneVision's AnyRes-Max).

The whole image, squeezed into one tile, always comes first. Beside it the image is fitted into the grid of tiles that
keeps most of it, padded, and cut; tokens of padding are dropped, too many are reduced bilinearly, and every row of
what is left ends with a newline token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ..frames import resize

#: Grids of tokens that are too large by less than this factor a side stay as they are (LLaVA-NeXT's code).
TOLERATED = 1.1


@dataclass(frozen=True)
class Plan:
    """How one image is looked at. ``grid`` (rows, columns) of tiles, (0, 0) for the whole image alone.

    ``kept``: (top, left, height, width) of the grid's tokens that show the image; ``tokens``: (height, width) they are
    reduced to.
    """

    grid: tuple[int, int]
    kept: tuple[int, int, int, int]
    tokens: tuple[int, int]
    side: int  # tokens a side of a tile

    @property
    def tiles(self) -> int:
        """How many, the whole image included."""
        return 1 + self.grid[0] * self.grid[1]

    @property
    def count(self) -> int:
        """Visual tokens, newlines included."""
        return self.side**2 + self.tokens[0] * (self.tokens[1] + 1) * (self.tiles > 1)


def plan(height: int, width: int, grids: Sequence[tuple[int, int]], max_tiles: int, size: int, side: int) -> Plan:
    """For an image of ``height`` x ``width`` pixels; tiles have ``size`` pixels and ``side`` tokens a side."""
    if not grids:
        return Plan((0, 0), (0, 0, 0, 0), (0, 0), side)
    rows, columns = max(grids, key=lambda grid: _fitness(height, width, grid, size))
    top, left, kept_height, kept_width = 0, 0, rows * side, columns * side
    if width * rows > height * columns:  # wider than its grid: padded above and below
        top = (kept_height - int(height * kept_width / width)) // 2
        kept_height -= 2 * top
    else:
        left = (kept_width - int(width * kept_height / height)) // 2
        kept_width -= 2 * left
    kept_height, kept_width = max(kept_height, 1), max(kept_width, 1)
    factor = math.sqrt(kept_height * kept_width / (max_tiles * side**2))
    tokens = (kept_height, kept_width)
    if factor > TOLERATED:
        tokens = (max(int(kept_height // factor), 1), max(int(kept_width // factor), 1))
    return Plan((rows, columns), (top, left, kept_height, kept_width), tokens, side)


def _fitness(height: int, width: int, grid: tuple[int, int], size: int) -> tuple[int, int]:
    """Pixels of the image that survive in this grid; of grids alike in that, the smaller is better."""
    factor = min(grid[0] * size / height, grid[1] * size / width)
    survive = min(int(height * factor) * int(width * factor), height * width)
    return survive, survive - grid[0] * grid[1] * size**2


def cut(image: np.ndarray, how: Plan, size: int) -> np.ndarray:
    """[H, W, 3] uint8 -> [tiles, 3, size, size] uint8: the whole image, then its tiles row by row."""
    whole = resize(image[None], (size, size))
    if how.tiles == 1:
        return whole
    (rows, columns), (height, width) = how.grid, image.shape[:2]
    factor = min(rows * size / height, columns * size / width)
    fitted = (min(math.ceil(height * factor), rows * size), min(math.ceil(width * factor), columns * size))
    canvas = np.zeros((3, rows * size, columns * size), np.uint8)
    top, left = (rows * size - fitted[0]) // 2, (columns * size - fitted[1]) // 2
    canvas[:, top : top + fitted[0], left : left + fitted[1]] = resize(image[None], fitted)[0]
    tiles = canvas.reshape(3, rows, size, columns, size).transpose(1, 3, 0, 2, 4).reshape(-1, 3, size, size)
    return np.concatenate([whole, tiles])


def merge(tokens: Tensor, how: Plan, newline: Tensor) -> Tensor:
    """Tokens [tiles, side, side, E] of :func:`cut`'s tiles and ``newline`` [E] -> [count, E]."""
    whole = tokens[0].flatten(0, 1)
    if how.tiles == 1:
        return whole
    (rows, columns), (top, left, height, width) = how.grid, how.kept
    grid = tokens[1:].unflatten(0, (rows, columns)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    grid = grid[top : top + height, left : left + width]
    if how.tokens != (height, width):
        grid = interpolate(grid.movedim(2, 0)[None], how.tokens, mode="bilinear")[0].movedim(0, 2)
    return torch.cat((whole, with_newlines(grid, newline)))


def pooled(grid: Tensor, pool: int) -> Tensor:
    """[n, h, w, E] -> [n, h / pool, w / pool, E], averaged."""
    return avg_pool2d(grid.movedim(3, 1), pool).movedim(1, 3)


def with_newlines(grid: Tensor, newline: Tensor) -> Tensor:
    """[h, w, E] -> [h * (w + 1), E]: every row ends with ``newline`` [E]."""
    ends = newline.to(grid.dtype).expand(len(grid), 1, -1)
    return torch.cat((grid, ends), dim=1).flatten(0, 1)
