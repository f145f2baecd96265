"""A backbone in a folder: ``config.json`` and ``model.safetensors``, float32."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .config import BackboneConfig
from .model import Backbone
from .weights import build, config_from_transformers, from_transformers

_KIND = "interlace.backbone"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def save(backbone: Backbone, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` (float32) into ``folder``, making it if it is not there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().float().contiguous() for name, tensor in backbone.state_dict().items()}
    save_file(state, folder / _WEIGHTS, metadata={"format": "pt"})
    text = json.dumps({"kind": _KIND, **backbone.config.to_json()}, indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def load(path: str | Path, **changes: Any) -> Backbone:
    """The float32 backbone in folder ``path``, on the CPU: one that :func:`save` wrote, or a DINOv3 of transformers.

    A DINOv3 becomes a streaming backbone (causal, "rotary", camera token; see
    :func:`~interlace.backbone.from_transformers` for what is made). ``changes`` are :class:`BackboneConfig` fields
    that replace the folder's: ``load(path, rope="image", camera_token=False)`` is the image model itself.

    Raises ValueError, naming it, for a file, field or weight that is missing, left over or does not fit.
    """
    folder = Path(path)
    fields = _read_json(folder / "config.json")
    unknown = set(changes) - {field.name for field in dataclasses.fields(BackboneConfig)}
    if unknown:
        raise ValueError(f"load: {', '.join(sorted(unknown))} is no field of BackboneConfig")
    kind = fields.pop("kind", None)
    if kind == _KIND:
        config = _own_config(folder, fields)
    elif fields.get("model_type") == "dinov3_vit":
        config = config_from_transformers(fields)
    else:
        raise ValueError(f"{folder / 'config.json'}: neither an Interlace backbone nor a DINOv3 of transformers")
    config = dataclasses.replace(config, **changes)
    state = _read_weights(folder)
    if kind != _KIND:
        state = from_transformers(state, config)
    return build(config, state)


def _own_config(folder: Path, fields: dict[str, Any]) -> BackboneConfig:
    try:
        return BackboneConfig(**fields)
    except TypeError as error:  # an unknown or missing field
        raise ValueError(f"{folder / 'config.json'}: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a backbone's folder holds config.json and {_WEIGHTS}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return fields


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of ``model.safetensors``, or of the files that its index names."""
    if (folder / _INDEX).is_file():
        files = sorted(set(_read_json(folder / _INDEX)["weight_map"].values()))
    else:
        files = [_WEIGHTS]
    state: dict[str, Tensor] = {}
    for name in files:
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: no such file")
        try:
            state.update(load_file(folder / name))
        except SafetensorError as error:
            raise ValueError(f"{folder / name}: not a whole safetensors file ({error})") from None
    return {name: tensor.float() for name, tensor in state.items()}
