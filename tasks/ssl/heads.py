"""The projection head shared in form by DINO and iBOT."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import full_precision
from .scores import Scores


class DinoHead(nn.Module):
    """Features [views, n, width] -> prototype scores [views, n, prototypes] in fp32, as their two factors.

    A 3-layer MLP to a bottleneck, L2 norm, and weight-normed prototypes.
    The scores are cosines, in [-1, 1]: prototypes are rows of length 1 (DINO's weight norm with the length kept fixed).
    DINOv3 leaves the length free, which Sinkhorn's exponential then has to survive.
    """

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = Prototypes(bottleneck, prototypes)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Scores:
        scores: Scores = self.prototypes(self.mlp(x))
        return scores


class Prototypes(nn.Module):
    """Cosines between [views, n, width] vectors and ``prototypes`` learned directions."""

    def __init__(self, width: int, prototypes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(prototypes, width))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Scores:
        # bf16 cosines are off by 2^-9, which a temperature of .04 would turn into 5% of a target
        with torch.autocast(x.device.type, enabled=False):
            return Scores(F.normalize(full_precision(x), dim=-1), F.normalize(self.weight, dim=-1))
