"""OmniStream equations 6 to 8, as sums and counts.

The paper sums over frames and leaves the divisor open; here every term is divided by the number of numbers it
compares, over the whole micro-batch: what has no ground truth is in neither.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..interface import Term
from .options import GeometryOptions
from .prediction import Prediction
from .targets import Targets


def geometry_terms(prediction: Prediction, targets: Targets, options: GeometryOptions) -> dict[str, Term]:
    """All terms of equation 6 with their weights, in a fixed order. fp32 inputs, outside autocast."""
    weights = options.weights
    valid = targets.valid
    rays, poses = targets.rays(*prediction.rays.shape[-3:-1]), targets.poses()
    return {
        "depth": depth_term(prediction.depth, prediction.confidence, targets.depth, valid, weights.depth),
        "depth_gradient": gradient_term(prediction.depth, prediction.confidence, targets.depth, valid, weights.depth),
        "confidence": confidence_term(prediction.confidence, valid, weights.depth * options.alpha),
        "ray": l1_term(prediction.rays, rays, ray_mask(rays, targets), weights.ray),
        "points": l1_term(
            prediction.points(), targets.points(), valid[..., None].expand(*valid.shape, 3), weights.points
        ),
        "camera": l1_term(prediction.poses, poses, pose_mask(poses, targets), weights.camera),
    }


def depth_term(depth: Tensor, confidence: Tensor, truth: Tensor, valid: Tensor, weight: float = 1.0) -> Term:
    """Equation 7, first part: sum of c |D^ - D| over valid pixels. All [..., H, W]."""
    return _term(confidence * (depth - truth).abs(), valid, weight)


def gradient_term(depth: Tensor, confidence: Tensor, truth: Tensor, valid: Tensor, weight: float = 1.0) -> Term:
    """Equation 7, second part: sum of c |grad D^ - grad D| at one scale.

    The gradient is the forward difference to the right and to the one below, where both pixels are valid, under the
    confidence of the pixel it belongs to (the left or upper one). All [..., H, W].
    """
    error = depth - truth
    right = confidence[..., :, :-1] * (error[..., :, 1:] - error[..., :, :-1]).abs()
    below = confidence[..., :-1, :] * (error[..., 1:, :] - error[..., :-1, :]).abs()
    both_right, both_below = valid[..., :, 1:] & valid[..., :, :-1], valid[..., 1:, :] & valid[..., :-1, :]
    across, down = _term(right, both_right, weight), _term(below, both_below, weight)
    return Term(across.sum + down.sum, across.count + down.count, weight)


def confidence_term(confidence: Tensor, valid: Tensor, weight: float = 1.0) -> Term:
    """Equation 7, third part without its alpha, which is the weight: sum of -log c over valid pixels."""
    return _term(-confidence.log(), valid, weight)


def l1_term(prediction: Tensor, truth: Tensor, supervised: Tensor, weight: float = 1.0) -> Term:
    """Equation 8: sum of absolute differences where ``supervised``. All of one shape."""
    return _term((prediction - truth).abs(), supervised, weight)


def ray_mask(rays: Tensor, targets: Targets) -> Tensor:
    """Which numbers of ray maps [B, T, h, w, 6] are known: directions always, origins where the scale is.

    Rays belong to the camera: they are known at every pixel, sky and holes in the depth included.
    """
    return _known(rays, targets, slice(0, 3))


def pose_mask(poses: Tensor, targets: Targets) -> Tensor:
    """Which numbers of poses [B, T, 9] are known: rotation and field of view always, translation with the scale."""
    return _known(poses, targets, slice(4, 7))


def _known(values: Tensor, targets: Targets, need_scale: slice) -> Tensor:
    each = (-1, *[1] * (values.ndim - 1))
    known = targets.posed.view(each).expand_as(values).clone()
    known[..., need_scale] = targets.scaled.view(each)
    return known


def _term(errors: Tensor, supervised: Tensor, weight: float) -> Term:
    # A masked sum and not a selection: without any supervised number it is 0 and still in the graph on every rank.
    return Term(torch.where(supervised, errors, 0).sum(), supervised.sum(), weight)
