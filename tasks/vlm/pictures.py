"""Questions and answers drawn under what they are about, failures among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from interlace.data_recipes import Sample

from ..captioning import pictures, texts
from .measures import Question
from .prompts import BINS

#: How frames are laid out, in rows and columns, and what a reader is told of them.
ONE, TWO, FOUR = ((1, 1), ""), ((1, 2), " (first and last frame)"), ((2, 2), " (four frames in reading order)")
#: A frame is so many times as wide as the white between frames.
APART = 32


def draw_answers(samples: Sequence[Sample], questions: Sequence[Question], answers: Sequence[str], path: Path) -> None:
    """A sheet: each question's frames, the question, the model's answer and whether it is right, and the true one."""
    frames, asked = [], []
    for one in questions:
        shown, note = _shown(samples[one.sample].frames[: one.text.frame + 1])
        frames.append(shown)
        text = replace(one.text, prompt=one.text.prompt + note)
        asked.append(texts.Question(one.sample, text, text.answer, np.zeros((0, 4)), texts.Row([], [])))
    pictures.draw(frames, asked, answers, BINS, path)


def _shown(frames: np.ndarray) -> tuple[np.ndarray, str]:
    """[T, H, W, 3] -> [H', W', 3], and what a reader is told: an image, or frames of a video beside each other."""
    (rows, columns), note = ONE if len(frames) == 1 else TWO if len(frames) < 4 else FOUR
    chosen = frames[np.linspace(0, len(frames) - 1, rows * columns).round().astype(int)]
    gap = -(-frames.shape[2] // APART)
    apart = np.pad(chosen, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    lines = [np.concatenate(line, 1) for line in np.split(apart, rows)]
    return np.concatenate(lines)[:-gap, :-gap], note
