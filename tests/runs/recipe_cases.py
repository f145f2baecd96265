"""What the spawned ranks do in the tests of shipped recipes that train one task on a frozen backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from interlace.pretrain import train
from interlace.pretrain.step import Outcome


def trained(rank: int, world: int, name: str, run: str, overrides: list[str]) -> dict[str, Any]:
    """A shipped recipe made tiny: its parameters, without ``tasks.NAME.``, as it began; those it changed; its losses.

    ``taken_over``: whether it began with all that the run before saved; ``anew``: what that run had nothing of.
    """
    recipe = train.recipe_from(name, tuple(overrides))
    ((task, _),) = recipe.tasks.items()
    original, begun = train.interlaced_step, dict[str, torch.Tensor]()
    losses: list[dict[str, float]] = []

    def step(parts: Any, micros: Any, **options: Any) -> Outcome:
        if not begun:
            for key, value in parts.engine.named_masters():
                assert key.startswith(f"tasks.{task}."), "a frozen backbone is none of the student's parameters"
                begun[key.removeprefix(f"tasks.{task}.")] = value.clone()
        outcome = original(parts, micros, **options)
        losses.append(outcome.losses)
        return outcome

    train.interlaced_step = step
    try:
        train.pretrain(recipe, Path(run))
    finally:
        train.interlaced_step = original
    saved = load_file(Path(run) / "heads" / f"{task}.safetensors")
    before: dict[str, torch.Tensor] = {}
    if recipe.start_from is not None:
        (heads,) = (Path(recipe.start_from) / "heads").glob("*.safetensors")
        before = load_file(heads)
    return {
        "changed": sorted(key for key, value in begun.items() if not torch.equal(value, saved[key])),
        "taken_over": all(torch.equal(value, begun[key]) for key, value in before.items() if key in begun),
        "anew": sorted(begun.keys() - before.keys()),
        "moved": {key: float((saved[key] - value).abs().max()) for key, value in begun.items()},
        "losses": losses,
    }
