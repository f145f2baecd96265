"""Held-out measures beside blind guesses: rows for ``eval.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from interlace.data_recipes import Sample
from interlace.data_recipes.statistics import finite, interval, scene
from interlace.tasks.interface import Measure, Task

#: Samples that pictures choose from: enough for a picture of neighbours to have some.
PICTURED = 24


@dataclass
class HeldOut:
    """A task's held-out samples and what its input-free predictors learned from training samples.

    ``pictured``: what pictures are drawn of, held-out samples among them; ``samples`` may be empty where these are not.
    ``left_out``: how many held-out samples are not among ``samples`` because they are broken.
    """

    task: Task
    samples: Sequence[Sample]
    blind: Any
    pictured: Sequence[Sample]
    left_out: int = 0


def evaluate(backbone: nn.Module, held_out: Mapping[str, HeldOut], step: int) -> list[dict[str, Any]]:
    """One row a measure: ``{"step", "task", "measure", "value", "better", "blind", "low", "high", "n", "of"}``.

    ``low`` and ``high`` bound, at 95%, by how much the model is better than blind (positive = better whatever
    ``better`` says); scenes are resampled, not samples, because clips of one room err alike, and a single scene has no
    bounds (None). ``n`` of ``of`` samples took part: the others are broken.
    """
    rows: list[dict[str, Any]] = []
    was_training = backbone.training
    backbone.eval()
    with torch.no_grad():
        for name, part in held_out.items():
            if not part.samples:
                continue
            part.task.eval()
            measures = part.task.evaluate(backbone, part.samples, part.blind)  # type: ignore[arg-type]
            part.task.train()
            scenes = [scene(sample.key) for sample in part.samples]
            found = [row(measure, scenes) for measure in measures]
            rows += [{"step": step, "task": name, **each, "of": each["n"] + part.left_out} for each in found]
    backbone.train(was_training)
    return rows


def pictures(backbone: nn.Module, held_out: Mapping[str, HeldOut], folder: Path, label: str) -> list[Path]:
    """Every task's pictures of its pictured samples, drawn into ``folder``."""
    was_training = backbone.training
    backbone.eval()
    drawn: list[Path] = []
    with torch.no_grad():
        for part in held_out.values():
            part.task.eval()
            drawn += part.task.pictures(backbone, part.pictured, folder, label)  # type: ignore[arg-type]
            part.task.train()
    backbone.train(was_training)
    return drawn


def row(measure: Measure, scenes: Sequence[str]) -> dict[str, Any]:
    """A measure's mean, its blind line, and the interval of the difference."""
    applies = np.isfinite(measure.values) & np.isfinite(measure.blind)
    values, blind = measure.values[applies], measure.blind[applies]
    facts = {"measure": measure.name, "better": measure.better, "n": len(values)}
    if not len(values):
        return {**facts, "value": None, "blind": None, "low": None, "high": None}
    gain = values - blind if measure.better == "higher" else blind - values
    low, high = finite(*interval(gain, [name for name, used in zip(scenes, applies, strict=True) if used]))
    return {**facts, "value": float(values.mean()), "blind": float(blind.mean()), "low": low, "high": high}
