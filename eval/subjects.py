"""What is measured: a frozen backbone, or the raw pixels that it has to beat. Both give tokens of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from interlace import backbone as backbones
from interlace.backbone import Backbone, BackboneConfig, Features

from .frozen import digest, frozen

#: Side of the small frame that stands for CLS where there is no backbone.
THUMBNAIL = 16
#: The name of the baseline, and what stands for its hash: it has no weights.
PIXELS = "raw pixels"
NO_WEIGHTS = "none"
#: What is added to a backbone's name where its keys and values are kept so.
EIGHT_BITS = "8-bit keys and values"


@dataclass(frozen=True)
class Tokens:
    """Of B clips of T frames, float32 on the CPU: ``patches`` [B, T, h, w, D], ``cls`` [B, T, C], ``camera`` [B, T, K].

    ``camera`` is the camera token, or CLS where there is none. ``features``: all that the backbone said, on its device.
    """

    patches: Tensor
    cls: Tensor
    camera: Tensor
    features: Features | None = field(default=None, compare=False)


class Subject(Protocol):
    """Frames to tokens, without training. ``name``, ``digest``: for reports; ``patch_size`` in pixels."""

    name: str
    digest: str
    patch_size: int

    def clips(self, frames: Tensor) -> Tokens:
        """Tokens of clips [B, T, 3, H, W] uint8, each a stream from its first frame."""
        ...

    def stream(self, frames: Tensor, layers: Sequence[int] = ()) -> Iterator[Tokens]:
        """Tokens [1, 1, ...] of each frame of one clip [T, 3, H, W] uint8, seen one after another, without window."""
        ...

    def held(self) -> AbstractContextManager[object]:
        """A ``with`` block in which the subject may not change."""
        ...


class FrozenBackbone:
    """A backbone as it was loaded.

    A causal backbone streams with keys and values in ``dtype`` of its weights. A bidirectional one cannot: in a stream
    it is shown each frame by itself, and a model of images (DINOv3) in clips too.
    """

    def __init__(self, backbone: Backbone, name: str) -> None:
        self.backbone, self.name = backbone.eval().requires_grad_(False), name
        self.digest = digest(backbone)
        self.patch_size = backbone.config.patch_size

    @property
    def device(self) -> torch.device:
        return self.backbone.embedding.cls_token.device

    @torch.no_grad()
    def clips(self, frames: Tensor) -> Tokens:
        if not self.backbone.config.is_image_model:
            return _tokens(self.backbone(backbones.normalise(frames.to(self.device))))
        alone = self.backbone(backbones.normalise(frames.flatten(0, 1)[:, None].to(self.device)))
        return _tokens(_in_clips(alone, len(frames)))

    @torch.no_grad()
    def stream(self, frames: Tensor, layers: Sequence[int] = ()) -> Iterator[Tokens]:
        length, _, height, width = frames.shape
        if self.backbone.config.attention != "causal":
            for frame in frames:
                yield _tokens(self.backbone(backbones.normalise(frame[None, None].to(self.device)), layers=layers))
            return
        with self.backbone.stream(1, height, width, max_frames=length, dtype=self._dtype()) as stream:
            for frame in frames:
                yield _tokens(stream(backbones.normalise(frame[None, None].to(self.device)), layers=layers))

    def held(self) -> AbstractContextManager[object]:
        return frozen(self.backbone, self.name, self.digest)

    def _dtype(self) -> torch.dtype:
        """Of a stream's keys and values."""
        return self.backbone.embedding.cls_token.dtype


class EightBits(FrozenBackbone):
    """The same with 8-bit keys and values, every clip a stream. Raises ValueError where it cannot stream."""

    def __init__(self, subject: FrozenBackbone) -> None:
        if subject.backbone.config.attention != "causal":
            raise ValueError(
                f"{subject.name}: 8-bit keys and values need a backbone that streams; this one sees the future"
            )
        super().__init__(subject.backbone, f"{subject.name}, {EIGHT_BITS}")

    @torch.no_grad()
    def clips(self, frames: Tensor) -> Tokens:
        batch, length, _, height, width = frames.shape
        with self.backbone.stream(batch, height, width, max_frames=length, dtype=self._dtype()) as stream:
            return _tokens(stream(backbones.normalise(frames.to(self.device))))

    def _dtype(self) -> torch.dtype:
        return torch.int8


def _in_clips(alone: Features, count: int) -> Features:
    """Features of ``count`` clips, of a model without camera token that saw their frames [B * T, 1] by themselves."""
    patches, cls, registers = (
        each.unflatten(0, (count, -1)).squeeze(2) for each in (alone.patches, alone.cls, alone.registers)
    )
    return Features(patches, cls, None, registers, {})


def _tokens(features: Features) -> Tokens:
    cls = features.cls.float().cpu()
    camera = cls if features.camera is None else features.camera.float().cpu()
    return Tokens(features.patches.float().cpu(), cls, camera, features)


class Pixels:
    """Raw pixels, cut into patches of the same size as a backbone's: what a probe gets without any backbone."""

    name, digest = PIXELS, NO_WEIGHTS

    def __init__(self, patch_size: int) -> None:
        self.patch_size = patch_size

    def clips(self, frames: Tensor) -> Tokens:
        scaled = frames.float() / 255 - 0.5
        batch, length, channels, height, width = frames.shape
        side = self.patch_size
        if height % side or width % side:
            raise ValueError(f"frames of {height} x {width} pixels: both sides must be multiples of {side}")
        cut = scaled.reshape(batch, length, channels, height // side, side, width // side, side)
        patches = cut.permute(0, 1, 3, 5, 2, 4, 6).flatten(4)
        small = F.interpolate(scaled.flatten(0, 1), (THUMBNAIL, THUMBNAIL), mode="area").flatten(1)
        small = small.unflatten(0, (batch, length))
        return Tokens(patches, small, small)

    def stream(self, frames: Tensor, layers: Sequence[int] = ()) -> Iterator[Tokens]:
        for frame in frames:
            yield self.clips(frame[None, None])

    def held(self) -> AbstractContextManager[object]:
        return nullcontext()


def open_subject(place: str | Path, device: str = "cpu") -> FrozenBackbone:
    """The backbone at ``place``, a DINOv3 as the image model that it is, on ``device``, called by its last part.

    Raises ValueError for what cannot be loaded, or a device that is not there.
    """
    where = check_device(device)
    backbone = backbones.load_as_published(place)
    return FrozenBackbone(backbone.to(where), name_of(place))


def name_of(place: str | Path) -> str:
    """What results call the backbone at ``place``."""
    return [part for part in Path(place).resolve().parts if part != "backbone"][-1]


def check_device(device: str) -> torch.device:
    """The device of this name. Raises ValueError, in one line, for one that does not exist or is not there."""
    try:
        where = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device {device!r}: allowed are cpu, cuda, cuda:1 and so on") from None
    try:
        torch.empty(1, device=where).cpu()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r}: {str(error).splitlines()[0]}") from None
    return where


def initialised(config: BackboneConfig, seed: int, device: str = "cpu") -> FrozenBackbone:
    """Random weights of this shape on ``device``: those that a run with this seed begins with if it loads none."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FrozenBackbone(Backbone(config).to(torch.device(device)), f"untrained (seed {seed})")
