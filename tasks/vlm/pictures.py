"""Questions and answers drawn under what they are about, failures among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from interlace.data_recipes import Sample

from ..captioning import pictures, texts
from .measures import Question
from .prompts import BINS

#: Frames of a video that are drawn side by side.
SHOWN = 4


def draw_answers(samples: Sequence[Sample], questions: Sequence[Question], answers: Sequence[str], path: Path) -> None:
    """A sheet: each question's frames, the question, the model's answer in red and the true one in green."""
    asked = [
        texts.Question(one.sample, one.text, one.text.answer, np.zeros((0, 4)), texts.Row([], [])) for one in questions
    ]
    pictures.draw(
        [_shown(samples[one.sample].frames[: one.text.frame + 1]) for one in questions], asked, answers, BINS, path
    )


def _shown(frames: np.ndarray) -> np.ndarray:
    """[H, W, 3]: an image, or four frames of a video in a square."""
    if len(frames) < SHOWN:
        return np.asarray(frames[-1])
    a, b, c, d = frames[np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)]
    return np.concatenate([np.concatenate([a, b], 1), np.concatenate([c, d], 1)], 0)
