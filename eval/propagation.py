"""Labels carried from a clip's first frame to all others by the similarity of patches (DINOv3's evaluation)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Propagation:
    """DINOv3's values. A cell's label is a mean over the ``neighbours`` most similar cells within ``radius`` cells, in
    the first frame and the last ``context`` frames, weighted by softmax(cosine / ``temperature``).

    Raises ValueError, naming the field, for a value that no propagation can have.
    """

    context: int = 7
    radius: float = 12.0
    neighbours: int = 5
    temperature: float = 0.2

    def __post_init__(self) -> None:
        for name, least in (("context", 0), ("radius", 0), ("neighbours", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"propagation: {name} is {getattr(self, name)}, it must be at least {least}")
        if not self.temperature > 0:
            raise ValueError(f"propagation: temperature is {self.temperature}, it must be positive")

    def settings(self) -> dict[str, Any]:
        return asdict(self)


def rounded_size(height: int, width: int, short_side: int, patch: int) -> tuple[int, int]:
    """A frame's size with its short side about ``short_side``, both sides rounded up to the patch, its shape kept."""
    short = math.ceil(short_side / patch) * patch
    if width > height:
        return short, math.ceil(width * short / height / patch) * patch
    return math.ceil(height * short / width / patch) * patch, short


def nearby(rows: int, columns: int, radius: float) -> Tensor:
    """[rows * columns, rows * columns] bool: pairs of cells whose distance is at most ``radius``."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    y, x = y.flatten(), x.flatten()
    return (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2 <= radius**2


def first_labels(mask: Tensor, classes: int, rows: int, columns: int) -> Tensor:
    """[rows * columns, classes] one-hot of a mask [H, W] of ids, each cell the pixel nearest to its centre."""
    cells = F.interpolate(mask[None, None].float(), (rows, columns), mode="nearest-exact")[0, 0]
    return F.one_hot(cells.long().flatten(), classes).float()


def propagate(features: Iterable[Tensor], first_mask: Tensor, values: Propagation) -> Iterator[Tensor]:
    """Ids [H, W] uint8 of every frame after the first.

    ``features``: each frame's patches [h, w, D], the first frame's first; they are L2-normalised here. ``first_mask``
    [H, W]: ids 0 (background) to K. Only the first and the last ``context`` frames are kept.
    """
    classes = int(first_mask.max()) + 1
    size = (first_mask.shape[0], first_mask.shape[1])
    context: deque[tuple[Tensor, Tensor]] = deque(maxlen=values.context)
    first: tuple[Tensor, Tensor] | None = None
    for patches in features:
        rows, columns = patches.shape[:2]
        cells = F.normalize(patches.flatten(0, 1), dim=-1)
        if first is None:
            first = (cells, first_labels(first_mask, classes, rows, columns).to(cells.device))
            near = nearby(rows, columns, values.radius).to(cells.device)
            continue
        known = [first, *context]
        labels = carry(
            cells, torch.stack([each[0] for each in known]), torch.cat([each[1] for each in known]), near, values
        )
        context.append((cells, labels))
        yield to_pixels(labels.reshape(rows, columns, classes), size).cpu()


def carry(cells: Tensor, context: Tensor, labels: Tensor, near: Tensor, values: Propagation) -> Tensor:
    """Labels [n, classes] of ``cells`` [n, D] from those [c * n, classes] of ``context`` [c, n, D], all normalised."""
    similarity = torch.einsum("id,cjd->icj", cells, context)
    similarity = similarity.masked_fill(~near[:, None], -torch.inf).flatten(1)
    best, places = similarity.topk(min(values.neighbours, similarity.shape[1]), dim=1)
    weights = (best / values.temperature).softmax(1)
    return torch.einsum("ik,ikc->ic", weights, labels[places])


def to_pixels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """[H, W] uint8 of labels [h, w, classes]: enlarged to the nearest, each class stretched to 0...1, the largest wins.

    A class that is the same everywhere is nowhere.
    """
    large = F.interpolate(labels.permute(2, 0, 1)[None], size, mode="nearest")[0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    stretched = torch.where(high > low, (large - low) / (high - low).clamp_min(torch.finfo(large.dtype).tiny), 0)
    return stretched.argmax(0).to(torch.uint8)
