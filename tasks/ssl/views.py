"""Crops of one decoded sample: the same window and the same colours in all frames of a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from interlace.data_recipes import DataError

from ..frames import choose_frames, random_crop, resize
from .options import GLOBAL_CROPS, SslOptions

#: Width / height of a crop: torchvision's RandomResizedCrop, which DINOv3 uses.
ASPECT = (3 / 4, 4 / 3)
#: Largest relative change of brightness, contrast and saturation, and of hue in turns: DINOv3.
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1
#: Brightness of an RGB pixel, ITU-R BT.601.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
SOLARISE_FROM = 128


@dataclass(frozen=True)
class Views:
    """``global_crops`` [2, T, 3, S, S] and ``local_crops`` [L, T, 3, s, s], uint8."""

    global_crops: np.ndarray
    local_crops: np.ndarray


def make_views(frames: np.ndarray, options: SslOptions, rng: np.random.Generator) -> Views:
    """All crops of a sample's ``frames`` [T, H, W, 3] uint8. An image stays one; a clip gets ``options.frames`` frames.

    Frames of a longer clip are left out evenly, those of a shorter one repeated. DataError where there is none.
    """
    if not len(frames):
        raise DataError("a sample without frames, of which ssl learns nothing")
    if len(frames) > 1:
        frames = frames[choose_frames(len(frames), options.frames)]
    height, width = frames.shape[1:3]

    def crop(size: int, area: tuple[float, float], blur: float, solarise: float) -> np.ndarray:
        box = random_crop(height, width, rng, area=area, aspect=ASPECT)
        pixels = resize(frames, (size, size), box=box, flip=bool(rng.random() < options.flip))
        return distort(pixels, options, rng, blur=blur, solarise=solarise)

    solarise = (0.0, options.solarise)
    return Views(
        np.stack(
            [crop(options.global_size, options.global_scale, options.blur[i], solarise[i]) for i in range(GLOBAL_CROPS)]
        ),
        np.stack(
            [crop(options.local_size, options.local_scale, options.blur[2], 0.0) for _ in range(options.local_crops)]
        ),
    )


def distort(
    pixels: np.ndarray, options: SslOptions, rng: np.random.Generator, *, blur: float, solarise: float
) -> np.ndarray:
    """Colour jitter, greyscale, blur and solarisation, each with its probability, alike in all frames.

    ``pixels`` [T, 3, H, W] uint8 -> the same. ``blur``, ``solarise``: this crop's probabilities.
    """
    matrix = np.eye(3, dtype=np.float32)
    contrast = 1.0
    if rng.random() < options.colour_jitter:
        matrix, contrast = colour_matrix(rng)
    if rng.random() < options.greyscale:
        matrix = np.outer(np.ones(3, np.float32), LUMA) @ matrix
    sigma = rng.uniform(*options.blur_sigma) if rng.random() < blur else 0.0
    solarised = rng.random() < solarise
    flat = pixels.reshape(len(pixels), 3, -1).astype(np.float32)
    x = matrix @ flat
    if contrast != 1.0:
        x = contrast * x + (1 - contrast) * np.float32((LUMA @ x).mean())
    x = np.clip(x, 0, 255).reshape(pixels.shape)
    if sigma:
        x = gaussian_blur(x, sigma)
    result = np.rint(x).astype(np.uint8)
    return np.where(result >= SOLARISE_FROM, 255 - result, result) if solarised else result


def colour_matrix(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Random brightness, saturation and hue as one RGB matrix [3, 3] float32, and a contrast factor.

    Hue is a rotation of colours around the grey axis; so all but the contrast is linear and costs one product.
    """
    brightness = rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS)
    contrast = rng.uniform(1 - CONTRAST, 1 + CONTRAST)
    saturation = rng.uniform(1 - SATURATION, 1 + SATURATION)
    angle = 2 * math.pi * rng.uniform(-HUE, HUE)
    grey = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    hue = math.cos(angle) * np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * grey
    saturate = saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), LUMA)
    return (brightness * saturate @ hue).astype(np.float32), float(contrast)


def gaussian_blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """``x`` [T, 3, H, W] float32 blurred by ``sigma`` pixels; cut off at two sigma (DINOv3: 9 taps), edges repeated."""
    radius = max(1, math.ceil(2 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).to(torch.float32)
    planes = torch.from_numpy(np.ascontiguousarray(x)).flatten(0, 1)[:, None]
    padded = F.pad(planes, (radius,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))
    return blurred.view(x.shape).numpy()
