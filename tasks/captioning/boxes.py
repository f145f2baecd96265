"""Boxes as text and back. Boxes are normalised xyxy."""

from __future__ import annotations

import re

import numpy as np

from interlace.data_recipes import Text

#: Where a prompt or an answer wants the next of its boxes.
PLACE = "<box>"


def write_box(box: np.ndarray, bins: int) -> str:
    """``box`` [4] -> ``"[x1 y1 x2 y2]"``: the cells of a ``bins`` x ``bins`` grid that its corners lie in.

    Every number has the same count of digits, so that every box has the same length.
    """
    cells = np.clip(np.floor(np.asarray(box, np.float64) * bins), 0, bins - 1).astype(int)
    digits = len(str(bins - 1))
    return "[" + " ".join(f"{cell:0{digits}d}" for cell in cells) + "]"


def read_boxes(text: str, bins: int) -> np.ndarray:
    """All boxes written in ``text``, with corners at the centres of their cells: [n, 4] float64.

    Four numbers in brackets are a box; cells outside the grid and corners in the wrong order are not.
    """
    found = re.findall(r"\[\s*(\d{1,4})\s+(\d{1,4})\s+(\d{1,4})\s+(\d{1,4})\s*\]", text)
    cells = np.array(found, np.float64).reshape(-1, 4)
    valid = (cells < bins).all(1) & (cells[:, :2] <= cells[:, 2:]).all(1)
    return (cells[valid] + 0.5) / bins


def place_boxes(text: Text, bins: int) -> tuple[str, str]:
    """The prompt and the answer of ``text`` with its boxes written in.

    Boxes go, in order, where the prompt and then the answer say ``<box>``. What a grounding text then has left over is
    its whole answer: the data need not know how boxes are written. ValueError if places and boxes do not match.
    """
    written = [write_box(box, bins) for box in text.boxes]
    places = text.prompt.count(PLACE) + text.answer.count(PLACE)
    rest = written[places:] if text.kind == "grounding" else []
    if places > len(written) or (rest and PLACE in text.answer):
        raise ValueError(f"text {text.prompt!r}: {places} times {PLACE}, but {len(written)} boxes")
    placed = iter(written)
    prompt, answer = (re.sub(PLACE, lambda _: next(placed), part) for part in (text.prompt, text.answer))
    return prompt, " ".join(rest) or answer


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes [4]; 0 where the union is empty."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inter = float(np.prod(np.maximum(sides, 0)))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - inter
    return inter / union if union > 0 else 0.0


def box_score(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean IoU of two lists of boxes [n, 4], [m, 4], paired in order; what one list has more counts as 0."""
    scores = [iou(one, other) for one, other in zip(predicted, true, strict=False)]
    return sum(scores) / max(len(predicted), len(true), 1)
