"""A tiny policy, and recorded episodes for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from language import BACKBONE, SHAPE

from interlace.backbone import Backbone, FrozenBackbone
from interlace.data_recipes import Episode, Sample
from interlace.tasks.interface import TaskContext
from interlace.tasks.vla import Vla, VlaOptions

LOW, HIGH = (-0.5, -1.0, -2.0), (0.5, 1.0, 1.0)


def options(words: Path, **changes: Any) -> VlaOptions:
    given = {"size": 32, "llm": SHAPE, "tokenizer": str(words), "low": LOW, "high": HIGH, "chunk": 3}
    return VlaOptions.model_validate_json(json.dumps({**given, "head_size": 32, **changes}))


def build(tokenizer: Path, **changes: Any) -> tuple[Vla, FrozenBackbone]:
    """Weights are large enough that images and instructions matter."""
    torch.manual_seed(0)
    task, backbone = Vla(options(tokenizer, **changes), TaskContext(BACKBONE, seed=3)), Backbone(BACKBONE)
    with torch.no_grad():
        task.query.normal_()
        for parameter in (*task.projector.parameters(), *task.llm.parameters(), *backbone.parameters()):
            if parameter.ndim > 1:
                parameter.mul_(2)
    return task, FrozenBackbone.of(backbone)


def sample(number: int, steps: int = 7, instruction: str = "push the red box", size: int = 4) -> Sample:
    """An episode with noise for frames; its first axis leaves what is normalised to -1...1."""
    rng = np.random.default_rng(number)
    actions = rng.uniform(-1, 1, (steps, size)).astype(np.float32)
    actions[:, -1] = rng.integers(0, 2, steps)
    return Sample(
        key=f"table/{number}",
        source="table",
        frames=rng.integers(0, 255, (steps, 40, 40, 3)).astype(np.uint8),
        times=np.arange(steps) / 10,
        episode=Episode(
            instruction=instruction, actions=actions, proprio=np.zeros((steps, 0), np.float32), steps=np.arange(steps)
        ),
    )
