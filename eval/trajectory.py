"""Camera paths against the truth, as evo measures them: after a similarity alignment, ATE and RPE."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PoseError:
    """RMSE of camera centres, and of the motions from frame to frame: their translation and their degrees."""

    ate: float
    rpe_translation: float
    rpe_rotation: float


def pose_error(guess: np.ndarray, truth: np.ndarray) -> PoseError:
    """Errors of camera-to-world poses [T, 4, 4] matched by index, T >= 2, in the truth's unit.

    The guess is brought to the truth by one rotation, translation and scale for all frames. Raises ValueError for
    shapes that differ, fewer than two frames, or poses that are not finite.
    """
    if guess.shape != truth.shape or guess.shape[1:] != (4, 4):
        raise ValueError(f"poses {guess.shape} and their truth {truth.shape} must both be [T, 4, 4]")
    if len(guess) < 2:
        raise ValueError(f"a path of {len(guess)} frame has no motion to measure")
    for name, poses in (("predicted", guess), ("true", truth)):
        bad = np.flatnonzero(~np.isfinite(poses).all((1, 2)))
        if len(bad):
            raise ValueError(f"the {name} pose of frame {bad[0]} is not finite")
    aligned = align(guess.astype(np.float64), truth.astype(np.float64))
    centres = np.linalg.norm(aligned[:, :3, 3] - truth[:, :3, 3], axis=1)
    moved = np.linalg.inv(truth[:-1]) @ truth[1:]
    error = np.linalg.inv(moved) @ (np.linalg.inv(aligned[:-1]) @ aligned[1:])
    return PoseError(
        ate=_rms(centres),
        rpe_translation=_rms(np.linalg.norm(error[:, :3, 3], axis=1)),
        rpe_rotation=_rms(angles(error[:, :3, :3])),
    )


def align(guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """``guess`` [T, 4, 4] after the similarity that brings its centres nearest to the truth's."""
    rotation, translation, scale = similarity(guess[:, :3, 3], truth[:, :3, 3])
    aligned = guess.copy()
    aligned[:, :3, :3] = rotation @ guess[:, :3, :3]
    aligned[:, :3, 3] = scale * guess[:, :3, 3] @ rotation.T + translation
    return aligned


def similarity(points: np.ndarray, onto: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """(R [3, 3], t [3], s) with the least squares of s R x + t - y over rows x, y of [n, 3] (Umeyama 1991).

    Points that all lie in one place have no scale and no direction: they are only moved, s = 1.
    """
    centre, goal = points.mean(0), onto.mean(0)
    spread = float(((points - centre) ** 2).sum(1).mean())
    if spread <= np.finfo(np.float64).eps * (1 + float((points**2).sum(1).mean())):
        return np.eye(3), goal - centre, 1.0
    left, values, right = np.linalg.svd((onto - goal).T @ (points - centre) / len(points))
    signs = np.ones(3)
    if np.linalg.det(left) * np.linalg.det(right) < 0:
        signs[-1] = -1  # a reflection is no motion
    rotation = left @ np.diag(signs) @ right
    scale = float((values * signs).sum() / spread)
    return rotation, goal - scale * rotation @ centre, scale


def angles(rotations: np.ndarray) -> np.ndarray:
    """Degrees [...] of rotation matrices [..., 3, 3], from the chord, which is exact for small angles too."""
    chord = np.linalg.norm(rotations - np.eye(3), axis=(-2, -1))
    return np.degrees(2 * np.arcsin(np.minimum(chord / np.sqrt(8), 1)))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))
