"""Training noise of the backbone, drawn outside of it.

The backbone itself is a function: in training and in evaluation it does the same. A task draws each sample's noise
from that sample's own generator, so that a run does not depend on how samples are split over ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .config import BackboneConfig


@dataclass(frozen=True)
class BackboneNoise:
    """One row a sample of the batch.

    ``rope_scale``: [B, 2] float32, factors of the (time, space) coordinates; space is shared by rows and columns, as
    in DINOv3's box jitter. ``keep``: [B, depth, 2] bool, whether a block's (attention, MLP) branch runs.
    """

    rope_scale: Tensor
    keep: Tensor

    @staticmethod
    def draw(config: BackboneConfig, rngs: Sequence[np.random.Generator]) -> BackboneNoise:
        """Noise of ``len(rngs)`` samples; each generator gives 2 + 2 * depth numbers, whatever the config."""
        limit = np.log(config.rope_jitter)
        scales, keeps = [], []
        for rng in rngs:
            scales.append(np.exp((2 * rng.random(2) - 1) * limit))
            keeps.append(rng.random((config.depth, 2)) >= config.drop_path)
        return BackboneNoise(torch.from_numpy(np.stack(scales).astype(np.float32)), torch.from_numpy(np.stack(keeps)))

    @staticmethod
    def cat(parts: Sequence[BackboneNoise]) -> BackboneNoise:
        """The samples of ``parts`` one after the other."""
        return BackboneNoise(torch.cat([part.rope_scale for part in parts]), torch.cat([part.keep for part in parts]))

    def __len__(self) -> int:
        return len(self.rope_scale)

    def to(self, device: torch.device | str) -> BackboneNoise:
        """The same noise on ``device``."""
        return BackboneNoise(self.rope_scale.to(device), self.keep.to(device))
