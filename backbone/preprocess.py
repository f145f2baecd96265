"""From camera bytes to what the backbone reads."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

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


def fit(frames: Tensor, size: int | tuple[int, int] | None, patch_size: int) -> Tensor:
    """uint8 frames [..., 3, H, W] on the CPU -> the same at a size of whole patches, as training resizes them.

    ``size``: the shorter side, the longer one in proportion, both rounded to the nearest multiple of ``patch_size``;
    or (height, width), exactly; None rounds the size that they have. Anti-aliased and bilinear.

    Raises ValueError for another dtype or shape, and a (height, width) that is not in whole patches.
    """
    if frames.dtype != torch.uint8 or frames.ndim < 3 or frames.shape[-3] != 3 or 0 in frames.shape:
        raise ValueError(f"fit: expected uint8 frames [..., 3, H, W], found {frames.dtype} {list(frames.shape)}")
    sides = (int(frames.shape[-2]), int(frames.shape[-1]))
    if isinstance(size, tuple):
        height, width = size
        if height < 1 or width < 1 or height % patch_size or width % patch_size:
            raise ValueError(f"fit: size {height} x {width}: both sides must be multiples of patch_size = {patch_size}")
    else:
        height, width = whole_patches(sides, size, patch_size)
    if (height, width) == sides:
        return frames
    flat = frames.reshape(-1, 3, *sides)
    return interpolate(flat, (height, width), mode="bilinear", antialias=True).view(*frames.shape[:-2], height, width)


def whole_patches(sides: tuple[int, int], size: int | None, patch_size: int) -> tuple[int, int]:
    """The (height, width) that :func:`fit` brings frames of these ``sides`` to."""
    factor = 1.0 if size is None else size / min(sides)
    height, width = (max(1, round(side * factor / patch_size)) * patch_size for side in sides)
    return height, width
