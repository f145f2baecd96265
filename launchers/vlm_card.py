"""The model card of an exported vision-language model, filled from its run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from interlace.backbone import BackboneConfig
from interlace.tasks.vlm import VlmOptions

from .model_card import DINOV3, DINOV3_LINK, Texts, licence_fields, page

_USE = """Needs torch, transformers (4.57 or 5), safetensors and Pillow. The code lies beside the weights.

```python
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor

model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(FOLDER, trust_remote_code=True)
inputs = processor("what is in the picture?", images=Image.open("photo.jpg"))
print(processor.answers(model.generate(**inputs)))

inputs = processor("what happens?", videos=frames, times=seconds)  # uint8 [T, H, W, 3] and [T]
print(processor.answers(model.generate(**inputs)))
```

`generate` is greedy unless asked otherwise, and gives the answer's tokens alone."""


@dataclass(frozen=True)
class VlmCard:
    """What the card tells. ``held_out``: lines of :func:`~.report.gains`. ``hashes``: sha256 of each weights' file."""

    recipe: Mapping[str, Any]
    options: VlmOptions
    backbone: BackboneConfig
    backbone_hash: str
    llm: str
    licence: str
    llm_licence: str
    origin: str
    held_out: Sequence[Mapping[str, Any]]
    hashes: Mapping[str, str]


def vlm_card(card: VlmCard) -> str:
    """The text of README.md."""
    both = card.licence if card.llm_licence == card.licence else f"{card.licence} and {card.llm_licence}"
    front = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        **licence_fields(both),
        "tags": ["interlace", "video", "streaming"],
    }
    texts = Texts(front, _what(card), _USE, _licence(card))
    return page(texts, card.recipe, card.origin, card.held_out)


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of every safetensors file."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            found[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def _what(card: VlmCard) -> str:
    options, seen = card.options, card.backbone
    grids = f", or cut into grids of {', '.join(f'{r}x{c}' for r, c in options.grids)} tiles" if options.grids else ""
    hashes = "\n".join(f"- `{name}`: sha256 `{value}`" for name, value in card.hashes.items())
    return (
        "A language model that sees images and videos through a frozen backbone: patches of the backbone's last layer, "
        f"a two-layer projector, a causal language model. Exported with Interlace {version('interlace')}.\n\n"
        f"- Backbone: {seen.depth} blocks of {seen.hidden_size} channels and {seen.heads} heads, patches of "
        f"{seen.patch_size} pixels, {seen.attention} in time; never trained here; sha256 of its parameters "
        f"`{card.backbone_hash}`.\n"
        f"- Language model: {card.llm}.\n"
        f"- Trained here: {options.trains}.\n"
        f"- Images: squeezed into {options.size} x {options.size} pixels{grids}.\n"
        f"- Videos: {options.fps:g} frames a second, at most {options.max_frames}; more are spread over the whole "
        f"video.\n\n{hashes}"
    )


def _licence(card: VlmCard) -> str:
    first = f"[DINOv3 License]({DINOV3_LINK})" if card.licence == DINOV3 else card.licence
    return f"Backbone and projector: {first}. Language model: {card.llm_licence}. Code: Apache-2.0."
