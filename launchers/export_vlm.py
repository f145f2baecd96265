"""``interlace export`` of a vision-language model: backbone, projector and language model as one folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from interlace.backbone.digest import digest
from interlace.backbone.export import new_folder
from interlace.pretrain.run_folder import RunFolder, rows
from interlace.tasks.vlm import Vlm
from interlace.tasks.vlm.export import write_vlm
from interlace.tasks.vlm.saved import load_vlm

from .export import Exported, asked_for, copy_licence, origin_of, settled
from .report import gains
from .vlm_card import VlmCard, file_hashes, vlm_card


def export_vlm(run: Path, recipe: dict[str, Any], to: Path, licence: str | None) -> Exported:
    """Write the vision-language model of a run that has ended into a new folder ``to``.

    ``licence``: of backbone and projector, as of any backbone. The language model keeps the one that its own folder
    states; one that the run made has the backbone's. Raises ValueError, and leaves nothing, for a run of another task,
    parts that are gone, a ``to`` that is used, no licence, and a language model that states none.
    """
    if "vlm" not in recipe["tasks"]:
        raise ValueError(
            f"{run}: trained {', '.join(recipe['tasks'])} on a frozen backbone; exported are backbones and runs of vlm"
        )
    task, backbone = load_vlm(run)
    origin = origin_of(run)
    licence = settled(licence, origin, run)
    made_by_run = not isinstance(task.options.llm, str)
    llm = None if made_by_run else Path(str(task.options.llm))
    llm_licence = licence if llm is None else stated_licence(llm)
    with new_folder(to) as folder:
        write_vlm(task, backbone, folder, licence=licence, llm_licence=llm_licence)
        card = VlmCard(
            recipe=recipe,
            options=task.options,
            backbone=backbone.config,
            backbone_hash=digest(backbone),
            llm=described(task, llm),
            licence=licence,
            llm_licence=llm_licence,
            origin=origin.told,
            held_out=gains(rows(RunFolder(run).evaluations)),
            hashes=file_hashes(folder),
        )
        (folder / "README.md").write_text(vlm_card(card), encoding="utf-8")
        copied = copy_licence(origin, folder)
        for file in [] if llm is None else licence_files(llm):
            shutil.copyfile(file, folder / f"LANGUAGE_MODEL_{file.name}")
    loaded = f"{run}: {sum(p.numel() for p in (*task.parameters(), *backbone.parameters())):,} parameters"
    told = licence if llm_licence == licence else f"{licence}, of the language model {llm_licence}"
    return Exported(to, told, loaded, (), asked_for(origin, copied))


def described(task: Vlm, folder: Path | None) -> str:
    """The language model in a few words."""
    config, count = task.llm.config, sum(p.numel() for p in task.llm.parameters())
    source = "begun from random weights" if folder is None else f"begun from {named(folder)}"
    return f"{config.model_type}, {config.num_hidden_layers} layers, {count:,} parameters, {source}"


def named(folder: Path) -> str:
    """What a language model's folder is called; in the hub's cache the model's name and revision."""
    owner, _, name = folder.parents[1].name.removeprefix("models--").partition("--")
    return f"{owner}/{name} ({folder.name})" if folder.parent.name == "snapshots" and name else folder.name


def licence_files(llm: Path) -> list[Path]:
    """The texts of its licence that lie in a language model's folder."""
    return sorted(file for file in llm.glob("LICEN[SC]E*") if file.is_file())


def stated_licence(llm: Path) -> str:
    """The licence that a language model's folder states in its card, or that whose text lies there.

    Raises ValueError for a folder that says nothing.
    """
    card = llm / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    fields: Any = None
    if text.startswith("---"):
        try:
            fields = yaml.safe_load(text.split("---")[1])
        except yaml.YAMLError as error:
            raise ValueError(f"{card}: the fields at its top are not YAML ({str(error).splitlines()[0]})") from None
    fields = fields if isinstance(fields, dict) else {}
    name = fields.get("license_name") if fields.get("license") == "other" else fields.get("license")
    if isinstance(name, str) and name:
        return name
    if files := licence_files(llm):
        return f"that of LANGUAGE_MODEL_{files[0].name}"
    raise ValueError(
        f"{llm}: the language model began from it, and it states no licence; put its README.md, with 'license:' at its "
        "top, or its LICENSE there"
    )
