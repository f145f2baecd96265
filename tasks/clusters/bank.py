"""This rank's part of a bank of class centres, and which centres a micro-batch compares with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from interlace.data_recipes import generator

from ..interface import Progress, TaskContext

#: Rows whose initial values are drawn together, wherever the ranks' borders lie.
BLOCK = 1024
#: Deviation of the initial values, as in the released code; under normalisation it sets how fast Adam turns a centre.
DEVIATION = 0.01


class CentreBank:
    """Rows ``start`` ... ``start + len(local)`` - 1 of ``rows`` centres [rows, D].

    ``local`` is a plain tensor and no module's parameter: DeepSpeed would make all ranks' parts copies of the first
    rank's and average their gradients. A part keeps ``rows / world * D * 4`` bytes of centres and twice that of Adam
    moments, and as much again as the centres of gradient during a step.
    """

    def __init__(self, name: str, rows: int, size: int, context: TaskContext) -> None:
        self.name, self.rows = name, rows
        self.start = context.rank * rows // context.world
        stop = (context.rank + 1) * rows // context.world
        self.local = initial_rows(context.seed, name, self.start, stop, size, context.device).requires_grad_()

    def __getstate__(self) -> dict[str, Any]:
        """What a loader worker is sent: no centres. It needs none, and a GPU's would open CUDA in every worker."""
        return {key: value for key, value in self.__dict__.items() if key != "local"}

    def negatives(self, share: float, progress: Progress) -> Tensor:
        """The rows of this part among ``share`` of all rows, drawn without replacement: [m] int64, ascending, counted
        from ``start``. The draw depends on seed, step, micro-batch and bank, never on the ranks."""
        rng = generator(progress.seed, "clusters", self.name, "negatives", progress.step, progress.micro)
        chosen = rng.choice(self.rows, max(round(share * self.rows), 1), replace=False, shuffle=False)
        mine = chosen[(chosen >= self.start) & (chosen < self.start + len(self.local))] - self.start
        return torch.from_numpy(np.sort(mine)).to(self.local.device)


def initial_rows(seed: int, name: str, start: int, stop: int, size: int, device: torch.device) -> Tensor:
    """Initial centres ``start`` ... ``stop`` - 1: [stop - start, size] float32, the same rows for any borders."""
    rows = torch.empty(stop - start, size, device=device)
    if device.type == "meta":  # only counted: drawing a paper's bank takes a minute and gigabytes
        return rows
    for block in range(start // BLOCK, -(-stop // BLOCK)):
        values = generator(seed, "clusters", name, "centres", block).standard_normal((BLOCK, size), dtype=np.float32)
        first, last = max(start, block * BLOCK), min(stop, (block + 1) * BLOCK)
        drawn = values[first - block * BLOCK : last - block * BLOCK] * np.float32(DEVIATION)
        rows[first - start : last - start] = torch.from_numpy(drawn)
    return rows
