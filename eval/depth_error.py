"""Video depth by CUT3R's rules: one alignment for a whole sequence, then errors over its valid pixels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Alignment = Literal["scale", "scale_shift", "median", "metric"]
ALIGNMENTS: tuple[Alignment, ...] = ("scale", "scale_shift", "median", "metric")

#: Reweighted least squares: how often, the least residual, the least scale.
_ITERATIONS, _LEAST_RESIDUAL, _LEAST_SCALE = 10, 1e-8, 1e-3
#: The L1 fit of scale and shift: Adam's rate and steps. It does not converge, which is part of the protocol.
_RATE, _STEPS = 1e-4, 1000
#: A map that is made larger by cubic interpolation may overshoot; depth is positive.
_LEAST_DEPTH = 1e-5


@dataclass(frozen=True)
class DepthError:
    """Of one sequence. ``pixels``: the valid ones, which weight it among the others. ``scale``, ``shift``: what brought
    the guess to the truth."""

    abs_rel: float
    sq_rel: float
    rmse: float
    log_rmse: float
    delta_1: float
    delta_2: float
    delta_3: float
    pixels: int
    scale: float = 1.0
    shift: float = 0.0

    def values(self) -> list[float]:
        """All but ``scale`` and ``shift``, in their order."""
        return [float(value) for value in list(asdict(self).values())[:-2]]


def to_size(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A depth map [h, w] at another size, cubic, never below a small positive number."""
    if depth.shape == size:
        return depth
    large = F.interpolate(torch.from_numpy(depth)[None, None].float(), size, mode="bicubic")[0, 0]
    return large.clamp_min(_LEAST_DEPTH).numpy()


def depth_error(
    guess: np.ndarray,
    truth: np.ndarray,
    *,
    alignment: Alignment = "scale",
    deepest: float | None = None,
    clip: float | None = None,
) -> DepthError:
    """Errors of a sequence [T, H, W] against its truth, 0 = invalid.

    ``deepest``: truth from there on is left out. ``clip``: aligned guesses are cut off there. Raises ValueError for
    shapes that differ, a guess that is not finite, or no valid pixel.
    """
    if guess.shape != truth.shape:
        raise ValueError(f"depth {guess.shape} and its truth {truth.shape} are not of one shape")
    valid = np.isfinite(truth) & (truth > 0)
    if deepest is not None:
        valid &= truth < deepest
    seen, true = guess[valid].astype(np.float64), truth[valid].astype(np.float64)
    if not len(true):
        raise ValueError("no pixel has a valid depth")
    if not np.isfinite(seen).all():
        raise ValueError("the predicted depth is not finite everywhere")
    scale, shift = align(seen, true, alignment)
    seen = scale * seen + shift
    if clip is not None:
        seen = np.minimum(seen, clip)
    difference = seen - true
    logs = np.log(np.maximum(seen, _LEAST_DEPTH)) - np.log(true)
    ratio = np.maximum(seen / true, true / np.maximum(seen, _LEAST_DEPTH))
    return DepthError(
        abs_rel=float((np.abs(difference) / true).mean()),
        sq_rel=float((difference**2 / true).mean()),
        rmse=float(np.sqrt((difference**2).mean())),
        log_rmse=float(np.sqrt((logs**2).mean())),
        delta_1=float((ratio < 1.25).mean()),
        delta_2=float((ratio < 1.25**2).mean()),
        delta_3=float((ratio < 1.25**3).mean()),
        pixels=len(true),
        scale=scale,
        shift=shift,
    )


def align(guess: np.ndarray, truth: np.ndarray, alignment: Alignment) -> tuple[float, float]:
    """(scale, shift) that bring ``guess`` [n] to ``truth`` [n].

    "scale": ten iterations of least squares reweighted by 1 / |residual| from the ratio of means; "scale_shift": the
    L1 fit of both by Adam from the ratio of (lower) medians; "median": that ratio; "metric": nothing. In float32.
    """
    if alignment == "metric":
        return 1.0, 0.0
    seen, true = torch.from_numpy(guess).float(), torch.from_numpy(truth).float()
    if alignment == "median":
        return float(true.median() / seen.median()), 0.0
    if alignment == "scale_shift":
        return _least_absolute(seen, true)
    # Weights reach 1e8, so that precision and the order of the factors move the fourth digit: these are CUT3R's.
    scale = true.mean() / seen.mean()
    for _ in range(_ITERATIONS):
        weights = 1 / ((scale * seen - true).abs() + _LEAST_RESIDUAL)
        scale = (weights * seen * true).sum() / (weights * seen**2).sum()
    return max(float(scale), _LEAST_SCALE), 0.0


def _least_absolute(guess: Tensor, truth: Tensor) -> tuple[float, float]:
    with torch.enable_grad():
        scale = (truth.median() / guess.median()).clone().requires_grad_()
        shift = torch.zeros_like(scale, requires_grad=True)
        optimizer = torch.optim.Adam([scale, shift], lr=_RATE)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            (scale * guess + shift - truth).abs().sum().backward()
            optimizer.step()
    return float(scale.detach()), float(shift.detach())
