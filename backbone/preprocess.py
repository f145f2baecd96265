"""From camera bytes to what the backbone reads."""

from __future__ import annotations

import torch
from torch import Tensor

#: ImageNet's channel statistics on the 0..1 scale, RGB: what DINOv3 was trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(frames: Tensor) -> Tensor:
    """uint8 RGB [..., 3, H, W] -> float32 of the same shape with ImageNet's mean and deviation, on the same device.

    Raises ValueError for another dtype or channel count.
    """
    if frames.dtype != torch.uint8 or frames.ndim < 3 or frames.shape[-3] != 3:
        raise ValueError(
            f"normalise: expected uint8 frames [..., 3, H, W], found {frames.dtype} {list(frames.shape)}; "
            "channels go before height and width"
        )
    mean = torch.tensor(MEAN, device=frames.device).view(3, 1, 1)
    std = torch.tensor(STD, device=frames.device).view(3, 1, 1)
    return (frames.float() / 255 - mean) / std
