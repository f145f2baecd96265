"""How often a vision-language model answers right, kind by kind; and what it said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from interlace.data_recipes import Sample
from interlace.data_recipes.statistics import scene
from interlace.tasks.vlm import Vlm
from interlace.tasks.vlm.measures import questions_of, right

from .frozen import DataHash
from .result import Facts, Result, Scores, result
from .subjects import FrozenBackbone


@dataclass(frozen=True)
class Answer:
    """One question of one sample: what is true, and what was said."""

    key: str
    kind: str
    prompt: str
    answer: str
    said: str


def answer_questions(
    task: Vlm,
    subject: FrozenBackbone,
    samples: Sequence[Sample],
    *,
    data: str,
    seed: int,
    missing: Mapping[str, str] | None = None,
    balanced: bool = False,
) -> tuple[list[Result], list[Answer]]:
    """Exact match of greedy answers to all questions that have one right answer: of all, and of each kind.

    ``subject`` is the model's own frozen backbone with the model's name; it is hashed before and after. ``seed``: of
    the training run. ``missing``: key -> why of samples that are left out. ``balanced``: a question's answers are
    equally frequent, so that ``guessing``, what a guess is worth, is known and found beside. Scenes are resampled, not
    questions, and two models are compared question by question within them. Raises ValueError where no question has
    one right answer.
    """
    questions = questions_of(samples)
    hashed = DataHash()
    for sample in samples:
        words = "\n".join(f"{text.kind}|{text.prompt}|{text.answer}|{text.frame}" for text in sample.texts)
        hashed.add(sample.key, sample.frames, np.frombuffer(words.encode(), np.uint8))
    with subject.held():
        said = task.replies(subject.backbone, samples, questions)
    answers = [
        Answer(samples[one.sample].key, one.text.kind, one.text.prompt, one.text.answer, reply)
        for one, reply in zip(questions, said, strict=True)
    ]
    marks = [right(one.said, asked.text) for one, asked in zip(answers, questions, strict=True)]
    facts = Facts(
        protocol="vlm/exact match of greedy answers",
        data=data,
        unit="scene",
        subject=subject.name,
        backbone_hash=subject.digest,
        data_hash=hashed.hexdigest(),
        seed=seed,
        missing=missing or {},
    )
    found, worth = [], guessing(answers)
    for kind in ["all", *sorted({one.kind for one in answers})]:
        chosen = [place for place, one in enumerate(answers) if kind in ("all", one.kind)]
        units = [scene(answers[place].key) for place in chosen]
        chance = {"guessing": round(float(np.mean([worth[place] for place in chosen])), 3)} if balanced else {}
        scores = Scores.of(kind, "higher", units, [marks[place] for place in chosen])
        found.append(result(scores, replace(facts, found=chance)))
    return found, answers


def guessing(answers: Sequence[Answer]) -> list[float]:
    """How likely a guess is right: one of the answers to the question's kind, or of the two that the question names."""
    known: dict[str, set[str]] = {}
    for one in answers:
        known.setdefault(one.kind, set()).add(one.answer)
    named = [re.search(rf"\b{re.escape(one.answer)}\b", one.prompt) is not None for one in answers]
    return [1 / (2 if names else len(known[one.kind])) for one, names in zip(answers, named, strict=True)]
