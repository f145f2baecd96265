"""A few built-in rooms, drawn by rays, as `interlace prepare demo` lays them out, and a small backbone."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from toy_rooms import SETTINGS, drawn, jobs

from interlace.backbone import Backbone, BackboneConfig, save
from interlace.data_recipes import SampleWriter
from interlace.data_recipes.worlds.render import RAYS, set_backend
from interlace.data_recipes.worlds.rooms import LABELS

CONFIG = BackboneConfig(hidden_size=32, depth=2, heads=2, mlp_size=64, patch_size=8, layer_scale=0.5)


@pytest.fixture(scope="session")
def rooms_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=set_backend, initargs=(RAYS,)) as pool:
        for held_out, name in ((False, "rooms_train"), (True, "rooms_held_out")):
            with SampleWriter(
                folder / name,
                name=name,
                fields=("frames", "depth", "camera", "labels"),
                split="held_out" if held_out else "train",
                licence="CC0-1.0",
                fps=SETTINGS.fps,
                classes=LABELS,
                extra={"settings": asdict(SETTINGS)},
                codec="png",
            ) as writer:
                for samples in pool.map(drawn, jobs(held_out)):
                    for sample in samples:
                        writer.write(sample)
    return folder


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone(CONFIG)


@pytest.fixture
def backbone_folder(backbone: Backbone, tmp_path: Path) -> Path:
    save(backbone, tmp_path / "mine")
    return tmp_path / "mine"
