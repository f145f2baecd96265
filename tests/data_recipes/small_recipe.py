"""Small tasks and a good recipe for them: what the recipe tests break, one place at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from interlace.backbone import PRESETS, BackboneConfig
from interlace.data_recipes import recipe as recipes
from interlace.data_recipes.recipe import ExistingPath, Sections, TaskSpec
from interlace.data_recipes.schema import Strict


class Crops(Strict):
    count: int = Field(2, ge=0)
    scale: tuple[float, float] = (0.05, 0.32)


def _kind(value: Any) -> str:
    return "folder" if isinstance(value, str) else "shape"


class Soft(Strict):
    kind: Literal["soft"] = "soft"
    scale: float = 1.0


class Hard(Strict):
    kind: Literal["hard"]
    margin: float = Field(0.0, ge=0)


class SslOptions(Strict):
    size: int = Field(224, ge=16)
    frames: int = Field(16, ge=1)
    masks: Literal["random", "blocks"] = "random"
    crops: Crops = Crops()
    layers: tuple[int, ...] | None = None
    head: int | Crops | None = None  # a union whose members pydantic tries one after another
    decoder: Annotated[Annotated[str, Tag("folder")] | Annotated[Crops, Tag("shape")], Discriminator(_kind)] = "none"
    loss: Annotated[Soft | Hard, Discriminator("kind")] = Soft()

    @model_validator(mode="after")
    def _layers_rise(self) -> SslOptions:
        if self.layers is not None and list(self.layers) != sorted(self.layers):
            raise ValueError("layers must rise")
        return self


class GeometryOptions(Strict):
    size: int
    weights: ExistingPath | None = None


def check(options: Any, backbone: BackboneConfig) -> list[tuple[str, str]]:
    if options.size % backbone.patch_size:
        return [("size", f"is not a multiple of the patch size {backbone.patch_size}")]
    return []


def tokens_per_sample(options: Any, backbone: BackboneConfig) -> int:
    return (options.size // backbone.patch_size) ** 2 * getattr(options, "frames", 2)


SECTIONS = Sections(
    backbone=BackboneConfig,
    presets={name: PRESETS[name] for name in ("dinov3_vits16", "dinov3_vitl16")},
    tasks={
        "ssl": TaskSpec(
            SslOptions, frozenset({"frames"}), frozenset({"frames"}), check, tokens_per_sample, ("head", "neck")
        ),
        "geometry": TaskSpec(
            GeometryOptions, frozenset({"frames", "depth", "camera"}), frozenset({"frames"}), check, tokens_per_sample
        ),
    },
)

GOOD = """\
name: small
seed: 3
backbone:
  preset: dinov3_vits16
  depth: 4
engine:
  steps: 100
  lr: 1e-4
  warmup: 10
  zero: {stage: 1, offload: cpu}
tasks:
  ssl:
    weight: 0.1
    batch: 8
    options:
      size: 64
    sources:
      - {name: photos, format: webdataset, path: /store/photos}
      - name: clips
        format: webdataset
        path: /store/clips
        weight: 2
    held_out:
      - {name: photos, format: webdataset, path: /store/held}
  geometry:
    batch: 4
    micro_batches: 2
    options:
      size: 32
    sources:
      - name: scenes
        format: scannet
        path: /store/scenes
"""


def edit(*changes: tuple[str, str], text: str = GOOD) -> str:
    """``text`` with each (old, new) replaced; old must occur exactly once."""
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def lines_of(text: str, *overrides: str, environment: dict[str, str] | None = None) -> list[str]:
    """The errors of a recipe's text, nothing looked for on disk."""
    try:
        recipes.resolve(text, SECTIONS, overrides, environment or {}, file="r.yaml")
    except recipes.RecipeErrors as errors:
        return str(errors).splitlines()
    return []


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    return file
