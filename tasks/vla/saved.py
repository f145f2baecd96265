"""A trained policy read back from its run."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from interlace.backbone import FrozenBackbone
from interlace.backbone.frozen import REFERENCE, load_reference

from ..interface import TaskContext
from .options import VlaOptions
from .task import Vla


def load_vla(run: str | Path, backbone: str | None = None) -> tuple[Vla, FrozenBackbone]:
    """The policy of a run that has ended, in evaluation mode on the CPU, and the very backbone that it was trained on.

    Scale of actions, context and the rest are the run's. ``backbone``: where the backbone lies now, if it was moved.
    Raises ValueError for a run without a policy, for files that are missing and for a backbone that is another one.
    """
    folder = Path(run)
    said, weights = folder / "heads" / "vla.json", folder / "heads" / "vla.safetensors"
    for file in (said, weights):
        if not file.is_file():
            raise ValueError(f"{file}: no such file; name the folder of a run of task vla that has ended")
    try:
        options = VlaOptions.model_validate_json(said.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ValueError(f"{said}: not the options of a vla ({error.error_count()} wrong)") from None
    frozen = load_reference(folder / REFERENCE, backbone)
    with torch.random.fork_rng():
        task = Vla(options, TaskContext(frozen.config, seed=0))
    try:
        task.load_state_dict(load_file(weights), strict=True)
    except RuntimeError as error:
        raise ValueError(f"{weights}: not the weights of this policy: {str(error).splitlines()[-1].strip()}") from None
    return task.eval().requires_grad_(False), frozen
