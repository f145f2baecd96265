"""A recipe of all four tasks on a few random clips: seconds to train on, for the tests of this room."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from interlace.data_recipes import FIELDS, Episode, Sample, SampleWriter, Text
from interlace.data_recipes.worlds.tokenizer import train_tokenizer

SIDE, FRAMES = 32, 3
COLOURS = ("red", "green", "blue")


def clip(number: int, dataset: str) -> Sample:
    """Noise in one of three colours, with a camera that slides along and every field that a task can need."""
    rng = np.random.default_rng(number)
    colour = number % len(COLOURS)
    frames = rng.integers(0, 80, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
    frames[..., colour] += 150
    c2w = np.tile(np.eye(4), (FRAMES, 1, 1))
    c2w[:, 0, 3] = np.arange(FRAMES) / 4
    K = np.array([[SIDE, 0, SIDE / 2], [0, SIDE, SIDE / 2], [0, 0, 1]], np.float32)
    box = np.array([[0.1, 0.2, 0.6, 0.7]], np.float32)
    return Sample(
        key=f"{dataset}/clip-{number}/path-0",
        source="",
        frames=frames,
        times=np.arange(FRAMES) / 4,
        depth=rng.uniform(1, 3, frames.shape[:3]).astype(np.float32),
        K=np.tile(K, (FRAMES, 1, 1)),
        c2w=c2w,
        texts=[
            Text(kind="caption", prompt="Describe the image.", answer=f"a {COLOURS[colour]} image", frame=1),
            Text(kind="grounding", prompt="Where is it?", answer="here", frame=0, boxes=box),
        ],
        clusters={"object": rng.permutation(16)[:4], "motion": rng.permutation(8)[:4]},
        labels={"colour": colour},
        episode=Episode(
            instruction="push",
            actions=rng.random((FRAMES, 4), np.float32),
            proprio=np.zeros((FRAMES, 0), np.float32),
            steps=np.arange(FRAMES),
        ),
    )


def write_data(folder: Path) -> Path:
    """``train`` of 12 clips, ``held_out`` of 6, ``film`` of 2 with frames alone, and ``tokenizer.model``."""
    for name, numbers in {"train": range(12), "held_out": range(100, 106)}.items():
        samples = [clip(number, name) for number in numbers]
        with SampleWriter(
            folder / name,
            name=name,
            fields=FIELDS,
            split=name,
            licence="CC0-1.0",
            fps=4.0,
            classes={"colour": COLOURS},
            banks={"object": 16, "motion": 8},
            codec="png",
        ) as writer:
            for sample in samples:
                writer.write(sample)
    with SampleWriter(
        folder / "film", name="film", fields=("frames",), split="held_out", licence="CC0-1.0", fps=4.0, codec="png"
    ) as writer:
        for number in (200, 201):
            frames = clip(number, "film").frames
            writer.write(Sample(key=f"film/clip-{number}", source="", frames=frames, times=np.arange(FRAMES) / 4))
    words = {f"a {colour} image" for colour in COLOURS} | {"Describe the image.", "Where is it?", "here"}
    train_tokenizer(words, folder / "tokenizer.model")
    return folder


def write_recipe(folder: Path, data: Path, steps: int = 3) -> Path:
    """``toy.yaml``: all four tasks on the data of :func:`write_data`."""
    file = folder / "toy.yaml"
    source = f"sources: [{{name: clips, format: mds, path: '{data / 'train'}'}}]"
    held_out = f"held_out: [{{name: clips, format: mds, path: '{data / 'held_out'}'}}]"
    pictured = f"pictured: [{{name: film, format: mds, path: '{data / 'film'}'}}]"
    file.write_text(
        f"""
name: toy
backbone: {{hidden_size: 32, depth: 4, heads: 2, mlp_size: 64, patch_size: 8, layer_scale: 0.1}}
engine:
  {{steps: {steps}, lr: 1.0e-3, warmup: 1, log_every: 1, evaluate_every: 2, checkpoint_every: 2, blind_samples: 8,
   cosine_every: 2, workers: 0}}
tasks:
  ssl:
    weight: 0.1
    batch: 4
    options:
      {{frames: 2, global_size: 32, local_size: 16, local_crops: 1, gram: false, dino_prototypes: 16,
       ibot_prototypes: 16, head_hidden: 32, head_bottleneck: 16, probe_frames: 2, neighbours: 3}}
    {source}
    {held_out}
    {pictured}
  geometry:
    batch: 4
    options: {{size: 32, frames: 2, widths: [16, 16, 16, 16], features: 16, ray_neck: 1}}
    {source}
    {held_out}
    {pictured}
  captioning:
    batch: 4
    options:
      size: 32
      frames: 1
      texts: 2
      decoder: {{layers: 1, hidden_size: 32, heads: 2, mlp_size: 48}}
      tokenizer: {data / "tokenizer.model"}
      max_tokens: 48
      max_generated: 4
      blind: {{steps: 4, batch: 4, check_every: 2}}
    {source}
    {held_out}
  clusters:
    batch: 4
    options:
      {{size: 32, embedding_size: 16, positives: 4, negatives: 0.5,
       banks: {{object: {{rows: 16, frames: 1}}, motion: {{rows: 8, frames: 2}}}}}}
    {source}
    {held_out}
"""
    )
    return file


def interlace(
    *arguments: str | Path, cwd: Path, seconds: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """``interlace ARGUMENTS`` in a process of its own, one thread."""
    command = [sys.executable, "-m", "interlace.launchers", *map(str, arguments)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=seconds)
