"""A tiny backbone on disk, and the overrides that put it under a shipped recipe."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from interlace.backbone import Backbone, BackboneConfig, save

SHAPE = {"hidden_size": 32, "depth": 2, "heads": 2, "mlp_size": 64, "patch_size": 8, "registers": 1, "layer_scale": 1.0}


def write_backbone(root: Path, seed: int = 5, name: str = "backbone") -> Path:
    """``root/name``, other weights for another seed."""
    torch.manual_seed(seed)
    save(Backbone(BackboneConfig(**SHAPE)), root / name)  # type: ignore[arg-type]
    return root / name


def tiny(backbone: Path, *more: str) -> list[str]:
    """Two steps on it in fp32, without loader processes."""
    return [
        *(f"backbone.{key}={value}" for key, value in SHAPE.items()),
        f"backbone.init={backbone}",
        "engine.steps=2",
        "engine.warmup=1",
        "engine.precision=fp32",
        "engine.workers=0",
        *more,
    ]


def backbone_named_in(run: Path) -> str:
    """Where a run's ``backbone.json`` says that its backbone is."""
    path: str = json.loads((run / "backbone.json").read_text())["path"]
    return path
