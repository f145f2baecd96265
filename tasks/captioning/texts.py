"""From a sample's texts to token rows, and which of them are asked when measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interlace.data_recipes import DataError, Sample, Text

from .boxes import PLACE, place_boxes
from .options import CaptioningOptions
from .tokenizer import Tokenizer

#: Ends every prompt, so that its last word and the answer's first are two for any tokenizer.
PROMPT_END = "\n"

KINDS = ("caption", "ocr", "grounding")


@dataclass(frozen=True)
class Row:
    """Token numbers of one text: the decoder reads ``prompt`` and learns ``answer``, which ends with end-of-text."""

    prompt: list[int]
    answer: list[int]  # empty for an empty answer: nothing to learn, not even the end


@dataclass(frozen=True)
class Question:
    """One text of one held-out sample, and its true answer as it is written for the decoder."""

    sample: int  # index among the samples
    text: Text
    answer: str
    boxes: np.ndarray  # [n, 4], those of a grounding text that its answer gives and its prompt does not
    row: Row


def question(tokenizer: Tokenizer, options: CaptioningOptions, sample: Sample, index: int, text: Text) -> Question:
    """``text`` as tokens. DataError, naming the sample, if it is of no known kind, its boxes do not fit its words,
    its prompt leaves no room for an answer, or the tokenizer cannot write its boxes."""
    where = f"{sample.source} {sample.key}"
    if text.kind not in KINDS or not 0 <= text.frame < len(sample.frames):
        raise DataError(f"{where}: a text of kind {text.kind!r} about frame {text.frame} of {len(sample.frames)}")
    try:
        prompt, answer = place_boxes(text, options.box_bins)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    start = [tokenizer.bos, *tokenizer.encode(prompt + PROMPT_END)]
    if len(start) >= options.max_tokens:
        raise DataError(f"{where}: a prompt of {len(start)} tokens leaves no room in max_tokens {options.max_tokens}")
    target = [*tokenizer.encode(answer), tokenizer.eos] if answer else []
    if len(text.boxes) and tokenizer.unknown is not None and tokenizer.unknown in (*start, *target):
        raise DataError(f"{where}: the tokenizer cannot write {prompt!r}, {answer!r}; it needs digits")
    boxes = text.boxes[text.prompt.count(PLACE) :] if text.kind == "grounding" else text.boxes[:0]
    return Question(index, text, answer, boxes, Row(start, target[: options.max_tokens - len(start)]))


def draw_texts(texts: Sequence[Text], count: int, rng: np.random.Generator) -> list[Text]:
    """A random text and up to ``count`` - 1 others about the same frame; none if there is none.

    Kinds are drawn equally often, however many texts of each there are: the rare ones are the hard ones to learn.
    """
    if not texts:
        return []
    kind = rng.choice(sorted({text.kind for text in texts}))
    order = rng.permutation(len(texts))
    first = next(index for index in order if texts[index].kind == kind)
    others = [index for index in order if index != first and texts[index].frame == texts[first].frame]
    return [texts[index] for index in [first, *others][:count]]


def questions_of(
    tokenizer: Tokenizer, options: CaptioningOptions, samples: Sequence[Sample], per_kind: int | None
) -> list[Question]:
    """The texts of ``samples``, or of each kind ``per_kind`` of a sample's, evenly spaced in their order."""
    found = []
    for index, sample in enumerate(samples):
        for kind in KINDS:
            texts = [text for text in sample.texts if text.kind == kind]
            if per_kind is not None and len(texts) > per_kind:
                texts = [texts[i * len(texts) // per_kind] for i in range(per_kind)]
            found += [question(tokenizer, options, sample, index, text) for text in texts]
    return found
