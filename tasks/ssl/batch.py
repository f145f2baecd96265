"""Samples to batches: images and clips apart, each stacked, the same groups on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from interlace.backbone import BackboneConfig, BackboneNoise
from interlace.data_recipes import Sample

from .masks import multi_block_mask, random_mask
from .options import GLOBAL_CROPS, SslOptions
from .views import Views, make_views

#: The groups of a batch, in the order in which they go through the backbone.
GROUPS = ("image", "clip")


@dataclass(frozen=True)
class Item:
    """One sample made ready. ``masks`` [2, h, w] bool, the same in all frames; noise of the 2 global, L local crops."""

    group: str
    views: Views
    masks: np.ndarray
    global_noise: BackboneNoise
    local_noise: BackboneNoise


def make_item(sample: Sample, options: SslOptions, backbone: BackboneConfig, rng: np.random.Generator) -> Item:
    """Draw the sample's crops, masks and backbone noise."""
    group = "clip" if len(sample.frames) > 1 else "image"
    views = make_views(sample.frames, options, rng)
    grid = backbone.grid(options.global_size, options.global_size)
    masks = np.stack([make_mask(group, crop, grid, options, rng) for crop in range(GLOBAL_CROPS)])
    global_noise = BackboneNoise.draw(backbone, [rng] * GLOBAL_CROPS)
    return Item(group, views, masks, global_noise, BackboneNoise.draw(backbone, [rng] * options.local_crops))


def make_mask(
    group: str, crop: int, grid: tuple[int, int], options: SslOptions, rng: np.random.Generator
) -> np.ndarray:
    """[h, w] bool, the patches of global crop ``crop`` that the student does not see."""
    if group == "clip":
        blocks = options.video_masks[crop]
        return multi_block_mask(*grid, blocks.count, blocks.scale, options.video_mask_aspect, rng)
    if rng.random() >= options.image_mask_probability:
        return np.zeros(grid, bool)
    return random_mask(*grid, rng.uniform(*options.image_mask_ratio), rng)


def dummy_item(group: str, options: SslOptions, backbone: BackboneConfig) -> Item:
    """A black sample without masks. It stands where a rank has no sample of a group, and its features are dropped."""
    length = 1 if group == "image" else options.frames
    views = Views(
        np.zeros((GLOBAL_CROPS, length, 3, options.global_size, options.global_size), np.uint8),
        np.zeros((options.local_crops, length, 3, options.local_size, options.local_size), np.uint8),
    )
    masks = np.zeros((GLOBAL_CROPS, *backbone.grid(options.global_size, options.global_size)), bool)
    rng = np.random.default_rng(0)
    global_noise = BackboneNoise.draw(backbone, [rng] * GLOBAL_CROPS)
    return Item(group, views, masks, global_noise, BackboneNoise.draw(backbone, [rng] * options.local_crops))


def collate(items: Sequence[Item], options: SslOptions, backbone: BackboneConfig) -> dict[str, Any]:
    """``{"image": group, "clip": group}``; see :func:`stack`. A group without samples holds a dummy and ``count`` 0."""
    batch = {}
    for group in GROUPS:
        members = [item for item in items if item.group == group]
        batch[group] = stack(members or [dummy_item(group, options, backbone)]) | {"count": len(members)}
    return batch


def stack(items: Sequence[Item]) -> dict[str, Any]:
    """n items of one group as tensors.

    ``global`` [2n, T, 3, S, S] and ``local`` [L * n, T, 3, s, s] uint8, a sample's crops beside each other; ``mask``
    [2n, T, h, w] bool; ``masked`` [m] int64, where the flattened mask is True, and ``weight`` [m] float32, one over
    the masked patches of the same crop; ``global_noise`` and ``local_noise``, one row a crop.
    """
    global_crops = torch.from_numpy(np.concatenate([item.views.global_crops for item in items]))
    masks = torch.from_numpy(np.concatenate([item.masks for item in items]))
    mask = masks[:, None].repeat(1, global_crops.shape[1], 1, 1)
    per_crop = mask.flatten(1).sum(dim=1)
    return {
        "global": global_crops,
        "local": torch.from_numpy(np.concatenate([item.views.local_crops for item in items])),
        "mask": mask,
        "masked": mask.flatten().nonzero().squeeze(1),
        "weight": (1 / per_crop.float()).repeat_interleave(per_crop),
        "global_noise": BackboneNoise.cat([item.global_noise for item in items]),
        "local_noise": BackboneNoise.cat([item.local_noise for item in items]),
    }
