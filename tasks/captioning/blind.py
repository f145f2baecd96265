"""What can be said about an image without seeing it: the guess that captions must beat."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interlace.data_recipes import Sample, generator
from interlace.data_recipes.statistics import scene

from .decoder import answer_loss, batch_rows, no_visual
from .options import BlindOptions
from .texts import Question, Row

#: One training scene in so many is kept apart to choose when the text-only decoder is trained enough.
KEPT_APART = 16
WARMUP_STEPS = 20
LENGTH_GROUPS = 4


@dataclass
class Blind:
    """Input-free predictors fitted on training texts."""

    decoder: Any  # the task's decoder, trained on the same texts without visual tokens
    answers: dict[str, str]  # OCR prompt -> its most common answer
    common: str  # the most common OCR answer of all; empty without OCR texts
    box: np.ndarray  # [4], the median of every side of the training boxes; the whole frame without boxes

    def common_answer(self, prompt: str) -> str:
        """The most common OCR answer to ``prompt``, or of all prompts if it is new."""
        return self.answers.get(prompt, self.common)


def count_answers(questions: Sequence[Question]) -> tuple[dict[str, str], str]:
    """The most common OCR answer to each prompt, and to all; ties go to the one seen first."""
    by_prompt: dict[str, Counter[str]] = {}
    for asked in questions:
        if asked.text.kind == "ocr":
            by_prompt.setdefault(asked.text.prompt, Counter())[asked.answer] += 1
    total = sum(by_prompt.values(), Counter())
    return {prompt: found.most_common(1)[0][0] for prompt, found in by_prompt.items()}, (
        total.most_common(1)[0][0] if total else ""
    )


def median_box(questions: Sequence[Question]) -> np.ndarray:
    """[4] the median of each side of all grounding boxes; the whole frame if there are none."""
    boxes = [asked.boxes for asked in questions if len(asked.boxes)]
    return np.median(np.concatenate(boxes), axis=0) if boxes else np.array([0.0, 0.0, 1.0, 1.0])


def fit_text_only(
    decoder: Any, questions: Sequence[Question], samples: Sequence[Sample], options: BlindOptions, seed: int
) -> Any:
    """Train ``decoder`` on the texts alone, and return it with the weights that were best on scenes kept apart.

    AdamW with a cosine rate for ``options.steps`` steps, on batches drawn from ``seed``; every ``check_every`` steps
    the loss is measured on one training scene in 16. Held-out samples play no part. Deterministic on one device.
    """
    rows = [asked.row for asked in questions]
    apart = _kept_apart([samples[asked.sample] for asked in questions], seed)
    train = [row for row, out in zip(rows, apart, strict=True) if row.answer and not out]
    check = [row for row, out in zip(rows, apart, strict=True) if row.answer and out]
    best, best_loss = None, math.inf
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=options.lr, betas=(0.9, 0.95), weight_decay=0.01)
    decoder.train()
    with torch.enable_grad():
        for step in range(options.steps if train else 0):
            chosen = generator(seed, "captioning", "blind", step).integers(0, len(train), options.batch)
            warm = min((step + 1) / WARMUP_STEPS, 1.0)
            for group in optimizer.param_groups:
                group["lr"] = options.lr * warm * (1 + math.cos(math.pi * step / options.steps)) / 2
            optimizer.zero_grad()
            _backward(decoder, [train[index] for index in chosen])
            torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            optimizer.step()
            if check and ((step + 1) % options.check_every == 0 or step + 1 == options.steps):
                loss = _mean_loss(decoder, check, options.batch)
                if loss < best_loss:
                    best, best_loss = deepcopy(decoder.state_dict()), loss
    if best is not None:
        decoder.load_state_dict(best)
    return decoder.eval().requires_grad_(False)


def _kept_apart(samples: Sequence[Sample], seed: int) -> list[bool]:
    """Which samples belong to the scenes kept apart: at least one scene where there are two, never all."""
    scenes = [scene(sample.key) for sample in samples]
    names = sorted(set(scenes))
    count = min(max(len(names) // KEPT_APART, 1), len(names) - 1) if names else 0
    chosen = {names[i] for i in generator(seed, "captioning", "kept apart").permutation(len(names))[:count]}
    return [name in chosen for name in scenes]


def _backward(decoder: Any, rows: Sequence[Row]) -> None:
    """Gradient of the mean over all answer tokens. Rows of like length go together: captions would pad boxes."""
    count = sum(len(row.answer) for row in rows)
    ordered = sorted(rows, key=lambda row: len(row.prompt) + len(row.answer))
    size = -(-len(rows) // LENGTH_GROUPS)
    for start in range(0, len(rows), size):
        losses, _ = _text_loss(decoder, ordered[start : start + size])
        (losses.sum() / count).backward()


def _text_loss(decoder: Any, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    device = decoder.get_input_embeddings().weight.device
    tokens, answer = batch_rows(rows, pad=0)
    return answer_loss(decoder, no_visual(decoder, len(rows)), tokens.to(device), answer.to(device))


def _mean_loss(decoder: Any, rows: Sequence[Row], batch: int) -> float:
    """Mean over all answer tokens."""
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(rows), batch):
            losses, _ = _text_loss(decoder, rows[start : start + batch])
            total, count = total + float(losses.sum()), count + len(losses)
    return total / count
