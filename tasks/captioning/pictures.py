"""Answers drawn under their pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .boxes import read_boxes
from .texts import Question

SIDE, LINES, LINE, COLUMNS, GAP = 256, 7, 16, 4, 8  # pixels of a picture, text lines, pixels of one, pictures a row
TRUE, PREDICTED = (0, 150, 60), (210, 40, 40)


def draw(
    frames: Sequence[np.ndarray], questions: Sequence[Question], answers: Sequence[str], bins: int, path: Path
) -> None:
    """Write a sheet to ``path``: each frame [H, W, 3] uint8 with its question, true answer and boxes in green, the
    predicted answer and boxes in red."""
    tiles = [_tile(*one, bins) for one in zip(frames, questions, answers, strict=True)]
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    width, height = tiles[0].size
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % columns * (width + GAP), index // columns * (height + GAP)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _tile(frame: np.ndarray, asked: Question, answer: str, bins: int) -> Image.Image:
    tile = Image.new("RGB", (SIDE, SIDE + LINES * LINE), "white")
    tile.paste(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(size=12)
    for boxes, colour in ((asked.boxes, TRUE), (read_boxes(answer, bins), PREDICTED)):
        for box in boxes:
            pen.rectangle([float(side) for side in np.asarray(box) * (SIDE - 1)], outline=colour, width=2)
    y = SIDE + 2
    for text, colour in ((asked.text.prompt, (0, 0, 0)), (answer or "(nothing)", PREDICTED), (asked.answer, TRUE)):
        for line in textwrap.wrap(text, 42, max_lines=3 if colour != (0, 0, 0) else 1, placeholder=" …"):
            pen.text((2, y), line, fill=colour, font=font)
            y += LINE
    return tile
