"""Trained heads from a folder, for a backbone that is frozen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from interlace.backbone import BackboneConfig
from interlace.backbone.folder import EXPORTED
from interlace.backbone.locate import CONFIG, locate

from .heads import GeometryHeads
from .options import GeometryOptions


def find_heads(place: str | Path) -> Path | None:
    """The folder of the geometry heads that a run or an export keeps beside its backbone; None where there are none.

    ``place``: what :func:`~interlace.backbone.locate.locate` takes, with its errors. Only of a folder named
    ``backbone`` they are next to it: what lies beside any other was trained with something else. An export's folder is
    given also where its config tells of heads that are gone.
    """
    folder = locate(place)
    fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    promised = fields.get("heads", {}) if fields.get("model_type") == EXPORTED else {}
    folder = (folder.parent if folder.name == "backbone" else folder) / "heads"
    if "geometry" not in promised and not any(
        (folder / f"geometry.{ending}").exists() for ending in ("json", "safetensors")
    ):
        return None
    return folder


def load_heads(folder: Path, config: BackboneConfig) -> GeometryHeads:
    """The heads in ``geometry.json`` and ``geometry.safetensors`` of ``heads/``, a run's or an export's.

    ``config``: of the backbone that they were trained with. In evaluation mode, on the CPU, float32. Raises ValueError,
    naming it, for a file that is missing or broken and weights that do not fit.
    """
    heads = GeometryHeads.from_options(read_options(folder, config), config)
    weights = folder / "geometry.safetensors"
    if not weights.is_file():
        raise ValueError(f"{weights}: no such file; {folder} holds a head's geometry.json and its weights together")
    try:
        state = load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights}: not a whole safetensors file ({error})") from None
    own = heads.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    wrong = {"missing": missing, "left over": extra, "of another shape": shapes}
    if any(wrong.values()):
        told = "; ".join(f"{kind} {', '.join(names)}" for kind, names in wrong.items() if names)
        raise ValueError(f"{weights}: weights do not fit {folder / 'geometry.json'} and this backbone: {told}")
    heads.load_state_dict(state)
    return heads.eval()


def read_options(folder: Path, config: BackboneConfig) -> dict[str, Any]:
    """The options in ``folder`` as JSON values, with the four layers named. Errors as :func:`load_heads`."""
    file = folder / "geometry.json"
    if not file.is_file():
        raise ValueError(f"{file}: no such file; {folder} holds no geometry heads")
    try:
        options = GeometryOptions.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ValueError(f"{file}: not a geometry head's options ({' '.join(str(error).split())})") from None
    return {**options.model_dump(mode="json"), "layers": list(options.layers_of(config.depth))}
