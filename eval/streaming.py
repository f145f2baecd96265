"""Depth and cameras read frame by frame from a stream: by a run's own heads, or by fresh ones on frozen tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from interlace.backbone import BackboneConfig
from interlace.data_recipes import Sample
from interlace.data_recipes.statistics import scene
from interlace.tasks.geometry.saved import find_heads, load_heads
from interlace.tasks.geometry.targets import rotation_matrices

from .depth_error import to_size
from .frozen import DataHash
from .heads import Budget, DenseHead, PoseHead, depth_loss, fit, pose_loss
from .probe import DENSE_FRAMES, cache, relative_poses, spread_frames, true_depths
from .recordings import Recording
from .subjects import Subject, Tokens
from .vos import resized


class Reader(Protocol):
    """Tokens of one frame, and of the stream's first, to depth [H, W] float32 and a pose [7] (xyzw, translation)."""

    #: part of the protocol's name
    name: str

    @property
    def layers(self) -> Sequence[int]:
        """Blocks whose patches it reads."""
        ...

    def settings(self) -> dict[str, Any]: ...

    def read(self, tokens: Tokens, first: Tokens, size: tuple[int, int]) -> tuple[Tensor, Tensor]: ...


class OwnHeads:
    """The heads that were trained with the backbone: OmniStream's tables 3 and 4. ValueError where there are none."""

    name = "own heads"

    def __init__(self, place: str | Path, config: BackboneConfig, device: str = "cpu") -> None:
        folder = find_heads(place)
        if folder is None:
            raise ValueError(f"{place}: no geometry heads beside this backbone; measure it with --heads fresh")
        self.heads = load_heads(folder, config)
        self.heads.to(torch.device(device)).requires_grad_(False)

    @property
    def layers(self) -> Sequence[int]:
        return self.heads.layers

    def settings(self) -> dict[str, Any]:
        return {}

    def read(self, tokens: Tokens, first: Tokens, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        if tokens.features is None:
            raise ValueError("own heads: raw pixels have none")
        prediction = self.heads(tokens.features)
        return prediction.depth[0, 0].cpu(), prediction.poses[0, 0, :7].cpu()


class FreshHeads:
    """A linear head on patches and two layers on camera tokens, trained on the built-in rooms with a fixed budget."""

    name = "fresh heads on frozen tokens"
    layers: Sequence[int] = ()

    def __init__(self, subject: Subject, training: Sequence[Sample], budget: Budget, seed: int) -> None:
        self.budget = budget
        seen = DataHash()
        for sample in training:
            seen.add(sample.key, sample.frames, sample.depth, sample.c2w)
        self.training = f"{len(training)} clips of built-in rooms ({seen.hexdigest()[:12]})"
        frames = spread_frames(training, DENSE_FRAMES)
        tokens = cache(subject, training, frames)
        patches, depth = tokens.patches.flatten(0, 1), true_depths(training, frames).flatten(0, 1)
        start = float(depth[depth > 0].log().mean())
        scenes = [scene(sample.key) for sample in training]
        each = [name for name in scenes for _ in range(frames.shape[1])]
        self.dense = fit(lambda: DenseHead(patches, 1, start), depth_loss(patches, depth), each, budget, seed).head
        later = tokens.camera[:, 1:]
        first = tokens.camera[:, :1].expand_as(later)
        flat = [part.flatten(0, 1) for part in (later, first, relative_poses(training)[:, 1:])]
        each = [name for name in scenes for _ in range(later.shape[1])]
        self.pose = fit(lambda: PoseHead(tokens.camera), pose_loss(flat[0], flat[1], flat[2]), each, budget, seed).head

    def settings(self) -> dict[str, Any]:
        return {"trained on": self.training, **self.budget.settings()}

    @torch.no_grad()
    def read(self, tokens: Tokens, first: Tokens, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return self.dense(tokens.patches[0], size)[0, 0].exp(), self.pose(tokens.camera[0, 0], first.camera[0, 0])


@dataclass(frozen=True)
class Said:
    """What was read from a stream: ``depth`` [T, h, w] at the size asked for, ``c2w`` [T, 4, 4] float64."""

    depth: np.ndarray
    c2w: np.ndarray


def network_size(height: int, width: int, long_side: int, patch: int) -> tuple[int, int]:
    """A frame's size with its long side about ``long_side``, both sides rounded to whole patches, at least one."""
    factor = long_side / max(height, width)
    return max(round(height * factor / patch), 1) * patch, max(round(width * factor / patch), 1) * patch


def watch(subject: Subject, reader: Reader, recording: Recording, long_side: int) -> Said:
    """One stream over a recording, without window. Depth comes back at the size of its true depth, or of its frames."""
    height, width = recording.frames.shape[1:3]
    size = network_size(height, width, long_side, subject.patch_size)
    goal = (height, width) if recording.depth is None else (recording.depth.shape[1], recording.depth.shape[2])
    first: Tokens | None = None
    depths, poses = [], []
    for tokens in subject.stream(resized(recording.frames, size), reader.layers):
        first = tokens if first is None else first
        depth, pose = reader.read(tokens, first, size)
        depths.append(to_size(depth.numpy(), goal))
        poses.append(pose.double())
    rows = torch.stack(poses)
    c2w = np.tile(np.eye(4), (len(rows), 1, 1))
    c2w[:, :3, :3] = rotation_matrices(rows[:, :4]).numpy()
    c2w[:, :3, 3] = rows[:, 4:].numpy()
    return Said(np.stack(depths), c2w)
