"""One sample made ready in a loader worker: frames chosen, cropped, resized and mirrored, cameras with them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interlace.data_recipes import DataError, Sample

from ..frames import choose_frames, resize
from .options import GeometryOptions
from .targets import Targets, clip_scale, relative_to_first

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the source's frame

#: Neighbouring pixels whose depths differ by more than this factor lie on two surfaces: no depth is made between them.
SAME_SURFACE = 1.05
#: How far a source's rotation may be from orthogonal; float32 and a few digits of text stay far below.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Clip:
    """A clip as the backbone sees it, and its ground truth.

    ``frames`` [T, 3, H, W] uint8; the other tensors are those of :class:`~.targets.Targets` for one clip, float32.
    ``scale``: units of the source in one normalised unit, 1 where unknown. ``metric``: the source's unit is the metre.
    ``posed``: whether the cameras are a source's; false for :func:`stand_in` only.
    """

    frames: Tensor
    depth: Tensor
    intrinsics: Tensor
    camera: Tensor
    scale: float
    scaled: bool
    metric: bool
    posed: bool = True

    def targets(self) -> Targets:
        """The ground truth as a batch of one."""
        scaled, posed = torch.tensor([self.scaled]), torch.tensor([self.posed])
        return Targets(self.depth[None], self.intrinsics[None], self.camera[None], scaled, posed)


def prepare_clip(sample: Sample, options: GeometryOptions, rng: np.random.Generator | None = None) -> Clip:
    """A clip of ``options.frames`` frames of ``options.height_width`` pixels; without ``rng`` always the same one.

    Without ``rng`` it begins at the first frame, with the middle stride, uncropped beyond the shape, not mirrored. A
    clip too short for the least stride repeats frames. The pose algebra is float64: world coordinates may be large.

    Raises what :func:`check_clip` raises.
    """
    all_depth, all_intrinsics, all_cameras = _ground_truth(sample)
    chosen = choose_clip(len(sample.frames), options, rng)
    depth, intrinsics, camera = all_depth[chosen], all_intrinsics[chosen], all_cameras[chosen]
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, 0)
    if sample.sky is not None:
        depth = np.where(sample.sky[chosen], 0, depth)
    size = options.height_width
    box = crop_box(sample, intrinsics, options, rng)
    flip = rng is not None and rng.random() < options.flip
    frames = resize(sample.frames[chosen], size, box=box, flip=flip)
    if rng is not None and options.colour_jitter:
        frames = jitter_colours(frames, options.colour_jitter, rng)
    return _normalised(
        torch.from_numpy(frames),
        torch.from_numpy(resample_depth(depth, size, box, flip).astype(np.float64)),
        torch.from_numpy(crop_intrinsics(intrinsics, size, box, flip)),
        torch.from_numpy(mirror(camera) if flip else camera),
        sample.metric,
    )


def check_clip(sample: Sample, options: GeometryOptions) -> None:
    """DataError, naming the sample, where depth or cameras are missing, none, or do not fit the frames."""
    _, intrinsics, _ = _ground_truth(sample)
    crop_box(sample, intrinsics, options, None)


def picture_clip(sample: Sample, options: GeometryOptions) -> Clip:
    """The clip of a sample to draw: :func:`prepare_clip`'s, without any truth where the sample has none."""
    if sample.depth is not None and sample.c2w is not None:
        return prepare_clip(sample, options)
    chosen = choose_clip(len(sample.frames), options, None)
    height, width = sample.frames.shape[1:3]
    centred = np.array([[[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]]])
    box = crop_box(sample, centred, options, None)
    frames = torch.from_numpy(resize(sample.frames[chosen], options.height_width, box=box))
    return dataclasses.replace(stand_in(options), frames=frames)


def stand_in(options: GeometryOptions) -> Clip:
    """A black clip of which nothing is known: what a rank without samples runs its modules on."""
    (height, width), count = options.height_width, options.frames
    return Clip(
        frames=torch.zeros(count, 3, height, width, dtype=torch.uint8),
        depth=torch.zeros(count, height, width),
        intrinsics=torch.tensor([[width, 0, width / 2], [0, height, height / 2], [0, 0, 1]]).repeat(count, 1, 1),
        camera=torch.eye(4).repeat(count, 1, 1),
        scale=1.0,
        scaled=False,
        metric=False,
        posed=False,
    )


