"""Streaming geometric reconstruction (OmniStream section 3.3): depth, rays and camera poses from the stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from interlace.backbone import Backbone, BackboneConfig, BackboneNoise, Features, normalise
from interlace.data_recipes import Sample, generator

from ..blank import blank_scene
from ..interface import Batch, Measure, Progress, Task, TaskContext, Term, swapped
from .camera import CameraHead
from .clips import Clip, check_clip, choose_clip, picture_clip, prepare_clip, stand_in
from .dpt import DualDPT
from .heads import predict
from .losses import geometry_terms
from .measures import MEANINGS, MEASURES, Blind, Guess, fit_blind, measure
from .options import GeometryOptions
from .pictures import draw_depth, draw_path, write_points
from .prediction import Prediction
from .targets import Targets

#: Clips of a forward pass outside training.
CLIPS_AT_ONCE = 4
#: Samples that are drawn.
PICTURED = 4


@dataclass(frozen=True)
class Item:
    """One clip ready for a batch, with its noise."""

    clip: Clip
    noise: BackboneNoise


class Geometry(Task):
    """Dual DPT and camera head on the backbone, trained with OmniStream equations 6 to 8."""

    name: ClassVar[str] = "geometry"
    Options: ClassVar[type[GeometryOptions]] = GeometryOptions
    needs: ClassVar[frozenset[str]] = frozenset({"frames", "depth", "camera"})
    meanings: ClassVar[Mapping[str, str]] = MEANINGS

    def __init__(self, options: GeometryOptions, context: TaskContext) -> None:
        super().__init__(options, context)
        problems = self.check(options, context.backbone)
        if problems:
            raise ValueError("; ".join(f"geometry {key}: {problem}" for key, problem in problems))
        self.options = options
        self.layers = options.layers_of(context.backbone.depth)
        self.dpt = DualDPT(
            context.backbone.hidden_size,
            context.backbone.patch_size,
            widths=options.widths,
            features=options.features,
            ray_neck=options.ray_neck,
        )
        self.camera = CameraHead(context.backbone.hidden_size)
        self._signals: dict[str, Tensor] = {}

    @classmethod
    def check(cls, options: GeometryOptions, backbone: BackboneConfig) -> list[tuple[str, str]]:
        """Sizes and blocks that this backbone does not have; a backbone without the camera token."""
        problems = []
        (height, width), patch = options.height_width, backbone.patch_size
        if height % patch or width % patch:
            problems.append(("size", f"allowed is a multiple of backbone.patch_size = {patch}, both sides"))
        if not all(0 <= layer < backbone.depth for layer in options.layers or ()):
            problems.append(("layers", f"allowed is four blocks from 0 to {backbone.depth - 1}"))
        if not backbone.camera_token:
            problems.append(("", "found no camera token, the camera head reads it; set backbone.camera_token: true"))
        return problems

    @classmethod
    def tokens_per_sample(cls, options: GeometryOptions, backbone: BackboneConfig) -> int:
        return options.frames * backbone.tokens_per_frame(*options.height_width)

    def frame_indices(self, times: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """The frames of one random clip; a clip too short for it gives all that it may repeat."""
        return np.unique(choose_clip(len(times), self.options, rng))

    def largest_sample(self, still: bool) -> Sample:
        """A single image is a clip too, that repeats it."""
        return blank_scene(1 if still else self.options.frames)

    def item(self, sample: Sample, rng: np.random.Generator) -> Item:
        """A clip of the sample, chosen, cropped and mirrored at random with its cameras, normalised."""
        clip = prepare_clip(sample, self.options, rng)
        return Item(clip, BackboneNoise.draw(self.context.backbone, [rng]))

    def collate(self, items: Sequence[Item]) -> Batch:
        """What :func:`collate_clips` makes, ``metric`` [B] bool and ``noise``.

        A rank without samples gets a black clip that is counted nowhere.
        """
        items = items or [self._nothing()]
        clips = [item.clip for item in items]
        batch: Batch = collate_clips(clips)
        batch["metric"] = torch.tensor([clip.metric for clip in clips])
        batch["noise"] = BackboneNoise.cat([item.noise for item in items])
        return batch

    def _nothing(self) -> Item:
        return Item(stand_in(self.options), BackboneNoise.draw(self.context.backbone, [generator(0, "nothing")]))

    def losses(
        self, backbone: Backbone, batch: Batch, *, teacher: nn.Module | None, progress: Progress
    ) -> dict[str, Term]:
        """Terms ``depth``, ``depth_gradient``, ``confidence``, ``ray``, ``points``, ``camera``."""
        features = backbone(normalise(batch["frames"]), layers=self.layers, noise=batch["noise"])
        prediction = self.read(features)
        targets = Targets(*(batch[field.name] for field in fields(Targets)))
        with torch.autocast(prediction.depth.device.type, enabled=False):
            terms = geometry_terms(prediction, targets, self.options)
        self._signals = {
            "confidence": prediction.confidence.detach().mean(),
            "valid_share": targets.valid.float().mean(),
            "metric_share": batch["metric"].float().mean(),
        }
        return terms

    def signals(self) -> dict[str, Tensor]:
        """Mean confidence, the shares of pixels with depth and of clips in metres."""
        return dict(self._signals)

    def read(self, features: Features) -> Prediction:
        """Geometry from features: see :func:`~.heads.predict`."""
        return predict(self.dpt, self.camera, self.layers, features, at_once=self.options.dpt_frames)

    def accept(self, sample: Sample) -> None:
        """Depth and cameras must be there, be finite and fit the frames: see :func:`~.clips.check_clip`."""
        super().accept(sample)
        check_clip(sample, self.options)

    def fit_blind(self, samples: Sequence[Sample]) -> Blind:
        """Per-pixel and per-frame-index constants from training clips: see :func:`~.measures.fit_blind`."""
        return fit_blind([prepare_clip(sample, self.options) for sample in samples])

    def evaluate(self, backbone: Backbone, samples: Sequence[Sample], blind: Blind) -> list[Measure]:
        """``abs_rel``, ``delta_1.25``, ``rotation_degrees``, ``translation_error``: see :func:`~.measures.measure`.

        ``swapped`` is the prediction from the frames of the sample half the list away, so that it is of another
        scene where a scene's samples lie side by side.
        """
        clips = [prepare_clip(sample, self.options) for sample in samples]
        guesses = [
            Guess(prediction.depth[0].cpu().numpy(), prediction.poses[0].cpu().numpy())
            for prediction in self._predict(backbone, clips)
        ]
        others = swapped(guesses)
        return [
            Measure(
                name=name,
                better=better,
                values=np.array([measure(name, guess, clip) for guess, clip in zip(guesses, clips, strict=True)]),
                fixed=np.array([measure(name, blind.guesses[name], clip) for clip in clips]),
                swapped=np.array([measure(name, guess, clip) for guess, clip in zip(others, clips, strict=True)]),
            )
            for name, better in MEASURES.items()
        ]

    def pictures(self, backbone: Backbone, samples: Sequence[Sample], folder: Path, label: str) -> list[Path]:
        """Of the first samples a PNG of depths and one of the camera's path; the predicted points lie beside as PLY."""
        samples = samples[:PICTURED]
        clips = [picture_clip(sample, self.options) for sample in samples]
        drawn = []
        for sample, clip, prediction in zip(samples, clips, self._predict(backbone, clips), strict=True):
            stem = f"{label}_geometry_{sample.key.replace('/', '_')}"
            depth, path = folder / f"{stem}_depth.png", folder / f"{stem}_camera.png"
            draw_depth(depth, clip, prediction, sample.key)
            draw_path(path, clip, prediction, sample.key)
            write_points(folder / f"{stem}.ply", clip, prediction)
            drawn += [depth, path]
        return drawn

    @torch.no_grad()
    def _predict(self, backbone: Backbone, clips: Sequence[Clip]) -> Iterator[Prediction]:
        """A prediction of one clip for each clip."""
        for start in range(0, len(clips), CLIPS_AT_ONCE):
            batch = collate_clips(clips[start : start + CLIPS_AT_ONCE])
            frames = normalise(batch["frames"].to(self.context.device))
            whole = self.read(backbone(frames, layers=self.layers))
            for index in range(len(frames)):
                one = slice(index, index + 1)
                yield Prediction(whole.depth[one], whole.confidence[one], whole.rays[one], whole.poses[one])


def collate_clips(clips: Sequence[Clip]) -> dict[str, Any]:
    """``frames`` [B, T, 3, H, W] uint8 and the tensors of :class:`~.targets.Targets`."""
    return {
        "frames": torch.stack([clip.frames for clip in clips]),
        "depth": torch.stack([clip.depth for clip in clips]),
        "intrinsics": torch.stack([clip.intrinsics for clip in clips]),
        "camera": torch.stack([clip.camera for clip in clips]),
        "scaled": torch.tensor([clip.scaled for clip in clips]),
        "posed": torch.tensor([clip.posed for clip in clips]),
    }
