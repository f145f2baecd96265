"""A trained model read back from its run, or from the folder that ``interlace export`` made of it."""

from __future__ import annotations

from pathlib import Path

import torch

from interlace.backbone import BackboneConfig, FrozenBackbone
from interlace.backbone.folder import FIELDS, PREFIX, told_of
from interlace.backbone.locate import CONFIG
from interlace.backbone.weights import build

from ..interface import TaskContext
from .exported import GENERATION, LLM, PROCESSOR, field, is_exported, raise_on_misfit, weights_of
from .language_task import load_trained
from .options import VlmOptions
from .task import Vlm


def load_vlm(model: str | Path, backbone: str | None = None) -> tuple[Vlm, FrozenBackbone]:
    """The model of a run or of an exported folder, and the very backbone that it was trained on.

    Of a run: see :func:`~.language_task.load_trained`. An exported folder holds its backbone; ValueError for another.
    """
    if not is_exported(model):
        return load_trained(Vlm, model, backbone)
    if backbone is not None:
        raise ValueError(f"{model}: an exported model holds its own backbone; leave {backbone} out")
    return _load_exported(Path(model))


def _load_exported(folder: Path) -> tuple[Vlm, FrozenBackbone]:
    """In evaluation mode, on the CPU, float32. ValueError for files, fields or weights that are missing or do not fit.

    What only training asks of its options is what it is when a recipe says nothing.
    """
    sight = {name: value for name, value in field(folder, PROCESSOR, "sight").items() if name != "side"}
    limit = field(folder, GENERATION, "max_new_tokens")
    options = VlmOptions.model_validate({**sight, "llm": str(folder), "max_generated": limit}, strict=False)
    state = weights_of(folder)
    own = {name: state.pop(name) for name in list(state) if name.startswith(PREFIX)}
    with told_of(folder):
        fields = field(folder, CONFIG, FIELDS)
        eyes = build(BackboneConfig(**fields), {name.removeprefix(PREFIX): tensor for name, tensor in own.items()})
    with torch.random.fork_rng():
        task = Vlm(options, TaskContext(eyes.config, seed=0))
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(LLM)}
    language = [name for name in task.state_dict() if name.startswith(LLM)]  # read when it was built
    raise_on_misfit(folder, task.load_state_dict(rest, strict=False), known=language)
    return task.eval().requires_grad_(False), FrozenBackbone.of(eyes)
