"""Which patches the student does not see: random patches of an image, blocks through all frames of a clip."""

from __future__ import annotations

import math

import numpy as np

#: How often to redraw blocks that together leave nothing visible.
ATTEMPTS = 100


def random_mask(height: int, width: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """[height, width] bool with ``ratio`` of the patches True (rounded, at least one), uniformly chosen."""
    patches = height * width
    mask = np.zeros(patches, bool)
    mask[rng.permutation(patches)[: max(1, round(ratio * patches))]] = True
    return mask.reshape(height, width)


def multi_block_mask(
    height: int, width: int, blocks: int, scale: float, aspect: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """[height, width] bool: the union of ``blocks`` rectangles, to be repeated over all frames (V-JEPA's tubes).

    One size is drawn for all of a mask's blocks: ``scale`` of the patches, height / width uniform in ``aspect``. The
    positions are independent, and drawn again if no patch stays visible. Raises ValueError if none ever does.
    """
    area = int(height * width * scale)
    for _ in range(ATTEMPTS):
        ratio = rng.uniform(*aspect)
        rows = min(height, max(1, round(math.sqrt(area * ratio))))
        columns = min(width, max(1, round(math.sqrt(area / ratio))))
        mask = np.zeros((height, width), bool)
        for _ in range(blocks):
            top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
            mask[top : top + rows, left : left + columns] = True
        if not mask.all():
            return mask
    raise ValueError(
        f"{blocks} mask blocks of scale {scale} leave no visible patch on a {height} x {width} grid: "
        "use smaller or fewer blocks, or larger global crops"
    )
