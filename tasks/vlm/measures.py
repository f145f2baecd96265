"""Answers held against the truth, kind by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interlace.data_recipes import Sample, Text

from ..interface import Measure
from .prompts import TURN

#: Texts with many right answers, which no exact match can judge.
OPEN = (TURN, "caption", "grounding")

#: What the measures, one a kind of question, are, for a reader.
MEANINGS = {"accuracy_*": "share of questions of this kind, 0 to 1, answered exactly as in truth"}


@dataclass(frozen=True)
class Question:
    """One text with one right answer, of sample number ``sample``."""

    sample: int
    text: Text


@dataclass(frozen=True)
class Blind:
    """The most common answers of training: to a prompt, and to a kind of question."""

    to_prompt: dict[str, str]
    to_kind: dict[str, str]

    def answer(self, text: Text) -> str:
        """The guess at a question whose image is not seen."""
        return self.to_prompt.get(text.prompt, self.to_kind.get(text.kind, ""))


def questions_of(samples: Sequence[Sample]) -> list[Question]:
    """All texts that have one right answer."""
    return [
        Question(index, text) for index, sample in enumerate(samples) for text in sample.texts if text.kind not in OPEN
    ]


def common_answers(samples: Sequence[Sample]) -> Blind:
    """What is answered most often; ties go to the answer that was seen first."""
    prompts: dict[str, Counter[str]] = {}
    kinds: dict[str, Counter[str]] = {}
    for asked in (question.text for sample in samples for question in questions_of([sample])):
        prompts.setdefault(asked.prompt, Counter())[asked.answer] += 1
        kinds.setdefault(asked.kind, Counter())[asked.answer] += 1

    def first(found: dict[str, Counter[str]]) -> dict[str, str]:
        return {key: counts.most_common(1)[0][0] for key, counts in found.items()}

    return Blind(first(prompts), first(kinds))


def right(said: str, text: Text) -> float:
    """1.0 for exactly the true answer, spaces around it aside."""
    return float(said.strip() == text.answer.strip())


def accuracies(
    samples: int, questions: Sequence[Question], own: Sequence[str], swapped: Sequence[str], blind: Blind
) -> list[Measure]:
    """A measure for each kind of question: the mean over a sample's questions of that kind, NaN where it has none."""
    found = []
    for kind in sorted({asked.text.kind for asked in questions}):
        chosen = [index for index, asked in enumerate(questions) if asked.text.kind == kind]
        owner = np.array([questions[index].sample for index in chosen])

        def score(answers: Sequence[str], chosen: list[int] = chosen, owner: np.ndarray = owner) -> np.ndarray:
            marks = [right(answers[index], questions[index].text) for index in chosen]
            count = np.bincount(owner, minlength=samples)
            total = np.bincount(owner, weights=marks, minlength=samples)
            return np.divide(total, count, out=np.full(samples, np.nan), where=count > 0)

        guesses = [blind.answer(asked.text) for asked in questions]
        name = f"accuracy_{kind.replace(' ', '_')}"
        found.append(
            Measure(name=name, better="higher", values=score(own), fixed=score(guesses), swapped=score(swapped))
        )
    return found
