"""What a projector is given: a frozen backbone's patches, every channel brought to the same mean and size."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Standard(nn.Module):
    """Patches [..., D] less the mean, over the standard deviation, that each channel had where it was measured.

    Most of a patch is what all patches have in common: of the demo's backbone the mean has a root mean square of 0.83
    and what differs between patches 0.5. Neither is trained; as parameters they are in checkpoints and heads.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(channels), requires_grad=False)
        self.deviation = nn.Parameter(torch.ones(channels), requires_grad=False)

    @torch.no_grad()
    def measure(self, patches: Tensor) -> None:
        """Take over mean and deviation of patches [n, h, w, D]; a channel that never varies is not scaled."""
        flat = patches.flatten(0, -2).double()
        deviation = flat.std(0, correction=0)
        self.mean.copy_(flat.mean(0))
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))

    def forward(self, patches: Tensor) -> Tensor:
        return (patches - self.mean) / self.deviation
