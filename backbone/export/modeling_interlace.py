"""An exported backbone as a model of transformers: ``AutoModel.from_pretrained(folder, trust_remote_code=True)``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save, get_class_from_dynamic_module
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
    ``pooler_output`` [B, T, D]: CLS. ``hidden_states``, where asked for: a tuple of the embedding's tokens and every
    block's, each [B, T, tokens, D] as it leaves them; the last one, too, is not normalised. ``patches``
    [B, T, h, w, D], ``camera`` [B, T, D] or None, ``registers`` [B, T, R, D]: ``last_hidden_state`` by kind.
    ``layers``: asked-for block -> its patches [B, T, h, w, D], not normalised.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    patches: Tensor | None = None
    camera: Tensor | None = None
    registers: Tensor | None = None
    layers: dict[int, Tensor] | None = None


class _Backbone(Backbone):
    """A backbone that speaks of what its user here has: uint8 is taken, too, and there is no Interlace to import."""

    def _check(self, frames: Tensor, times: Tensor | None, layers: Sequence[int]) -> tuple[int, int]:
        if frames.ndim != 5 or frames.shape[2] != 3 or not frames.is_floating_point() or 0 in frames.shape:
            raise ValueError(
                f"frames: expected uint8 or float [B, T, 3, H, W], or photographs [B, 3, H, W], found {frames.dtype} "
                f"{list(frames.shape)}; the processor makes them"
            )
        return super()._check(frames, times, layers)


class InterlaceModel(StrictlyLoaded, PreTrainedModel):
    """A frozen backbone: whole clips and photographs by calling it, frames as they come through :meth:`stream`."""

    config_class = InterlaceConfig
    main_input_name = "pixel_values"

    def __init__(self, config: InterlaceConfig) -> None:
        super().__init__(config)
        self.backbone = _Backbone(config.backbone())
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        times: Tensor | None = None,
        layers: Sequence[int] = (),
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> InterlaceOutput | tuple[Any, ...]:
        """Features of clips [B, T, 3, H, W] or photographs [B, 3, H, W].

        uint8 is normalised here, floats are as the processor makes them. ``times`` [B, T] in frame units, 0 ... T-1 if
        None. ``layers``: blocks, counted from 0, whose patches are wanted too. ``output_hidden_states`` and
        ``return_dict`` (false: a tuple of the fields that are not None) are the config's if None. Raises ValueError for
        a shape or dtype that does not fit, and for ``output_attentions``, which nothing computes.
        """
        attentions, hidden, named = (
            getattr(self.config, name) if given is None else given
            for name, given in (
                ("output_attentions", output_attentions),
                ("output_hidden_states", output_hidden_states),
                ("return_dict", return_dict),
            )
        )
        if attentions:
            raise ValueError("output_attentions: attention is computed without its matrix; leave it out")
        photographs = pixel_values.ndim == 4
        clips = pixel_values[:, None] if photographs else pixel_values
        if clips.dtype == torch.uint8:
            clips = normalise(clips)
        with _recorded([self.backbone.embedding, *self.backbone.blocks] if hidden else []) as states:
            found = self.backbone(clips, times=times, layers=layers)
        prefix = [found.cls[:, :, None]]
        if found.camera is not None:
            prefix.append(found.camera[:, :, None])
        output = InterlaceOutput(
            last_hidden_state=torch.cat([*prefix, found.registers, found.patches.flatten(2, 3)], dim=2),
            pooler_output=found.cls,
            hidden_states=tuple(state.unflatten(1, (clips.shape[1], -1)) for state in states) if hidden else None,
            patches=found.patches,
            camera=found.camera,
            registers=found.registers,
            layers=found.layers,
        )
        if photographs:
            output = InterlaceOutput(**{name: _without_time(field) for name, field in output.items()})
        return output if named else output.to_tuple()

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
        if name not in self.config.heads:
            there = ", ".join(self.config.heads) or "none"
            raise ValueError(
                f"{self.name_or_path}: no {name!r} heads were exported with this backbone; there are: {there}"
            )
        options, weights = self._head_files(name)
        read = json.loads(options.read_text(encoding="utf-8"))
        heads: nn.Module = self._head_class(name).from_options(read, self.config.backbone())
        heads.load_state_dict(load_file(weights))
        return heads.to(self.device).eval()

    def save_pretrained(self, save_directory: Any, is_main_process: bool = True, *args: Any, **kwargs: Any) -> None:
        """As of any model of transformers, and the heads that were exported with the backbone, as they were.

        Raises ValueError, and writes nothing, where they are gone, and for ``push_to_hub``: it would go without them.
        """
        heads = [(self._head_files(name), self._head_class(name)) for name in self.config.heads]
        if heads and kwargs.get("push_to_hub"):
            raise ValueError("save_pretrained: push_to_hub leaves the heads behind; call model.push_to_hub(NAME)")
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if is_main_process:
            for files, made_by in heads:
                _save_heads(Path(save_directory), files, made_by)

    def _head_files(self, name: str) -> tuple[Path, Path]:
        """Options and weights."""
        return self._file(f"heads/{name}.json"), self._file(f"heads/{name}.safetensors")

    def _head_class(self, name: str) -> Any:
        revision = getattr(self.config, "_commit_hash", None)
        return get_class_from_dynamic_module(self.config.heads[name], str(self.name_or_path), revision=revision)

    def _file(self, name: str) -> Path:
        """A file of the model, whether it is a folder or on the hub."""
        try:
            found = cached_file(str(self.name_or_path), name, revision=getattr(self.config, "_commit_hash", None))
        except (OSError, ValueError) as error:  # a path that is gone is taken for a name on the hub, which it cannot be
            raise ValueError(f"{self.name_or_path}: no {name}, which its config.json promises") from error
        return Path(str(found))


@contextmanager
def _recorded(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """What these modules give this thread, one after another, while the block runs."""
    states: list[Tensor] = []
    mine = get_ident()  # others may use the model at once

    def keep(module: nn.Module, given: Any, state: Tensor) -> None:
        if get_ident() == mine:
            states.append(state)

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def _save_heads(folder: Path, files: Sequence[Path], made_by: Any) -> None:
    """Copies of the heads' files in ``heads/``, and of their class's code and what that imports."""
    (folder / "heads").mkdir(exist_ok=True)
    for file in files:
        (folder / "heads" / file.name).write_bytes(file.read_bytes())  # which may be the same file
    custom_object_save(made_by, folder)


def _without_time(field: Any) -> Any:
    """The first frame of an output's field: a tensor, or a tuple or dict of them."""
    if isinstance(field, Tensor):
        return field[:, 0]
    if isinstance(field, dict):
        return {index: layer[:, 0] for index, layer in field.items()}
    return tuple(state[:, 0] for state in field)
