"""Samples beside their nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

SIDE, GAP, QUERIES, NEIGHBOURS = 96, 4, 6, 5  # pixels of a picture, pixels between, rows, neighbours a row


def draw_neighbours(frames: Sequence[np.ndarray], embeddings: Tensor, path: Path) -> None:
    """Write a sheet to ``path``: a row a sample, spread over the list, its frame first and then the frames of the
    samples with the largest dot product of embeddings [n, D]."""
    near = (embeddings @ embeddings.T).fill_diagonal_(float("-inf")).argsort(dim=1, descending=True).cpu()
    queries = [index * len(frames) // min(QUERIES, len(frames)) for index in range(min(QUERIES, len(frames)))]
    shown = min(NEIGHBOURS, len(frames) - 1)
    step = SIDE + GAP
    # A wider gap sets the query apart from its neighbours.
    sheet = Image.new("RGB", ((shown + 1) * step + 2 * GAP, len(queries) * step - GAP), "white")
    for row, query in enumerate(queries):
        for column, index in enumerate([query, *near[query, :shown].tolist()]):
            tile = Image.fromarray(frames[index]).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (column * step + (3 * GAP if column else 0), row * step))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
