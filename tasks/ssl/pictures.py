"""What self-supervised features see: their principal components over a clip, and what they find alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from interlace.backbone import Backbone, normalise
from interlace.data_recipes import Sample

from ..lettering import BLACK, BLUE, lettered
from .measures import cls_features, directions, probe
from .options import SslOptions

#: Side of a frame in a picture, pixels; the gap between frames.
CELL, GAP = 112, 4
#: Pixels between queries and their neighbours, and of the line around a query.
APART, FRAME = 16, 4
#: Frames of a clip in a picture, clips drawn, queries, neighbours of a query.
FRAMES, CLIPS, QUERIES, NEIGHBOURS = 8, 3, 6, 5


def draw(backbone: Backbone, samples: Sequence[Sample], folder: Path, label: str, options: SslOptions) -> list[Path]:
    """``LABEL_pca_N.png`` of some samples, clips first, and ``LABEL_neighbours.png`` if there are two or more."""
    folder.mkdir(parents=True, exist_ok=True)
    wide = options.model_copy(update={"probe_frames": FRAMES})
    clips = [sample for sample in samples if len(sample.frames) > 1] or list(samples)
    drawn: list[Path] = []
    for number, place in enumerate(evenly(len(clips), CLIPS)):
        drawn.append(folder / f"{label}_pca_{number}.png")
        pca_picture(backbone, probe(clips[place], wide)).save(drawn[-1])
    if len(samples) > 1:
        drawn.append(folder / f"{label}_neighbours.png")
        neighbours_picture(backbone, [probe(sample, options) for sample in samples]).save(drawn[-1])
    return drawn


def pca_picture(backbone: Backbone, frames: np.ndarray) -> Image.Image:
    """``frames`` [T, 3, S, S] uint8: the frames above the first three components of their patches as colours."""
    pixels = torch.from_numpy(frames).to(next(backbone.parameters()).device)
    patches = backbone(normalise(pixels)[None]).patches[0].float().cpu()
    colours = principal_colours(patches.flatten(0, 2)).unflatten(0, patches.shape[:3]).permute(0, 3, 1, 2)
    return grid([list(frames), list((colours * 255).byte().numpy())])


def principal_colours(rows: Tensor) -> Tensor:
    """[n, 3] in 0..1: the first three principal components of ``rows`` [n, D], each from its 1% to its 99% quantile.

    A component's sign is chosen so that its largest loading is positive; a component without variance is 0.5.
    """
    centred = rows - rows.mean(dim=0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = F.pad(axes, (0, 0, 0, max(0, 3 - len(axes))))[:3]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    scores = centred @ (axes * torch.where(largest < 0, -1.0, 1.0)).T
    low, high = scores.quantile(0.01, dim=0), scores.quantile(0.99, dim=0)
    flat = high - low <= 1e-6 * rows.abs().max()
    return torch.where(flat, 0.5, ((scores - low) / (high - low).clamp_min(1e-12)).clamp(0, 1))


def neighbours_picture(backbone: Backbone, clips: Sequence[np.ndarray]) -> Image.Image:
    """Some clips' middle frames, each followed by those of its nearest other clips by CLS."""
    features = cls_features(backbone, clips)
    features, _ = directions(features, features)
    similarity = (features @ features.T).fill_diagonal_(-torch.inf)
    rows = []
    for query in evenly(len(clips), QUERIES):
        near = similarity[query].topk(min(NEIGHBOURS, len(clips) - 1)).indices.tolist()
        rows.append([clips[place][len(clips[place]) // 2] for place in [query, *near]])
    return neighbours_grid(rows)


def neighbours_grid(rows: Sequence[Sequence[np.ndarray]]) -> Image.Image:
    """Pictures [3, h, w] uint8 under a heading, the first of each row, the query, framed in blue and set apart."""
    queries, near = grid([row[:1] for row in rows]), grid([row[1:] for row in rows])
    pen = ImageDraw.Draw(queries)
    for top in range(0, queries.height, CELL + GAP):
        pen.rectangle((0, top, CELL - 1, top + CELL - 1), outline=BLUE, width=FRAME)
    heads = [lettered([(text, BLACK)], CELL, 1) for text in ("query", "nearest first")]
    left, below = CELL + APART, heads[0].height
    sheet = Image.new("RGB", (left + near.width, below + near.height), "white")
    for head, page, x in zip(heads, (queries, near), (0, left), strict=True):
        sheet.paste(head, (x, 0))
        sheet.paste(page, (x, below))
    return sheet


def evenly(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` of ``count`` indices, evenly spaced from the first."""
    wanted = min(count, wanted)
    return [place * count // wanted for place in range(wanted)]


def grid(rows: Sequence[Sequence[np.ndarray]]) -> Image.Image:
    """Pictures [3, h, w] uint8 of any size, row by row, on white."""
    width = max(len(row) for row in rows)
    page = Image.new("RGB", (width * (CELL + GAP) - GAP, len(rows) * (CELL + GAP) - GAP), "white")
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            cell = Image.fromarray(picture.transpose(1, 2, 0)).resize((CELL, CELL), Image.Resampling.BICUBIC)
            page.paste(cell, (across * (CELL + GAP), down * (CELL + GAP)))
    return page
