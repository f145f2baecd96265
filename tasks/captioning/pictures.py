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
LETTERS = 42  # in a line, at most
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
        for line in fitted(text, font, 3 if colour != (0, 0, 0) else 1):
            pen.text((2, y), line, fill=colour, font=font)
            y += LINE
    return tile


def fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, most: int) -> list[str]:
    """At most ``most`` lines of a text, none wider than a picture; what is left out is told by an ellipsis."""
    widths = (textwrap.wrap(text, count, max_lines=most, placeholder=" …") for count in range(LETTERS, 2, -1))
    return next(lines for lines in widths if all(font.getlength(line) <= SIDE - 4 for line in lines))
