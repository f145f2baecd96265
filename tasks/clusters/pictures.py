"""Samples beside their nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..ssl.pictures import evenly, neighbours_grid

QUERIES, NEIGHBOURS = 6, 5  # rows, neighbours a row


def draw_neighbours(frames: Sequence[np.ndarray], embeddings: Tensor, path: Path) -> None:
    """Write a sheet to ``path``: a row a sample, spread over the list, its frame [H, W, 3] uint8 first and then the
    frames of the samples with the largest dot product of embeddings [n, D]."""
    near = (embeddings @ embeddings.T).fill_diagonal_(float("-inf")).argsort(dim=1, descending=True).cpu()
    shown = min(NEIGHBOURS, len(frames) - 1)
    rows = [
        [frames[index].transpose(2, 0, 1) for index in (query, *near[query, :shown].tolist())]
        for query in evenly(len(frames), QUERIES)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    neighbours_grid(rows).save(path)
