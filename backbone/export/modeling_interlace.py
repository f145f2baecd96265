"""An exported backbone as a model of transformers: ``AutoModel.from_pretrained(folder, trust_remote_code=True)``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils.generic import ModelOutput
from transformers.utils.hub import cached_file

from ..model import Backbone
from ..preprocess import normalise
from ..stream import Stream
from .configuration_interlace import InterlaceConfig
from .strictly_loaded import StrictlyLoaded


@dataclass
class InterlaceOutput(ModelOutput):
    """The backbone's features of B clips of T frames; of photographs without the axis T.

    ``last_hidden_state`` [B, T, tokens, D]: CLS, camera token if any, registers, patches row by row, normalised.
    ``pooler_output`` [B, T, D]: CLS. ``patches`` [B, T, h, w, D], ``camera`` [B, T, D] or None, ``registers``
    [B, T, R, D]: the same tokens by kind. ``layers``: asked-for block -> its patches [B, T, h, w, D], not normalised.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    patches: Tensor | None = None
    camera: Tensor | None = None
    registers: Tensor | None = None
    layers: dict[int, Tensor] | None = None


class InterlaceModel(StrictlyLoaded, PreTrainedModel):
    """A frozen backbone: whole clips and photographs by calling it, frames as they come through :meth:`stream`."""

    config_class = InterlaceConfig
    main_input_name = "pixel_values"

    def __init__(self, config: InterlaceConfig) -> None:
        super().__init__(config)
        self.backbone = Backbone(config.backbone())
        self.post_init()

    def forward(self, pixel_values: Tensor, times: Tensor | None = None, layers: Sequence[int] = ()) -> InterlaceOutput:
        """Features of clips [B, T, 3, H, W] or photographs [B, 3, H, W].

        uint8 is normalised here, floats are as the processor makes them. ``times`` [B, T] in frame units, 0 ... T-1 if
        None. ``layers``: blocks, counted from 0, whose patches are wanted too. Raises ValueError for a shape or dtype
        that does not fit.
        """
        photographs = pixel_values.ndim == 4
        clips = pixel_values[:, None] if photographs else pixel_values
        if clips.dtype == torch.uint8:
            clips = normalise(clips)
        found = self.backbone(clips, times=times, layers=layers)
        prefix = [found.cls[:, :, None]]
        if found.camera is not None:
            prefix.append(found.camera[:, :, None])
        output = InterlaceOutput(
            last_hidden_state=torch.cat([*prefix, found.registers, found.patches.flatten(2, 3)], dim=2),
            pooler_output=found.cls,
            patches=found.patches,
            camera=found.camera,
            registers=found.registers,
            layers=found.layers,
        )
        return _without_time(output) if photographs else output

    def stream(self, batch: int, height: int, width: int, **arguments: Any) -> Stream:
        """Open streams for frames as they come, uint8 or normalised: see :meth:`Backbone.stream` for the arguments.

        ``with model.stream(1, 224, 384, window=16) as stream: features = stream(frames)``, frames [1, t, 3, H, W].
        """
        return self.backbone.stream(batch, height, width, **arguments)

    def load_heads(self, name: str) -> nn.Module:
        """The heads that were exported with the backbone, such as "geometry", on its device and in float32.

        ``heads = model.load_heads("geometry")``, then ``heads(stream(frames, layers=heads.layers))``. Of a model on
        the hub they are those of its own revision. Raises ValueError where the model comes without them.
        """
        source, revision = str(self.name_or_path), getattr(self.config, "_commit_hash", None)
        if name not in self.config.heads:
            there = ", ".join(self.config.heads) or "none"
            raise ValueError(f"{source}: no {name!r} heads were exported with this backbone; there are: {there}")
        options = json.loads(_file(source, f"heads/{name}.json", revision).read_text(encoding="utf-8"))
        made_by: Any = get_class_from_dynamic_module(self.config.heads[name], source, revision=revision)
        heads: nn.Module = made_by.from_options(options, self.config.backbone())
        heads.load_state_dict(load_file(_file(source, f"heads/{name}.safetensors", revision)))
        return heads.to(self.device).eval()


def _file(source: str, name: str, revision: str | None) -> Path:
    """A file of the model, whether it is a folder or on the hub."""
    try:
        found = cached_file(source, name, revision=revision)
    except OSError as error:
        raise ValueError(f"{source}: no {name}, which its config.json promises") from error
    return Path(str(found))


def _without_time(output: InterlaceOutput) -> InterlaceOutput:
    fields = {key: value[:, 0] for key, value in output.items() if isinstance(value, Tensor)}
    return InterlaceOutput(**fields, layers={index: layer[:, 0] for index, layer in (output.layers or {}).items()})
