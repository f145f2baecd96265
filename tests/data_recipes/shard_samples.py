"""Small samples with every field, and shards of them, for the tests of this room."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from interlace.data_recipes import FIELDS, Episode, Sample, Text
from interlace.data_recipes.shards import SampleWriter

CLASSES = {"floor": ["wood", "stone", "grass"]}
BANKS = {"object": 32, "motion": 8}


def make_sample(number: int, *, count: int = 3, height: int = 24, width: int = 32, key: str | None = None) -> Sample:
    """A sample in which everything depends on ``number``: frame t has the grey level (5 * number + t) % 256."""
    rng = np.random.default_rng(number)
    levels = (5 * number + np.arange(count)) % 256
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, :3, 3] = rng.normal(size=(count, 3))
    depth = rng.uniform(0.5, 9, (count, height, width)).astype(np.float32)
    sky = rng.random((count, height, width)) < 0.2
    depth[sky] = 0
    boxes = np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)
    return Sample(
        key=key or f"rooms/{number:06d}",
        source="rooms",
        frames=np.broadcast_to(levels.astype(np.uint8)[:, None, None, None], (count, height, width, 3)).copy(),
        times=np.arange(count) / 8 + number,
        depth=depth,
        sky=sky,
        K=np.tile(np.array([[30, 0, width / 2], [0, 31, height / 2], [0, 0, 1]], np.float32), (count, 1, 1)),
        c2w=c2w,
        metric=number % 2 == 0,
        texts=[
            Text(kind="caption", prompt="What is there?", answer=f"room {number}", frame=count - 1),
            Text(kind="grounding", prompt="Where is it?", answer="here", frame=0, boxes=boxes),
        ],
        clusters={"object": np.array([number % 32, 31]), "motion": np.array([number % 8])},
        labels={"floor": number % 3},
        episode=Episode(
            instruction=f"go to room {number}",
            actions=rng.random((count + 2, 4), np.float32),
            proprio=rng.random((count + 2, 3), np.float32),
            steps=np.arange(count) + 1,
        ),
    )


def with_tests_on_path() -> dict[str, str]:
    """The environment of a process that may import this folder's modules."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}


def write_samples(folder: Path, samples: list[Sample], fields: tuple[str, ...] = FIELDS, **options: Any) -> Path:
    """Shards of about three samples each (with the default size of a sample and PNG frames)."""
    settings: dict[str, Any] = {"name": "rooms", "split": "train", "licence": "CC0-1.0", "fps": 8.0, "codec": "png"}
    settings |= {"classes": CLASSES} if "labels" in fields else {}
    settings |= {"banks": BANKS} if "clusters" in fields else {}
    settings |= {"shard_bytes": 30_000} | options
    with SampleWriter(folder, fields=fields, **settings) as writer:
        for sample in samples:
            writer.write(sample)
    return folder
