"""What the spawned ranks do in the tests of runs on a frozen backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from four_cases import left_behind
from tiny_run import read

from interlace.backbone import BackboneNoise, Features, NotFrozen, load
from interlace.pretrain import train
from interlace.pretrain.step import Outcome


def run_on_frozen(
    rank: int, world: int, root: str, run: str, overrides: list[str], alter: str | None = None
) -> dict[str, Any]:
    """A whole run; with ``alter`` the last rank changes one number of that parameter after the first step.

    Returns what it said, what it left behind, and how the features of its last forward differ from the loader's.
    """
    recipe = read(Path(root), *overrides)
    assert recipe.backbone.init is not None
    original, seen, noisy = train.interlaced_step, [], []

    def watch(module: Any, given: tuple[Any, ...], options: dict[str, Any], found: Features) -> None:
        noisy.append(isinstance(options.get("noise"), BackboneNoise))
        seen[:] = [(given[0].clone(), found.patches.clone(), found.patches.requires_grad, module.training)]

    def step(parts: Any, micros: Any, **options: Any) -> Outcome:
        backbone = parts.engine._student.backbone
        handle = backbone.register_forward_hook(watch, with_kwargs=True)
        outcome = original(parts, micros, **options)
        handle.remove()
        if alter is not None and rank == world - 1 and options["progress"].step == 0:
            dict(backbone.named_parameters())[alter].data.view(-1)[0] += 1e-6
        return outcome

    train.interlaced_step = step
    try:
        train.pretrain(recipe, Path(run))
        said = "nothing"
    except NotFrozen as error:
        said = str(error)
    finally:
        train.interlaced_step = original
    ((frames, patches, has_gradient, training),) = seen
    with torch.no_grad():
        expected = load(recipe.backbone.init).eval()(frames).patches
    return {
        "said": said,
        "equal": torch.equal(patches, expected),
        "noisy": all(noisy),
        "has_gradient": has_gradient,
        "training": training,
        **({} if rank or said != "nothing" else left_behind(Path(run))),
    }
