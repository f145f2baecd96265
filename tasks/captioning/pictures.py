"""Answers drawn under their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..lettering import BLACK, BLUE, GREY, ORANGE, Colour, lettered
from .boxes import box_score, read_boxes
from .texts import Question

SIDE, LINES, COLUMNS, GAP = 256, 5, 4, 8  # pixels of a picture's width, lines of a text at most, pictures a row


def draw(
    frames: Sequence[np.ndarray], questions: Sequence[Question], answers: Sequence[str], bins: int, path: Path
) -> None:
    """Write a sheet to ``path``: under each frame [H, W, 3] uint8 its question, the answer after a word that judges it,
    and the truth. Blue: the truth and its boxes, and an answer that is the same; other colours: :func:`judged`."""
    tiles = [_tile(*one, bins) for one in zip(frames, questions, answers, strict=True)]
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    height = max(tile.height for tile in tiles)
    sheet = Image.new("RGB", (columns * (SIDE + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % columns * (SIDE + GAP), index // columns * (height + GAP)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def judged(asked: Question, answer: str, bins: int) -> tuple[str, Colour]:
    """What a reader is told of an answer, and its colour: correct or wrong; how far its boxes overlap the true ones.

    A caption is neither unless it is the true one: many are right.
    """
    if answer.strip() == asked.answer.strip():
        return "correct", BLUE
    if len(asked.boxes):
        return f"overlap {box_score(read_boxes(answer, bins), asked.boxes):.2f}", ORANGE
    return ("said", GREY) if asked.text.kind in ("caption", "grounding") else ("wrong", ORANGE)


def _tile(frame: np.ndarray, asked: Question, answer: str, bins: int) -> Image.Image:
    word, colour = judged(asked, answer, bins)
    said = f"{word}: {answer or '(nothing)'}"
    words = lettered([(asked.text.prompt, BLACK), (said, colour), (f"truth: {asked.answer}", BLUE)], SIDE, LINES)
    height = round(SIDE * frame.shape[0] / frame.shape[1])
    tile = Image.new("RGB", (SIDE, height + words.height), "white")
    tile.paste(Image.fromarray(frame).resize((SIDE, height), Image.Resampling.LANCZOS))
    tile.paste(words, (0, height))
    pen, last = ImageDraw.Draw(tile), np.array([SIDE - 1, height - 1] * 2)
    for boxes, outline in ((asked.boxes, BLUE), (read_boxes(answer, bins), colour)):
        for box in boxes:
            pen.rectangle([float(side) for side in np.asarray(box) * last], outline=outline, width=2)
    return tile
