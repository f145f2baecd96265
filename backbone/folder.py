"""A backbone in a folder: ``config.json`` and ``model.safetensors``, float32."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .config import BackboneConfig
from .evidence import raise_on_disagreement
from .locate import CONFIG, INDEX, WEIGHTS, locate
from .model import Backbone
from .weights import build, config_from_transformers, from_transformers, our_names

_KIND = "interlace.backbone"
#: ``model_type`` of transformers' DINOv3, and what makes it the model that was published.
_DINOV3 = "dinov3_vit"
_IMAGE_MODEL: dict[str, Any] = {"attention": "bidirectional", "rope": "image", "camera_token": False}
#: ``model_type`` of the folders that ``interlace export`` writes, the key of their backbone's fields, and what the
#: names of its weights begin with.
EXPORTED, FIELDS, PREFIX = "interlace", "interlace", "backbone."
#: ``model_type`` of those that it writes of a vision-language model.
EXPORTED_VLM = "interlace_vlm"


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load` read. Its text is one line.

    ``folder``: where config and weights are. ``made_by``: "interlace", "interlace export" or "transformers".
    ``matched``: tensors that went into the backbone as they are. ``made``: what the folder lacks and was made.
    ``converted``: how many tensors were of another dtype than float32, by its name. ``changed``: fields of the config
    that the caller set, with the folder's value and the caller's.
    """

    folder: Path
    made_by: str
    matched: int
    made: tuple[str, ...]
    converted: dict[str, int]
    changed: dict[str, tuple[Any, Any]]

    def __str__(self) -> str:
        parts = [f"{self.folder}: {self.matched} tensors by {self.made_by} matched"]
        parts += [f"made {', '.join(self.made)}"] * bool(self.made)
        parts += [f"{count} converted from {name} to float32" for name, count in sorted(self.converted.items())]
        parts += [f"{name} is {new!r} instead of {old!r}" for name, (old, new) in self.changed.items()]
        return "; ".join(parts)


