"""What the spawned ranks do in the tests of the VLA's recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from interlace.pretrain import train
from interlace.pretrain.step import Outcome

PREFIX = "tasks.vla."


def policy(rank: int, world: int, name: str, run: str, overrides: list[str]) -> dict[str, Any]:
    """A shipped recipe made tiny: which parameters its steps changed, and its losses."""
    recipe = train.recipe_from(name, tuple(overrides))
    original, begun = train.interlaced_step, dict[str, torch.Tensor]()
    losses: list[dict[str, float]] = []

    def step(parts: Any, micros: Any, **options: Any) -> Outcome:
        if not begun:
            begun.update({name: value.clone() for name, value in parts.engine.named_masters()})
        outcome = original(parts, micros, **options)
        losses.append(outcome.losses)
        return outcome

    train.interlaced_step = step
    try:
        train.pretrain(recipe, Path(run))
    finally:
        train.interlaced_step = original
    saved = load_file(Path(run) / "heads" / "vla.safetensors")
    changed = [key for key, value in begun.items() if not torch.equal(value, saved[key.removeprefix(PREFIX)])]
    return {"names": sorted(begun), "changed": sorted(changed), "losses": losses}
