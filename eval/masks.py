"""How well masks fit, as DAVIS 2017 measures it: region J, boundary F, and their mean, recall and decay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

#: How far boundaries may be apart, as a share of the picture's diagonal; a frame above HIT counts for recall.
TOLERANCE, HIT = 0.008, 0.5
#: Parts of a sequence: decay is the first part's mean minus the last part's.
PARTS = 4


@dataclass(frozen=True)
class Statistics:
    """Of one object over the frames that count."""

    mean: float
    recall: float
    decay: float


def region(guess: np.ndarray, truth: np.ndarray) -> float:
    """J: intersection over union of two masks [H, W] bool; 1 where both are empty."""
    union = np.count_nonzero(guess | truth)
    return np.count_nonzero(guess & truth) / union if union else 1.0


def boundary(guess: np.ndarray, truth: np.ndarray) -> float:
    """F: harmonic mean of the shares of each mask's boundary that lie within the tolerance of the other's."""
    radius = int(np.ceil(TOLERANCE * np.hypot(*guess.shape)))
    mine, other = outline(guess), outline(truth)
    mine_count, other_count = np.count_nonzero(mine), np.count_nonzero(other)
    if not mine_count or not other_count:
        return float(mine_count == other_count)
    precision = np.count_nonzero(mine & widened(other, radius)) / mine_count
    recall = np.count_nonzero(other & widened(mine, radius)) / other_count
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def outline(mask: np.ndarray) -> np.ndarray:
    """[H, W] bool: pixels that differ from their neighbour to the right, below or both; never the last corner."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    edge = (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])
    edge[-1, -1] = False
    return edge


def widened(mask: np.ndarray, radius: int) -> np.ndarray:
    """[H, W] bool: pixels whose distance from one of the mask's is at most ``radius`` pixels."""
    offsets = torch.arange(-radius, radius + 1)
    disc = (offsets[:, None] ** 2 + offsets**2 <= radius**2).float()
    near = F.conv2d(torch.from_numpy(mask)[None, None].float(), disc[None, None], padding=radius)
    return (near[0, 0] > 0.5).numpy()


def statistics(values: np.ndarray) -> Statistics:
    """Of J or F by frame [t], the first and last frame of the sequence already left out."""
    edges = np.round(np.linspace(1, len(values), PARTS + 1) + 1e-10).astype(int) - 1
    first, last = values[: edges[1] + 1], values[edges[-2] : edges[-1] + 1]
    return Statistics(float(values.mean()), float((values > HIT).mean()), float(first.mean() - last.mean()))
