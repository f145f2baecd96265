"""Dual DPT: depth and rays from four of the backbone's blocks, a frame at a time (OmniStream section 3.3).

The shapes are those of Depth Anything 3's head, whose ray confidence is left out: equation 8 supervises rays by a plain
L1, so nothing would train it. Resampling keeps pixel centres at +0.5 (``align_corners=False``) throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

#: Channels between the last 3x3 convolution of each output and its 1x1 convolution.
OUTPUT_WIDTH = 32
#: Amplitude of the added positions, and the longest of their wavelengths over the shortest.
POSITION_AMPLITUDE, POSITION_BASE = 0.1, 100.0


class DualDPT(nn.Module):
    """Depth with confidence at full resolution, rays at 8 times the patch grid.

    ``hidden_size`` and ``patch_size`` are the backbone's; ``widths``, ``features`` and ``ray_neck`` as in
    :class:`~.options.GeometryOptions`.
    """

    def __init__(
        self, hidden_size: int, patch_size: int, *, widths: Sequence[int], features: int, ray_neck: int
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.reassemble = Reassemble(hidden_size, widths, features)
        self.depth_chain = FusionChain(features)
        self.ray_chain = FusionChain(features)
        half = features // 2
        self.depth_neck = _conv3(features, half)
        self.depth_output = nn.Sequential(_conv3(half, OUTPUT_WIDTH), nn.ReLU(), nn.Conv2d(OUTPUT_WIDTH, 2, 1))
        # Depth Anything 3 has nothing between these convolutions: together they see 11 x 11 cells.
        self.ray_neck = nn.Sequential(
            *(_conv3(*((features, half) if index % 2 == 0 else (half, features))) for index in range(ray_neck))
        )
        self.ray_output = nn.Sequential(
            _conv3(half, OUTPUT_WIDTH), ChannelNorm(OUTPUT_WIDTH), nn.ReLU(), nn.Conv2d(OUTPUT_WIDTH, 6, 1)
        )

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """``levels``: patches [N, h, w, D] of four blocks, as they leave them, shallowest first, fp32.

        Returns depth [N, H, W] = exp > 0, its confidence [N, H, W] = exp + 1, and rays [N, 8h, 8w, 6] (origin,
        direction); H and W are h and w times the patch size.
        """
        rows, columns = levels[0].shape[1:3]
        pyramid = self.reassemble(levels)
        depth = self.depth_neck(self.depth_chain(pyramid))
        depth = interpolate(depth, (rows * self.patch_size, columns * self.patch_size), mode="bilinear")
        log_depth, log_confidence = self.depth_output(with_positions(depth)).unbind(1)
        rays = self.ray_output(with_positions(self.ray_neck(self.ray_chain(pyramid))))
        return log_depth.exp(), log_confidence.exp() + 1, rays.permute(0, 2, 3, 1)


class Reassemble(nn.Module):
    """Four blocks' patches as a pyramid of 4, 2, 1 and 1/2 times the patch grid, all with ``features`` channels.

    One LayerNorm is shared by the blocks: raw outputs of different depths differ in size.
    """

    def __init__(self, hidden_size: int, widths: Sequence[int], features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.project = nn.ModuleList(nn.Conv2d(hidden_size, width, 1) for width in widths)
        self.resize = nn.ModuleList(
            (
                nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
            )
        )
        self.adapt = nn.ModuleList(nn.Conv2d(width, features, 3, padding=1, bias=False) for width in widths)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Four times [N, h, w, D] -> [N, features, 4h, 4w], [.., 2h, 2w], [.., h, w], [.., ceil(h/2), ceil(w/2)]."""
        pyramid = []
        for level, project, resize, adapt in zip(levels, self.project, self.resize, self.adapt, strict=True):
            patches = self.norm(level).permute(0, 3, 1, 2)
            pyramid.append(adapt(resize(with_positions(project(patches)))))
        return pyramid


class FusionChain(nn.Module):
    """RefineNet's fusion of a pyramid, coarsest level first."""

    def __init__(self, features: int) -> None:
        super().__init__()
        # The coarsest level has nothing to be added to.
        self.fuse = nn.ModuleList(Fusion(features, skip=level < 3) for level in range(4))

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """The pyramid of :class:`Reassemble` -> [N, features, 8h, 8w]."""
        fused: Tensor | None = None
        for level in (3, 2, 1, 0):
            finer = pyramid[level - 1].shape[-2:] if level else [2 * side for side in pyramid[0].shape[-2:]]
            fused = self.fuse[level](fused, pyramid[level], finer)
        assert fused is not None
        return fused


class Fusion(nn.Module):
    """One level of a :class:`FusionChain`: add what comes from below, refine, bring to the next finer size."""

    def __init__(self, features: int, *, skip: bool) -> None:
        super().__init__()
        self.skip = Residual(features) if skip else None
        self.refine = Residual(features)
        self.output = nn.Conv2d(features, features, 1)

    def forward(self, coarser: Tensor | None, level: Tensor, size: Sequence[int]) -> Tensor:
        """``level`` [N, features, h, w], ``coarser`` of the same shape or None -> [N, features, *size]."""
        x = level if coarser is None or self.skip is None else coarser + self.skip(level)
        # A 1x1 convolution and interpolation commute; this order computes it on fewer cells.
        return interpolate(self.output(self.refine(x)), tuple(size), mode="bilinear")


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))) with 3x3 convolutions."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = _conv3(features, features)
        self.second = _conv3(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """[N, features, h, w] -> the same shape."""
        return x + self.second(self.first(x.relu()).relu())


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [N, C, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def with_positions(x: Tensor) -> Tensor:
    """[N, C, h, w] with 0.1 times sines and cosines of each cell's place added; C is a multiple of 4.

    A place is (u, v) relative to the middle of the map, in units of half its diagonal.
    """
    channels, rows, columns = x.shape[1:]
    diagonal = (rows**2 + columns**2) ** 0.5
    v, u = (
        (2 * torch.arange(side, dtype=torch.float32, device=x.device) + 1 - side) / diagonal for side in (rows, columns)
    )
    steps = torch.arange(channels // 4, dtype=torch.float32, device=x.device) / (channels // 4)
    frequencies = POSITION_BASE**-steps
    across, down = u[:, None] * frequencies, v[:, None] * frequencies
    waves = torch.cat(
        (
            torch.cat((across.sin(), across.cos()), -1)[None].expand(rows, -1, -1),
            torch.cat((down.sin(), down.cos()), -1)[:, None].expand(-1, columns, -1),
        ),
        dim=-1,
    )
    return x + POSITION_AMPLITUDE * waves.permute(2, 0, 1).to(x.dtype)


def _conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)
