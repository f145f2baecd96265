"""Writing the folder: all of it or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..folder import EXPORTED, FIELDS, PREFIX, plain_state, write_tensors
from ..locate import CONFIG, WEIGHTS
from ..model import Backbone
from ..preprocess import MEAN, STD
from ..weights import to_transformers
from .sources import flatten

_CONFIGURATION, _MODEL, _PROCESSOR = (
    f"{__package__}.{kind}_interlace" for kind in ("configuration", "modeling", "image_processing")
)


@dataclass(frozen=True)
class Heads:
    """Heads to go with a backbone.

    ``module``: its class's file is exported, and has ``from_options(options, backbone config)`` to make it again.
    """

    module: nn.Module
    options: dict[str, Any]


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` to write into, that gets its name when the block ends, and goes away when it fails.

    Raises ValueError where ``target`` is a file, or a folder that holds something.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target}: already there and not empty; remove it or export to another folder")
    target = target.resolve()  # "." has no name to put a partial folder beside
    partial = target.parent / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_model(
    backbone: Backbone, folder: Path, *, licence: str, size: int | None, heads: Mapping[str, Heads] | None = None
) -> None:
    """Write config, weights, code, processor and heads into a folder that is there.

    A DINOv3 image model (:attr:`BackboneConfig.is_image_model`) is written for transformers' own class, anything
    else with its code. ``licence``: of the weights. ``size``: the shorter side, in pixels, that the processor brings
    frames to; None keeps theirs. Raises ValueError for heads of an image model, whose class cannot load them.
    """
    heads = heads or {}
    entries = [_PROCESSOR]
    if backbone.config.is_image_model:
        if heads:
            raise ValueError(f"export: transformers' DINOv3 has no place for heads: {', '.join(heads)}")
        fields, state = to_transformers(backbone)
    else:
        entries += [_CONFIGURATION, _MODEL, *(type(part.module).__module__ for part in heads.values())]
        fields = {
            "model_type": EXPORTED,
            "architectures": ["InterlaceModel"],
            "auto_map": {
                "AutoConfig": class_in(_CONFIGURATION, "InterlaceConfig"),
                "AutoModel": class_in(_MODEL, "InterlaceModel"),
            },
            FIELDS: backbone.config.to_json(),
            "heads": {name: _class(part) for name, part in heads.items()},
        }
        state = {PREFIX + name: tensor for name, tensor in plain_state(backbone).items()}
    write_json(folder / CONFIG, {**fields, "dtype": "float32", "licence": licence})
    write_tensors(state, folder / WEIGHTS, {"format": "pt"})
    processor = {
        "auto_map": {"AutoImageProcessor": class_in(_PROCESSOR, "InterlaceImageProcessor")},
        "size": None if size is None else {"shortest_edge": size},
        "patch_size": backbone.config.patch_size,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    write_json(folder / "preprocessor_config.json", processor)
    for name, part in heads.items():
        _write_heads(folder / "heads", name, part)
    for name, text in flatten(entries).items():
        (folder / name).write_text(text, encoding="utf-8")


def _write_heads(folder: Path, name: str, heads: Heads) -> None:
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{name}.json", heads.options)
    write_tensors(plain_state(heads.module), folder / f"{name}.safetensors", {"format": "pt"})


def _class(heads: Heads) -> str:
    made_by = type(heads.module)
    return class_in(made_by.__module__, made_by.__name__)


def class_in(module: str, name: str) -> str:
    """How transformers names a class of a module in its file of the folder."""
    return f"{module.rpartition('.')[2]}.{name}"


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Indented, with a line's end."""
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
