"""What the heads say of a clip."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .targets import points_on_rays, resample_rays


@dataclass(frozen=True)
class Prediction:
    """Geometry of B clips of T frames in the first camera's frame, in units of the clip's scale.

    ``depth`` and ``confidence`` [B, T, H, W]: z-depth > 0 and its confidence >= 1. ``rays`` [B, T, h, w, 6]: origin and
    un-normalised direction on a grid over the frame. ``poses`` [B, T, 9]: quaternion xyzw, translation, field of
    view (vertical, horizontal) in radians.
    """

    depth: Tensor
    confidence: Tensor
    rays: Tensor
    poses: Tensor

    def points(self) -> Tensor:
        """[B, T, H, W, 3] = o + D d, with the rays brought to the depth's resolution (OmniStream equation 8)."""
        return points_on_rays(resample_rays(self.rays, self.depth.shape[-2], self.depth.shape[-1]), self.depth)
