"""The model card of an export, filled from the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from interlace.backbone import BackboneConfig
from interlace.data_recipes.formats import FORMATS
from interlace.data_recipes.shards import MANIFEST
from interlace.data_recipes.statistics import signed

from .tables import arrow

#: The name of DINOv3's licence on the Hugging Face hub, and its text.
DINOV3 = "dinov3-license"
DINOV3_LINK = "https://ai.meta.com/resources/models-and-libraries/dinov3-license/"
#: Licences that the hub knows by identifier; others are written as "other".
HUB_LICENCES = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "mpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0"),
    *(
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nc-nd-4.0",
        "openrail",
        "unlicense",
    ),
}


@dataclass(frozen=True)
class Card:
    """What the card tells. ``held_out``: lines of :func:`~.report.gains`. ``digest``: sha256 of the weights' file."""

    recipe: Mapping[str, Any]
    config: BackboneConfig
    licence: str
    origin: str
    heads: Sequence[str]
    held_out: Sequence[Mapping[str, Any]]
    digest: str


def model_card(card: Card) -> str:
    """The text of README.md."""
    texts = Texts(_front(card), _what(card), _use(card), _licence(card.licence))
    return page(texts, card.recipe, card.origin, card.held_out)


@dataclass(frozen=True)
class Texts:
    """What differs between cards: the hub's fields, and the sections that tell of the model itself."""

    front: Mapping[str, Any]
    what: str
    use: str
    licence: str


def page(texts: Texts, recipe: Mapping[str, Any], origin: str, held_out: Sequence[Mapping[str, Any]]) -> str:
    """A whole card. ``origin``: of the first weights. ``held_out``: lines of :func:`~.report.gains`."""
    shown = public(recipe)
    front = yaml.safe_dump(dict(texts.front), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---",
        f"# {shown['name']}\n\n{texts.what}",
        f"## Use\n\n{texts.use}",
        f"## Training\n\n{_training(shown, origin)}",
        f"## Data\n\n{_data(recipe)}",
        f"## Held-out measures\n\n{_measures(held_out)}",
        f"## Licence\n\n{texts.licence}",
        f"## The recipe\n\nPaths are cut to their last part.\n\n```yaml\n{yaml.safe_dump(shown, sort_keys=False)}```",
    ]
    return "\n\n".join(parts) + "\n"


