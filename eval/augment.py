"""How probes of images resize, cut and colour: the protocols' rules on uint8 pixels [3, H, W]."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

#: A box (left, top, right, bottom) in pixels.
Box = tuple[int, int, int, int]

#: ImageNet's mean colour: what pads an image is then 0 after normalisation.
PADDING = (124, 116, 104)


def to_pixels(image: np.ndarray) -> Tensor:
    """[H, W, 3] uint8 -> [3, H, W] uint8."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def resized(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """[..., H, W] uint8 -> [..., *size], anti-aliased "bicubic" or "bilinear"."""
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    return F.interpolate(pixels[None], size, mode=mode, antialias=True)[0]


def short_side(height: int, width: int, size: float) -> tuple[int, int]:
    """The size of an image whose short side becomes ``size``."""
    factor = size / min(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def resized_crop_box(height: int, width: int, rng: np.random.Generator) -> Box:
    """A box of 8% to 100% of the area, its width / height log-uniform in 3/4 to 4/3; the middle after ten misses."""
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
            return left, top, left + wide, top + high
    wide, high = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def cut(values: Tensor, box: Box) -> Tensor:
    """[..., H, W] -> the box of it."""
    left, top, right, bottom = box
    return values[..., top:bottom, left:right]


def random_box(height: int, width: int, size: tuple[int, int], rng: np.random.Generator) -> Box:
    """A box of ``size`` (height, width) anywhere, or of what there is where the image is smaller."""
    high, wide = min(height, size[0]), min(width, size[1])
    left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
    return left, top, left + wide, top + high


def padded(pixels: Tensor, mask: Tensor, size: tuple[int, int], ignored: int) -> tuple[Tensor, Tensor]:
    """Pixels [3, h, w] and mask [h, w] at ``size``, below and to the right: the mean colour, ``ignored``."""
    high, wide = mask.shape
    whole = torch.tensor(PADDING, dtype=torch.uint8)[:, None, None].expand(3, *size).clone()
    classes = torch.full(size, ignored, dtype=mask.dtype)
    whole[:, :high, :wide], classes[:high, :wide] = pixels, mask
    return whole, classes


def distorted(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Photometric distortion of SSD, each part with probability 1/2: brightness, contrast, saturation, hue."""
    values = pixels.float()
    contrast_last = rng.random() < 0.5
    if rng.random() < 0.5:
        values = values + rng.uniform(-32, 32)
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    if not contrast_last:
        values = values * contrast
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    turn = int(rng.integers(-18, 19)) if rng.random() < 0.5 else 0  # of 180: OpenCV's degrees of hue
    if saturation != 1 or turn:
        rgb = values.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        hsv = np.array(Image.fromarray(rgb).convert("HSV")).astype(np.float32)
        hsv[..., 0] = (hsv[..., 0] + turn * 256 / 180) % 256
        hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 255)
        back = Image.fromarray(hsv.astype(np.uint8), mode="HSV").convert("RGB")
        values = to_pixels(np.array(back)).float()
    if contrast_last:
        values = values * contrast
    return values.round().clamp(0, 255).to(torch.uint8)
