"""Held-out measures of geometry, and the best guesses that see no input. numpy throughout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from .clips import Clip
from .targets import rotation_matrices

#: name -> better
MEASURES: dict[str, Literal["lower", "higher"]] = {
    "abs_rel": "lower",
    "delta_1.25": "higher",
    "rotation_degrees": "lower",
    "translation_error": "lower",
}

#: What they are, for a reader.
MEANINGS = {
    "abs_rel": "error of depth relative to the true one, mean over a clip's pixels (0.1 is 10%); one scale a clip is "
    "free",
    "delta_1.25": "share of a clip's pixels, 0 to 1, whose depth is within a factor of 1.25 of the true one; one scale "
    "a clip is free",
    "rotation_degrees": "error of the camera's rotation since the first frame, degrees, mean over a clip's frames",
    "translation_error": "error of the camera's position since the first frame, mean over a clip's frames; 1 is the "
    "mean distance of what it shows",
}


@dataclass(frozen=True)
class Guess:
    """Geometry of one clip, from whatever source: ``depth`` [T, H, W] > 0 and ``poses`` [T, 9] as a Prediction has."""

    depth: np.ndarray
    poses: np.ndarray


@dataclass(frozen=True)
class Blind:
    """For each measure the constant guess, the same for every input, that does best on training clips."""

    guesses: dict[str, Guess]


def measure(name: str, guess: Guess, clip: Clip) -> float:
    """The measure ``name`` of a guess about a clip; NaN where the clip has no ground truth for it.

    - ``abs_rel``: mean of |s D^ - D| / D over all valid pixels of the clip;
    - ``delta_1.25``: share of them with max(s D^ / D, D / s D^) < 1.25; s = median D / median D^ over the clip's
      valid pixels, one number a clip, because depth is predicted up to scale;
    - ``rotation_degrees``: mean angle between predicted and true rotation relative to the first camera, frames 1 on;
    - ``translation_error``: mean distance between predicted and true camera centre, same frames, in units of the
      clip's scale, without alignment.
    """
    truth = clip.targets()
    if name in ("abs_rel", "delta_1.25"):
        depth = truth.depth[0].numpy().astype(np.float64)
        ratio = _aligned_ratio(guess.depth, depth)
        if name == "abs_rel":
            return float(np.abs(ratio - 1).mean()) if len(ratio) else float("nan")
        return float((np.maximum(ratio, 1 / ratio) < 1.25).mean()) if len(ratio) else float("nan")
    if len(clip.camera) == 1 or (name == "translation_error" and not clip.scaled):
        return float("nan")
    poses = truth.poses()[0].double().numpy()
    if name == "rotation_degrees":
        return float(rotation_degrees(guess.poses[1:, :4], poses[1:, :4]).mean())
    return float(np.linalg.norm(guess.poses[1:, 4:7] - poses[1:, 4:7], axis=-1).mean())


def _aligned_ratio(guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[valid pixels] of aligned guess over truth."""
    valid = truth > 0
    seen, true = guess[valid].astype(np.float64), truth[valid]
    return seen / true * (np.median(true) / np.median(seen)) if len(true) else true


def rotation_degrees(guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Angle [...] in degrees, 0 to 180, between rotations given as quaternions [..., 4] xyzw of any length but zero.

    From the chord between the matrices, which is exact for small angles too.
    """
    a, b = (rotation_matrices(torch.from_numpy(np.asarray(each, np.float64))).numpy() for each in (guess, truth))
    chord = np.linalg.norm(a - b, axis=(-2, -1))
    return np.degrees(2 * np.arcsin(np.minimum(chord / np.sqrt(8), 1)))


def fit_blind(clips: Sequence[Clip]) -> Blind:
    """For each measure the better, on these training clips of one shape, of two constant guesses.

    Depth, a value a pixel and a frame index, of clips divided by their own median (as predictions are aligned): the
    median, and the value with the least relative error. Poses, a frame index each: geometric medians of quaternion and
    translation, and the first camera's own.

    Raises ValueError when no clip has a valid depth.
    """
    depths = []
    for clip in clips:
        depth = clip.depth.numpy()
        if clip.scaled:
            depths.append(np.where(depth > 0, depth / np.median(depth[depth > 0]), np.nan).astype(np.float32))
    if not depths:
        raise ValueError("geometry: no training sample has a valid depth; blind guesses need some")
    stack, poses = np.stack(depths), np.stack([clip.targets().poses()[0].double().numpy() for clip in clips])
    known = poses[[clip.scaled for clip in clips]]  # the others' translations are in another unit
    frames = range(poses.shape[1])
    moving = np.concatenate(
        (
            np.stack([geometric_median(poses[:, frame, :4]) for frame in frames]),
            np.stack([geometric_median(known[:, frame, 4:7]) for frame in frames]),
            np.median(poses[:, :, 7:], 0),
        ),
        axis=-1,
    )
    median = _filled(weighted_median(stack, np.where(np.isnan(stack), np.nan, 1)), stack)
    least_relative = _filled(weighted_median(stack, 1 / stack), stack)
    still = moving.copy()
    still[:, :7] = (0, 0, 0, 1, 0, 0, 0)
    candidates = [Guess(median, moving), Guess(least_relative, still)]
    return Blind({name: _best(name, candidates, clips) for name in MEASURES})


def _best(name: str, candidates: Sequence[Guess], clips: Sequence[Clip]) -> Guess:
    values = np.array([[measure(name, guess, clip) for clip in clips] for guess in candidates])
    applies = ~np.isnan(values).any(0)
    if not applies.any():
        return candidates[0]
    means = values[:, applies].mean(1)
    return candidates[int(means.argmin() if MEASURES[name] == "lower" else means.argmax())]


def _filled(depth: np.ndarray, stack: np.ndarray) -> np.ndarray:
    """Pixels that no training clip has a depth for get the median of all."""
    return np.where(np.isnan(depth), np.nanmedian(stack), depth)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted median over the first axis of [n, ...], NaN left out: the c that makes sum of w |c - v| least.

    With weights 1 / v that sum is of relative errors. NaN where all are.
    """
    order = np.argsort(values, 0)  # NaN last
    values, weights = np.take_along_axis(values, order, 0), np.take_along_axis(weights, order, 0)
    total = np.cumsum(np.nan_to_num(weights).astype(np.float64), 0)
    middle = (total < total[-1] / 2).sum(0)
    return np.take_along_axis(values, np.minimum(middle, len(values) - 1)[None], 0)[0]


def geometric_median(points: np.ndarray, iterations: int = 200) -> np.ndarray:
    """The point [d] with the least sum of distances to ``points`` [n, d], by Weiszfeld's iteration."""
    centre = np.median(points, 0)
    for _ in range(iterations):
        weights = 1 / np.maximum(np.linalg.norm(points - centre, axis=-1), 1e-9)
        centre = (weights[:, None] * points).sum(0) / weights.sum()
    return centre