def public(value: Any) -> Any:
    """The recipe with every path cut to its last part: a card is no place for the names of somebody's folders."""
    if isinstance(value, Mapping):
        return {key: public(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(part) for part in value]
    if isinstance(value, str) and value.startswith(("/", "~", "./", "../")):
        return Path(value).name
    return value


def _front(card: Card) -> dict[str, Any]:
    plain = card.config.is_image_model
    return {
        "library_name": "transformers",
        "pipeline_tag": "image-feature-extraction",
        **licence_fields(card.licence),
        "tags": ["interlace", "dinov3_vit"] if plain else ["interlace", "video", "streaming"],
    }


def licence_fields(licence: str) -> dict[str, str]:
    """How the hub wants a licence to be written."""
    if licence == DINOV3:
        return {"license": "other", "license_name": DINOV3, "license_link": DINOV3_LINK}
    if licence.lower() in HUB_LICENCES:
        return {"license": licence.lower()}
    words = "".join(c if c.isalnum() else " " for c in licence.lower()).split()
    return {"license": "other", "license_name": "-".join(words[:8])}


def _what(card: Card) -> str:
    config = card.config
    kind = (
        "An image model in DINOv3's form"
        if config.is_image_model
        else "A vision transformer over the frames of a stream"
    )
    sees = "" if config.is_image_model else f", {config.attention} in time"
    heads = f" With it come heads: {', '.join(card.heads)}." if card.heads else ""
    return (
        f"{kind}{sees}: {config.depth} blocks of {config.hidden_size} channels and {config.heads} heads, patches of "
        f"{config.patch_size} pixels. Trained and exported with Interlace {version('interlace')}.{heads}\n\n"
        f"sha256 of `model.safetensors`: `{card.digest}`"
    )


def _use(card: Card) -> str:
    if card.config.is_image_model:
        return "```python\nfrom transformers import AutoModel\n\nmodel = AutoModel.from_pretrained(FOLDER).eval()\n```"
    rate = card.config.fps
    times = f"`times` are in frames, {rate:g} to a second." if rate else "`times` are in frames."
    heads = (
        '\nheads = model.load_heads("geometry")  # depth, confidence, rays, poses' if "geometry" in card.heads else ""
    )
    layers = ", layers=heads.layers" if heads else ""
    read = "\n        geometry = heads(features)" if heads else ""
    saved = " with its heads" if heads else ""
    stream = (
        "with torch.no_grad(), model.stream(1, height, width, window=16) as stream:\n"
        "    for frame in camera:  # uint8 [1, 1, 3, height, width], multiples of the patch\n"
        f"        features = stream(frame{layers}){read}\n"
    )
    if card.config.attention != "causal":
        stream = ""
    return (
        "Needs torch, transformers (4.57 or 5), safetensors, and Pillow for the processor. The code lies beside the "
        "weights.\n\n```python\nimport torch\nfrom transformers import AutoImageProcessor, AutoModel\n\n"
        f"model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True).eval(){heads}\n"
        "processor = AutoImageProcessor.from_pretrained(FOLDER, trust_remote_code=True)\n"
        'output = model(processor(videos=frames)["pixel_values"])  # .patches, .pooler_output, .last_hidden_state\n'
        f"{stream}```\n\n{times} `interlace.backbone.load(FOLDER)` reads the folder too.\n\n"
        "`output_hidden_states=True` gives the tokens of the embedding and of every block, all before the final "
        "LayerNorm; `return_dict=False` a tuple; there is no `output_attentions`. The processor takes `size=128`, the "
        "shorter side in pixels, rounded to whole patches; its `image_mean`, `image_std`, `do_resize` and "
        "`do_rescale` are those of training, and other values are refused. `model.save_pretrained(OTHER)` saves the "
        f"model{saved}, `processor.save_pretrained(OTHER)` the processor; copy this card and the licence yourself."
    )


def _training(recipe: Mapping[str, Any], origin: str) -> str:
    engine = recipe["engine"]
    rows = [
        (name, f"{part['weight']:g}", f"{part['batch'] * part.get('micro_batches', 1):,}")
        for name, part in recipe["tasks"].items()
    ]
    return (
        f"Initial weights: {origin}. {engine['steps']:,} steps of {engine['optimizer']}, rate {engine['lr']:g}, "
        f"{engine['warmup']:,} steps of warm-up, weight decay {engine['weight_decay']:g}, {engine['precision']}, seed "
        f"{recipe['seed']}; every step all tasks.\n\n" + table(("task", "weight", "samples a step"), rows)
    )


def _data(recipe: Mapping[str, Any]) -> str:
    rows = []
    for name, task in recipe["tasks"].items():
        total = sum(source["weight"] for source in task["sources"])
        for source in task["sources"]:
            share = source["weight"] / total if total else 0.0
            rows.append((name, source["name"], f"{share:.1%}", *_facts(source)))
    return table(("task", "source", "share of the task", "format", "frames a second", "licence"), rows)


def _facts(source: Mapping[str, Any]) -> tuple[str, str, str]:
    """Format, frame rate and licence: what the data's manifest says, where it is still there, or its format's page."""
    manifest, kind = Path(source["path"]) / MANIFEST, source["format"]
    if manifest.is_file():
        stated = json.loads(manifest.read_text(encoding="utf-8"))
        rate = stated.get("fps")
        return kind, f"{rate:g}" if rate else "", str(stated.get("licence", "not stated"))
    return kind, "", FORMATS[kind].licence if kind in FORMATS else "not stated"


def _measures(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "The run measured nothing on held-out data."
    lines = [
        (
            row["task"],
            f"{row['measure']} {arrow(row['better'])}",
            *(f"{row[key]:.3f}" for key in ("start", "value", "blind")),
            " to ".join(signed(row["low"], row["high"])),
            f"{row['n']:,}",
        )
        for row in rows
    ]
    columns = ("task", "measure", "at the start", "at the end", "blind guess", "better than blind by", "samples")
    return (
        "After the last step, beside the best guess that sees no input; intervals are bootstraps over scenes, 95%.\n\n"
        + table(columns, lines)
    )


def _licence(licence: str) -> str:
    if licence == DINOV3:
        return (
            f"The weights derive from DINOv3 and keep its licence: [DINOv3 License]({DINOV3_LINK}). Code: Apache-2.0."
        )
    return f"Weights: {licence}. Code: Apache-2.0."


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
