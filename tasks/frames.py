"""Choosing, cropping and resizing a sample's frames in a loader worker: numpy and uint8 throughout."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn.functional import interpolate


def choose_frames(length: int, count: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """``count`` frames spread over a clip of ``length``, in order: one in each of ``count`` equal parts.

    A random frame of each part, or without ``rng`` its middle one. A clip shorter than ``count`` repeats frames.
    Returns [count] int64.
    """
    within = np.full(count, 0.5) if rng is None else rng.random(count)
    return np.minimum(((np.arange(count) + within) * length / count).astype(np.int64), length - 1)


def random_crop(
    height: int, width: int, rng: np.random.Generator, *, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A random box (left, top, right, bottom) in pixels inside a frame of ``height`` x ``width``.

    Its share of the frame's area is uniform in ``area``, its width / height log-uniform in ``aspect``; a side that
    does not fit is cut to the frame's.
    """
    share, ratio = rng.uniform(*area), math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
    pixels = share * height * width
    box_width = min(max(round(math.sqrt(pixels * ratio)), 1), width)
    box_height = min(max(round(math.sqrt(pixels / ratio)), 1), height)
    left, top = int(rng.integers(width - box_width + 1)), int(rng.integers(height - box_height + 1))
    return left, top, left + box_width, top + box_height


def resize(
    frames: np.ndarray, size: tuple[int, int], *, box: tuple[int, int, int, int] | None = None, flip: bool = False
) -> np.ndarray:
    """Cut ``box`` (left, top, right, bottom) out of every frame, resize it, and mirror it left to right if ``flip``.

    ``frames`` [T, H, W, 3] uint8, ``size`` (height, width). Anti-aliased and bilinear. Returns [T, 3, height, width]
    uint8, contiguous.
    """
    if box is not None:
        left, top, right, bottom = box
        frames = frames[:, top:bottom, left:right]
    if flip:
        frames = frames[:, :, ::-1]
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if tuple(pixels.shape[-2:]) != size:
        pixels = interpolate(pixels, size, mode="bilinear", antialias=True)
    return pixels.contiguous().numpy()