def save(backbone: Backbone, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` (float32) into ``folder``, making it if it is not there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(plain_state(backbone), folder / WEIGHTS, {"format": "pt"})
    text = json.dumps({"kind": _KIND, **backbone.config.to_json()}, indent=2)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def write_tensors(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that others may read as they may any new file of this process."""
    save_file(tensors, file, metadata=metadata)
    share(file)


def share(file: Path) -> None:
    """Give ``file`` the mode of any new file: safetensors leaves its own to their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The weights as safetensors wants them: float32, on the CPU, contiguous."""
    return {name: tensor.detach().cpu().float().contiguous() for name, tensor in module.state_dict().items()}


def load(path: str | Path, **changes: Any) -> Backbone:
    """The float32 backbone of ``path``, on the CPU.

    ``path``: a folder that :func:`save` or ``interlace export`` wrote, a run's folder (its ``backbone/``), a DINOv3 in
    transformers' format, or ``owner/name`` of one of these on the Hugging Face hub. Only ``config.json`` and
    safetensors are read or downloaded; no code runs and nothing is unpickled.

    A DINOv3 becomes a streaming backbone (causal, "rotary", camera token; see
    :func:`~interlace.backbone.from_transformers` for what is made). ``changes`` are :class:`BackboneConfig` fields
    that replace the folder's. :func:`load_as_published` gives the image model itself.

    Raises ValueError, naming it, for a file, field or weight that is missing, left over or does not fit, and with both
    values where the config disagrees with its weights.
    """
    return load_with_report(path, **changes)[0]


def load_as_published(path: str | Path) -> Backbone:
    """:func:`load`, but a DINOv3 in transformers' format stays the image model that it is, to be measured as such."""
    folder = locate(path)
    image = read_json(folder / CONFIG).get("model_type") == _DINOV3
    return load(folder, **_IMAGE_MODEL) if image else load(folder)


def load_with_report(path: str | Path, **changes: Any) -> tuple[Backbone, LoadReport]:
    """:func:`load`, and what it read."""
    folder = locate(path)
    fields = read_json(folder / CONFIG)
    unknown = set(changes) - {field.name for field in dataclasses.fields(BackboneConfig)}
    if unknown:
        raise ValueError(f"load: {', '.join(sorted(unknown))} is no field of BackboneConfig")
    kind, model_type = fields.pop("kind", None), fields.get("model_type")
    if kind == _KIND:
        made_by, own = "interlace", _own_config(folder, fields)
    elif model_type == EXPORTED:
        made_by, own = "interlace export", _own_config(folder, fields.get(FIELDS))
    elif model_type == _DINOV3:
        with told_of(folder / CONFIG):
            made_by, own = "transformers", config_from_transformers(fields)
    elif model_type == EXPORTED_VLM:
        raise ValueError(f"{folder}: an exported vision-language model; name the backbone that it was trained on")
    else:
        raise ValueError(f"{folder / CONFIG}: neither an Interlace backbone nor a DINOv3 of transformers")
    config = dataclasses.replace(own, **changes)
    state = read_weights(folder)
    if made_by == "interlace export":
        state = _without_prefix(folder, state)
    foreign = made_by == "transformers"
    raise_on_disagreement(config, our_names(state) if foreign else state, str(folder), made=foreign)
    report = LoadReport(
        folder=folder,
        made_by=made_by,
        matched=len(state),
        made=_made(config) if foreign else (),
        converted=_dtypes(state),
        changed={name: (getattr(own, name), value) for name, value in changes.items() if getattr(own, name) != value},
    )
    state = {name: tensor.float() for name, tensor in state.items()}
    with told_of(folder):
        return build(config, from_transformers(state, config) if foreign else state), report


@contextmanager
def told_of(place: Path) -> Iterator[None]:
    """A ValueError inside says where it was found."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _without_prefix(folder: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    extra = sorted(name for name in state if not name.startswith(PREFIX))
    if extra:
        raise ValueError(f"{folder}: weights do not fit the config: left over {', '.join(extra)}")
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}


def _made(config: BackboneConfig) -> tuple[str, ...]:
    """What :func:`from_transformers` makes for a backbone of this config."""
    camera = ("the camera token, drawn from N(0, 0.02)",) if config.camera_token else ()
    registers = ("later frames' registers, copies of the first frame's",) if config.slots == 2 else ()
    return camera + registers


def _dtypes(state: dict[str, Tensor]) -> dict[str, int]:
    counts = Counter(tensor.dtype for tensor in state.values())
    return {str(dtype).removeprefix("torch."): n for dtype, n in counts.items() if dtype != torch.float32}


def _own_config(folder: Path, fields: object) -> BackboneConfig:
    if not isinstance(fields, dict):
        raise ValueError(f"{folder / CONFIG}: no {FIELDS!r} object with the backbone's fields")
    try:
        with told_of(folder / CONFIG):
            return BackboneConfig(**fields)
    except TypeError as error:  # an unknown or missing field
        raise ValueError(f"{folder / CONFIG}: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a backbone's folder holds {CONFIG} and {WEIGHTS}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return fields


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of ``model.safetensors``, or of the files that its index names."""
    files = [WEIGHTS]
    if (folder / INDEX).is_file():
        files = _indexed(folder / INDEX)
    state: dict[str, Tensor] = {}
    for name in files:
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: no such file")
        try:
            state.update(load_file(folder / name))
        except SafetensorError as error:
            raise ValueError(f"{folder / name}: not a whole safetensors file ({error})") from None
    return state


def _indexed(index: Path) -> list[str]:
    """The files beside an index that it names."""
    named = read_json(index).get("weight_map")
    files = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
    wrong = [name for name in files if name != Path(name).name or not name.endswith(".safetensors")]
    if wrong or not files:
        found = f"names {', '.join(wrong)}" if wrong else "names no files"
        raise ValueError(f"{index}: {found}; allowed are safetensors files beside it")
    return files
