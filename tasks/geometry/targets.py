"""Ground truth of a clip: rays, points, scale and camera poses. Plain functions of tensors of any floating dtype.

Conventions are those of :mod:`interlace.data_recipes.sample`: z-depth, pixel centres at +0.5, camera-to-world in OpenCV
axes. A ray is (origin o, direction d) with d = R K^-1 [u, v, 1] *not* normalised, so that o + D d is the
back-projection of a pixel of z-depth D (OmniStream equation 8).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """Normalised ground truth of B clips of T frames, in the first camera's frame, in units of the clip's scale.

    ``depth`` [B, T, H, W], 0 where there is none; ``intrinsics`` [B, T, 3, 3] in pixels of H x W; ``camera``
    [B, T, 4, 4] camera-to-world, the first one the identity; ``scaled`` [B] bool: false for a clip without any valid
    depth, whose scale is unknown: its units are the source's and its translations and ray origins mean nothing;
    ``posed`` [B] bool: false for the stand-in clip of a rank without samples, of which nothing is known.
    """

    depth: Tensor
    intrinsics: Tensor
    camera: Tensor
    scaled: Tensor
    posed: Tensor

    @property
    def valid(self) -> Tensor:
        """[B, T, H, W] bool, where depth is supervised."""
        return self.depth > 0

    def rays(self, height: int, width: int) -> Tensor:
        """[B, T, height, width, 6] of a grid over the whole frame, which may be coarser or finer than its pixels."""
        return pixel_rays(self.intrinsics, self.camera, (self.depth.shape[-2], self.depth.shape[-1]), (height, width))

    def points(self) -> Tensor:
        """[B, T, H, W, 3]; the camera's centre where there is no depth."""
        return points_on_rays(self.rays(self.depth.shape[-2], self.depth.shape[-1]), self.depth)

    def poses(self) -> Tensor:
        """[B, T, 9]: quaternion xyzw, translation, field of view, in the order of OmniStream section 3.3."""
        fov = field_of_view(self.intrinsics, (self.depth.shape[-2], self.depth.shape[-1]))
        return torch.cat((quaternions(self.camera[..., :3, :3]), self.camera[..., :3, 3], fov), dim=-1)


def pixel_rays(
    intrinsics: Tensor, camera: Tensor, frame: tuple[int, int], grid: tuple[int, int] | None = None
) -> Tensor:
    """Rays [..., h, w, 6] = (origin, direction) through the cell centres of a grid (h, w) laid over a frame (H, W).

    ``intrinsics`` [..., 3, 3] are in the frame's pixels, ``camera`` [..., 4, 4] is camera-to-world. ``grid`` defaults
    to one cell a pixel.
    """
    (height, width), (rows, columns) = frame, grid or frame
    v = (torch.arange(rows, dtype=intrinsics.dtype, device=intrinsics.device) + 0.5) * (height / rows)
    u = (torch.arange(columns, dtype=intrinsics.dtype, device=intrinsics.device) + 0.5) * (width / columns)
    pixels = torch.stack((u.expand(rows, -1), v[:, None].expand(-1, columns), torch.ones_like(u).expand(rows, -1)), -1)
    to_world = camera[..., :3, :3] @ torch.linalg.inv(intrinsics)
    directions = torch.einsum("...ij,hwj->...hwi", to_world, pixels)
    origins = camera[..., None, None, :3, 3].expand_as(directions)
    return torch.cat((origins, directions), dim=-1)


def points_on_rays(rays: Tensor, depth: Tensor) -> Tensor:
    """Points [..., 3] = o + D d of rays [..., 6] and z-depth [...]."""
    return rays[..., :3] + depth[..., None] * rays[..., 3:]


def resample_rays(rays: Tensor, height: int, width: int) -> Tensor:
    """A ray map [..., h, w, 6] on a grid of another size [..., height, width, 6] over the same frame.

    Linear in both directions, and beyond the outermost cell centres too, so that the rays of any camera, which are
    affine in the pixel, come out exact to the border.
    """
    rows, columns = rays.shape[-3:-1]
    if rows != height:
        rays = torch.einsum("yh,...hwc->...ywc", linear_weights(rows, height, rays), rays)
    if columns != width:
        rays = torch.einsum("xw,...ywc->...yxc", linear_weights(columns, width, rays), rays)
    return rays


def linear_weights(old: int, new: int, like: Tensor) -> Tensor:
    """[new, old] matrix that resamples ``old`` cells of an interval to ``new``, linearly, beyond the ends too."""
    if old == 1:
        return torch.ones(new, 1, dtype=like.dtype, device=like.device)
    position = (torch.arange(new, dtype=like.dtype, device=like.device) + 0.5) * (old / new) - 0.5
    left = position.floor().clamp(0, old - 2)
    share = (position - left)[:, None]
    left = left.long()[:, None]
    weights = torch.zeros(new, old, dtype=like.dtype, device=like.device)
    return weights.scatter(1, left, 1 - share).scatter(1, left + 1, share)


def clip_scale(depth: Tensor, intrinsics: Tensor, camera: Tensor) -> Tensor:
    """Mean distance of all valid points of a clip from its first camera, a scalar; NaN without a valid point.

    ``depth`` [T, H, W] with 0 = invalid, ``intrinsics`` [T, 3, 3], ``camera`` [T, 4, 4] camera-to-world in any frame.
    """
    rays = pixel_rays(intrinsics, camera, (depth.shape[-2], depth.shape[-1]))
    points = points_on_rays(rays, depth) - camera[0, :3, 3]
    return points.norm(dim=-1)[depth > 0].mean()


def relative_to_first(camera: Tensor) -> Tensor:
    """Camera-to-world [T, 4, 4] with the first camera's frame as the world."""
    return torch.linalg.inv(camera[0]) @ camera


def field_of_view(intrinsics: Tensor, frame: tuple[int, int]) -> Tensor:
    """[..., 2] radians (vertical, horizontal) of a frame (H, W), as if its principal point were in the middle."""
    height, width = frame
    return torch.stack(
        (2 * torch.atan(height / 2 / intrinsics[..., 1, 1]), 2 * torch.atan(width / 2 / intrinsics[..., 0, 0])), dim=-1
    )


def quaternions(rotations: Tensor) -> Tensor:
    """Unit quaternions [..., 4] xyzw with w >= 0 of rotation matrices [..., 3, 3].

    Of the four ways to read one off a matrix, the one whose divisor is largest, so that half turns are exact too.
    """
    a, b, c, d, e, f, g, h, i = rotations.flatten(-2).unbind(-1)
    ways = torch.stack(
        (
            torch.stack((1 + a - e - i, b + d, c + g, h - f), dim=-1),
            torch.stack((b + d, 1 - a + e - i, f + h, c - g), dim=-1),
            torch.stack((c + g, f + h, 1 - a - e + i, d - b), dim=-1),
            torch.stack((h - f, c - g, d - b, 1 + a + e + i), dim=-1),
        ),
        dim=-2,
    )
    best = ways.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*ways.shape[:-2], 1, 4)
    chosen = torch.nn.functional.normalize(ways.gather(-2, best)[..., 0, :], dim=-1)
    return torch.where(chosen[..., 3:] < 0, -chosen, chosen)


def rotation_matrices(quaternion: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4] xyzw of any length but zero."""
    x, y, z, w = torch.nn.functional.normalize(quaternion, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