def _normalised(frames: Tensor, depth: Tensor, intrinsics: Tensor, camera: Tensor, metric: bool) -> Clip:
    """The clip in its first camera's frame and in units of its own scale."""
    scaled = bool((depth > 0).any())
    camera = relative_to_first(camera)
    scale = float(clip_scale(depth, intrinsics, camera)) if scaled else 1.0
    camera[:, :3, 3] /= scale
    return Clip(frames, (depth / scale).float(), intrinsics.float(), camera.float(), scale, scaled, metric)


def _ground_truth(sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, intrinsics and camera-to-world of all frames, as the sample has them, the last two in float64."""
    where = f"source {sample.source!r}, sample {sample.key!r}"
    if sample.depth is None or sample.K is None or sample.c2w is None:
        raise DataError(f"{where}: geometry needs depth and cameras; ask the source for the fields depth and camera")
    count = len(sample.frames)
    if not count or sample.depth.shape != sample.frames.shape[:3]:
        raise DataError(f"{where}: depth {sample.depth.shape} does not fit frames {sample.frames.shape}")
    if sample.sky is not None and sample.sky.shape != sample.depth.shape:
        raise DataError(f"{where}: a sky {sample.sky.shape} does not fit frames {sample.frames.shape}")
    if sample.K.shape != (count, 3, 3) or sample.c2w.shape != (count, 4, 4):
        raise DataError(f"{where}: cameras {sample.K.shape} and {sample.c2w.shape} are not of its {count} frames")
    if not (np.isfinite(sample.K).all() and np.isfinite(sample.c2w).all()):
        raise DataError(f"{where}: a camera is not finite; leave such frames out when the source is prepared")
    intrinsics, camera = sample.K.astype(np.float64), sample.c2w.astype(np.float64)
    if not (_is_projection(intrinsics) and _is_motion(camera)):
        raise DataError(
            f"{where}: a camera is none; K needs positive focal lengths over a row 0 0 1, c2w a rotation over 0 0 0 1"
        )
    return sample.depth, intrinsics, camera


def _is_projection(intrinsics: np.ndarray) -> bool:
    """Whether all of [T, 3, 3] project: what does not has no rays, or none in front of the camera."""
    below = np.abs(intrinsics[:, 2] - (0, 0, 1)).max() < TOLERANCE
    return bool(below and (intrinsics[:, (0, 1), (0, 1)] > 0).all())


def _is_motion(camera: np.ndarray) -> bool:
    """Whether all of [T, 4, 4] are rigid motions: of anything else there is no quaternion, and depth is no z-depth."""
    turn = camera[:, :3, :3]
    below = np.abs(camera[:, 3] - (0, 0, 0, 1)).max() < TOLERANCE
    return bool(
        below and np.abs(turn @ turn.swapaxes(1, 2) - np.eye(3)).max() < TOLERANCE and (np.linalg.det(turn) > 0).all()
    )


def choose_clip(length: int, options: GeometryOptions, rng: np.random.Generator | None) -> np.ndarray:
    """Indices [frames] of a clip of ``length``: equally spaced where the clip holds the least stride.

    All of a clip of exactly ``options.frames`` frames: what was chosen before decoding is not thinned again.
    """
    if length == options.frames:
        return np.arange(length)
    least, most = options.stride
    fits = (length - 1) // max(options.frames - 1, 1)
    if fits < least:
        return choose_frames(length, options.frames, rng)
    most = min(most, fits)
    stride = (least + most) // 2 if rng is None else int(rng.integers(least, most + 1))
    last_start = length - 1 - stride * (options.frames - 1)
    start = 0 if rng is None else int(rng.integers(last_start + 1))
    return start + stride * np.arange(options.frames)


def crop_box(sample: Sample, intrinsics: np.ndarray, options: GeometryOptions, rng: np.random.Generator | None) -> Box:
    """The largest box of the wanted shape that has the clip's mean principal point in its middle, zoomed with ``rng``.

    The camera head predicts no principal point: like the paper it takes it to be in the middle.
    """
    (height, width), (rows, columns) = sample.frames.shape[1:3], options.height_width
    x, y = intrinsics[:, :2, 2].mean(0)
    if not (0 < x < width and 0 < y < height):
        raise DataError(
            f"source {sample.source!r}, sample {sample.key!r}: principal point ({x:.1f}, {y:.1f}) is outside "
            f"its frames of {height} x {width} pixels; intrinsics must be in pixels of the stored frames"
        )
    half = min(min(x, width - x) / columns, min(y, height - y) / rows)
    if rng is not None:
        half /= math.exp(rng.uniform(0, math.log(options.zoom)))
    left, top = round(x - half * columns), round(y - half * rows)
    box_width, box_height = max(round(2 * half * columns), 1), max(round(2 * half * rows), 1)
    return left, top, min(left + box_width, width), min(top + box_height, height)


def crop_intrinsics(intrinsics: np.ndarray, size: tuple[int, int], box: Box, flip: bool) -> np.ndarray:
    """Intrinsics [T, 3, 3] after a box is cut out, resized to (H, W), and mirrored left to right."""
    (height, width), (left, top, right, bottom) = size, box
    across, down = width / (right - left), height / (bottom - top)
    resized = np.array([[across, 0, -left * across], [0, down, -top * down], [0, 0, 1]]) @ intrinsics
    if not flip:
        return resized
    return np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]]) @ resized @ np.diag([-1.0, 1, 1])


def mirror(camera: np.ndarray) -> np.ndarray:
    """Camera-to-world [T, 4, 4] of cameras that see, mirrored left to right, what the given ones see.

    The world is mirrored with them (x becomes -x), which keeps rotations rotations.
    """
    reflection = np.diag([-1.0, 1, 1, 1])
    return reflection @ camera @ reflection


def resample_depth(depth: np.ndarray, size: tuple[int, int], box: Box, flip: bool) -> np.ndarray:
    """Depth [T, H, W] (0 = invalid) after a box is cut out, resized to (height, width), and mirrored.

    At a new pixel's centre the inverse depth of its four neighbours is interpolated (at the border extrapolated), which
    is exact on planes; where one of them is invalid or they lie on different surfaces, the nearest pixel is taken.
    """
    (rows, columns), (left, top, right, bottom) = size, box
    cut = depth[:, top:bottom, left:right]
    if cut.shape[1:] != size:
        y, down = _neighbours(bottom - top, rows)
        x, across = _neighbours(right - left, columns)
        corners = np.stack([cut[:, y[i][:, None], x[j]] for i in (0, 1) for j in (0, 1)])
        share = np.stack([d[:, None] * a for d in (1 - down, down) for a in (1 - across, across)])
        nearest = np.where(down[:, None] < 0.5, np.where(across < 0.5, 0, 1), np.where(across < 0.5, 2, 3))
        near = np.take_along_axis(corners, np.broadcast_to(nearest, corners.shape[1:])[None], 0)[0]
        smooth = (corners > 0).all(0) & (corners.max(0) <= SAME_SURFACE * corners.min(0))
        inverse = (share[:, None] / np.where(smooth, corners, 1)).sum(0)
        cut = np.where(smooth, 1 / inverse, near)
    return np.ascontiguousarray(cut[:, :, ::-1] if flip else cut)


def _neighbours(old: int, new: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Of ``new`` cells over ``old`` pixels: the two pixels next to each centre, and the second one's share."""
    position = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.clip(np.floor(position).astype(np.int64), 0, max(old - 2, 0))
    return (first, np.minimum(first + 1, old - 1)), position - first


def jitter_colours(frames: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation of a clip [T, 3, H, W] uint8, each changed by a factor in 1 +- strength."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    pixels = frames.astype(np.float32) * np.float32(brightness)
    mean = pixels.mean()
    pixels = mean + (pixels - mean) * np.float32(contrast)
    grey = pixels.mean(1, keepdims=True)
    return np.clip(np.rint(grey + (pixels - grey) * np.float32(saturation)), 0, 255).astype(np.uint8)
