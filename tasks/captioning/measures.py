"""What a decoder answers to held-out questions, and how good that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..interface import Measure
from .blind import Blind
from .boxes import box_score, read_boxes
from .decoder import answer_loss, batch_rows, greedy
from .texts import Question
from .tokenizer import Tokenizer

#: Questions answered together.
CHUNK = 32

#: What the measures are, for a reader.
MEANINGS = {
    "token_ce": "surprise at the true answer: cross-entropy in nats a token, over all texts of a sample",
    "ocr_match": "share of questions about written words, 0 to 1, answered letter by letter as in truth",
    "box_iou": "overlap of the answered box and the true one, intersection over union, 0 to 1",
}


@dataclass(frozen=True)
class Reply:
    """What a decoder makes of one question."""

    loss: float  # sum of the cross-entropy of the true answer's tokens
    tokens: int  # of the true answer
    text: str  # the greedy answer; empty where none was generated


def ask(
    decoder: Any,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    visual: Callable[[Sequence[Question]], Tensor],
    *,
    generate: Callable[[Question], bool],
    limit: int,
) -> list[Reply]:
    """The decoder's reply to each question; ``visual`` gives the questions' visual tokens [R, V, E]."""
    replies: list[Reply] = []
    for start in range(0, len(questions), CHUNK):
        chunk = questions[start : start + CHUNK]
        seen = visual(chunk)
        tokens, answer = (part.to(seen.device) for part in batch_rows([asked.row for asked in chunk], tokenizer.pad))
        losses, row = answer_loss(decoder, seen, tokens, answer)
        sums = torch.zeros(len(chunk), dtype=losses.dtype, device=seen.device).index_add_(0, row, losses).tolist()
        wanted = [index for index, asked in enumerate(chunk) if generate(asked)]
        texts = [""] * len(chunk)
        if wanted:
            prompts = [chunk[index].row.prompt for index in wanted]
            found = greedy(decoder, seen[wanted], prompts, eos=tokenizer.eos, pad=tokenizer.pad, limit=limit)
            for index, answered in zip(wanted, found, strict=True):
                texts[index] = tokenizer.decode(answered)
        replies += [
            Reply(total, len(asked.row.answer), text) for total, asked, text in zip(sums, chunk, texts, strict=True)
        ]
    return replies


def mean_by_sample(
    samples: int, questions: Sequence[Question], sums: Sequence[float], counts: Sequence[float]
) -> np.ndarray:
    """[samples] float64: the questions' sums over their counts, added up by sample; NaN where the count is 0."""
    owner = np.array([asked.sample for asked in questions], np.int64)
    total = np.bincount(owner, weights=np.asarray(sums, np.float64), minlength=samples)
    count = np.bincount(owner, weights=np.asarray(counts, np.float64), minlength=samples)
    return np.divide(total, count, out=np.full(samples, np.nan), where=count > 0)


def measures(
    samples: int,
    questions: Sequence[Question],
    own: Sequence[Reply],
    swapped: Sequence[Reply],
    text_only: Sequence[Reply],
    blind: Blind,
    bins: int,
) -> list[Measure]:
    """``token_ce``, ``ocr_match`` and ``box_iou``, each only if it applies to a question."""
    if not any(reply.tokens for reply in own):
        return []
    every = range(len(questions))
    ocr = [i for i in every if questions[i].text.kind == "ocr"]
    grounding = [i for i in every if len(questions[i].boxes)]

    def cross_entropy(replies: Sequence[Reply]) -> np.ndarray:
        return mean_by_sample(samples, questions, [r.loss for r in replies], [r.tokens for r in replies])

    def over(which: Sequence[int], scores: Sequence[float]) -> np.ndarray:
        return mean_by_sample(samples, [questions[i] for i in which], scores, [1] * len(which))

    def match(texts: Sequence[str]) -> np.ndarray:
        same = [text.strip() == questions[i].answer.strip() for i, text in zip(ocr, texts, strict=True)]
        return over(ocr, [float(one) for one in same])

    def overlap(boxes: Sequence[np.ndarray]) -> np.ndarray:
        return over(grounding, [box_score(b, questions[i].boxes) for i, b in zip(grounding, boxes, strict=True)])

    found = [_measure("token_ce", "lower", *(cross_entropy(replies) for replies in (own, swapped, text_only)))]
    if ocr:
        common = match([blind.common_answer(questions[i].text.prompt) for i in ocr])
        answered = [match([replies[i].text for i in ocr]) for replies in (own, swapped, text_only)]
        found.append(_measure("ocr_match", "higher", *answered, common))
    if grounding:
        median = overlap([blind.box[None]] * len(grounding))
        read = [
            overlap([read_boxes(replies[i].text, bins) for i in grounding]) for replies in (own, swapped, text_only)
        ]
        found.append(_measure("box_iou", "higher", *read, median))
    return found


def _measure(
    name: str, better: Literal["lower", "higher"], values: np.ndarray, swapped: np.ndarray, *fixed: np.ndarray
) -> Measure:
    """``fixed``: input-free guesses, of which the best in the mean on these very samples counts."""
    best = (min if better == "lower" else max)(fixed, key=lambda guess: float(np.nanmean(guess)))
    return Measure(name=name, better=better, values=values, fixed=best, swapped=swapped)
