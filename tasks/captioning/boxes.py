"""Boxes as text and back. Boxes are normalised xyxy."""

from __future__ import annotations

import re

import numpy as np

from interlace.data_recipes import Text

#: Where a prompt or an answer wants the next of its boxes.
PLACE = "<box>"


def write_box(box: np.ndarray, bins: int) -> str:
    """``box`` [4] -> ``"x1 y1 x2 y2"``: its sides as the nearest of 0 ... ``bins``, at least one apart."""
    box = np.asarray(box, np.float64)
    sides = np.clip(np.round(box * bins), 0, bins).astype(int)
    for low, high in ((0, 2), (1, 3)):
        if sides[high] <= sides[low]:
            sides[low] = min(max(int(box[low] * bins), 0), bins - 1)
            sides[high] = sides[low] + 1
    return " ".join(str(side) for side in sides)


def read_boxes(text: str, bins: int) -> np.ndarray:
    """All boxes written in ``text``: [n, 4] float64.

    A box is four whole numbers up to ``bins`` in a row, no fewer and no more, with its corners in the right order.
    """
    runs = [run.split() for run in re.findall(r"\d+(?: \d+)*", text)]
    boxes = np.array([run for run in runs if len(run) == 4], np.float64).reshape(-1, 4)
    valid = (boxes <= bins).all(1) & (boxes[:, :2] < boxes[:, 2:]).all(1)
    return boxes[valid] / bins


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
    return prompt, ", ".join(rest) or answer


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
