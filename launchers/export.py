"""``interlace export``: what a run leaves, as a Hugging Face folder with a model card."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from interlace.backbone import Backbone, LoadReport, load_with_report
from interlace.backbone.export import Heads, new_folder, write_model
from interlace.backbone.locate import CONFIG, REFERENCE, WEIGHTS, locate
from interlace.pretrain.run_folder import RunFolder, rows
from interlace.tasks.geometry.saved import load_heads, read_options

from .model_card import DINOV3, Card, model_card
from .report import gains

#: How people write DINOv3's licence.
_DINOV3_NAMES = {"dinov3", DINOV3, "dinov3 license", "dinov3 licence"}


@dataclass(frozen=True)
class Exported:
    """``loaded``: the account of the run's weights. ``heads``: those that went along. ``notes``: lines to tell."""

    folder: Path
    licence: str
    loaded: LoadReport | str
    heads: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """Where a run's first weights came from: ``told`` for the card, and the DINOv3 folder or licence, if any."""

    told: str
    dinov3: bool = False
    folder: Path | None = None


def export_run(run: Path, to: Path, licence: str | None) -> Exported:
    """Write the backbone of a run that has ended, and its geometry heads, into a new folder ``to``; or its VLM.

    ``licence``: of the weights, a Hugging Face identifier or any text; not needed for weights that derive from DINOv3,
    which keep its licence. Raises ValueError, and leaves nothing, for a folder that holds no run, a run without
    ``backbone/``, a ``to`` that is used, no licence, and another licence than DINOv3's for what derives from it.
    """
    recipe = read_recipe(run)
    if (run / REFERENCE).is_file():
        from .export_vlm import export_vlm  # which imports this module

        return export_vlm(run, recipe, to, licence)
    if not (run / "backbone").is_dir():
        raise ValueError(f"{run}: no backbone/, which is written when training ends; go on with --resume")
    origin = origin_of(run)
    licence = settled(licence, origin, run)
    backbone, loaded = load_with_report(run / "backbone")
    heads = geometry_heads(run, backbone)
    evaluated = gains(rows(RunFolder(run).evaluations))
    with new_folder(to) as folder:
        write_model(backbone, folder, licence=licence, size=trained_size(recipe), heads=heads)
        card = Card(
            recipe=recipe,
            config=backbone.config,
            licence=licence,
            origin=origin.told,
            heads=tuple(heads),
            held_out=evaluated,
            digest=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        )
        (folder / "README.md").write_text(model_card(card), encoding="utf-8")
        copied = copy_licence(origin, folder)
    return Exported(to, licence, loaded, tuple(heads), asked_for(origin, copied))


def read_recipe(run: Path) -> dict[str, Any]:
    """A run's resolved recipe as plain data: what it names may long be gone."""
    file = RunFolder(run).recipe
    if not file.is_file():
        raise ValueError(f"{run} holds no run: it has no {file.name}; give the folder that --run named")
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(recipe, dict) or not isinstance(recipe.get("tasks"), dict) or "backbone" not in recipe:
        raise ValueError(f"{file}: not a run's recipe; it names no backbone and tasks")
    return recipe


def origin_of(run: Path, seen: frozenset[Path] = frozenset()) -> Origin:
    """Follow a run's first weights, through the runs it began from, to where they were made."""
    if run.resolve() in seen:
        raise ValueError(f"{run}: its recipe begins from itself")
    recipe, seen = read_recipe(run), seen | {run.resolve()}
    before = [Path(path) for path in (recipe.get("start_from"), recipe["backbone"].get("init")) if path]
    found = [_origin_of_folder(path, seen) for path in before]
    # What derives from DINOv3 by any of its ways keeps the licence.
    derived = [origin for origin in found if origin.dinov3]
    return (derived or found or [Origin("drawn at random")])[0]


def _origin_of_folder(path: Path, seen: frozenset[Path]) -> Origin:
    if not path.exists():
        raise ValueError(
            f"{path}: the weights began from it and it is gone, so that nobody can tell whether they derive from "
            "DINOv3; put it back to export them"
        )
    if (path / "recipe.yaml").is_file():
        origin = origin_of(path, seen)
        return Origin(f"the run {path.name}, whose own were: {origin.told}", origin.dinov3, origin.folder)
    folder = locate(path)
    fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if fields.get("model_type") == "dinov3_vit":
        return Origin(f"DINOv3, {path.name}", True, folder)
    if "licence" in fields:
        return Origin(f"{path.name}, exported under {fields['licence']}", fields["licence"] == DINOV3, folder)
    if folder.name == "backbone" and (folder.parent / "recipe.yaml").is_file():
        return _origin_of_folder(folder.parent, seen)
    return Origin(f"the folder {path.name}, which does not say where its own came from")


def settled(licence: str | None, origin: Origin, run: Path) -> str:
    """The licence that the weights are given."""
    given = (licence or "").strip()
    if origin.dinov3:
        if given and given.lower() not in _DINOV3_NAMES:
            raise ValueError(
                f"{run}: its weights derive from DINOv3 ({origin.told}) and keep DINOv3's licence; leave --licence out"
            )
        return DINOV3
    if not given:
        raise ValueError(
            f"{run}: say under which licence the weights are given: --licence TEXT, for example apache-2.0"
        )
    return DINOV3 if given.lower() in _DINOV3_NAMES else given


def geometry_heads(run: Path, backbone: Backbone) -> dict[str, Heads]:
    """The run's geometry heads by name, or nothing."""
    folder = run / "heads"
    if not any((folder / f"geometry.{ending}").exists() for ending in ("json", "safetensors")):
        return {}
    return {"geometry": Heads(load_heads(folder, backbone.config), read_options(folder, backbone.config))}


def trained_size(recipe: dict[str, Any]) -> int | None:
    """The shorter side, in pixels, of the largest frames that the backbone was trained on; None where none is said."""
    sizes = []
    for task in recipe["tasks"].values():
        options = task.get("options") or {}
        said = [options[name] for name in ("size", "global_size") if options.get(name)]
        sizes += [size if isinstance(size, int) else min(size) for size in said]
    return max(sizes, default=None)


def asked_for(origin: Origin, copied: bool) -> tuple[str, ...]:
    """What is left to do for whoever exports."""
    if copied or not origin.dinov3:
        return ()
    return ("DINOv3's licence asks for a copy of its text beside the weights: put it there",)


def copy_licence(origin: Origin, folder: Path) -> bool:
    """Copy the licence that lies beside the weights the run derives from."""
    files = sorted(origin.folder.glob("LICENSE*")) if origin.dinov3 and origin.folder is not None else []
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return bool(files)
