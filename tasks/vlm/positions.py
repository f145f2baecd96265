"""Where each patch of a picture is, written into its token.

Rotary positions turn a backbone's queries and keys and no values: of a patch's features a linear map can hardly tell
the column. A large language model learns places from the order of tokens; a small one that begins at random is told.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Longest and shortest wave, as parts of a picture's side.
WAVES = (4.0, 0.25)


def position_code(grid: Tensor) -> Tensor:
    """Sines and cosines [h, w, E] of the row and the column of each token of ``grid`` [..., h, w, E].

    Half of the E numbers say the row, half the column, as a part of the picture's height and width, so that a place has
    nearly the same code in grids of any size. ValueError where 4 does not divide E.
    """
    rows, columns, width = grid.shape[-3:]
    if width % 4:
        raise ValueError(f"patch_positions: tokens of {width} numbers; 4 must divide it, a sine and a cosine an axis")
    longest, shortest = WAVES
    waves = torch.logspace(math.log2(longest), math.log2(shortest), width // 4, base=2.0, device=grid.device)

    def axis(count: int) -> Tensor:
        angles = (torch.arange(count, device=grid.device) + 0.5)[:, None] / count * (2 * math.pi / waves)
        return torch.cat((angles.sin(), angles.cos()), dim=-1)

    down, across = axis(rows)[:, None].expand(-1, columns, -1), axis(columns).expand(rows, -1, -1)
    return torch.cat((down, across), dim=-1).to(grid.dtype)
