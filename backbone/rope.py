"""Where a token is: rotary position angles over (time, row, column).

Half of a head's dimensions, ``half = head_dim / 2``, index angles; dimension i is rotated together with dimension
``i + half``. The first half of those indices turn with the row and the others with the column, each with the periods
``base ** (4 i / head_dim)`` over patch centres mapped to [-1, 1]: this is DINOv3's layout, "image". In "rotary" the
indices i = 3 mod 4 turn with time instead (OmniStream section 3.2, a 2:3:3 split of t:y:x), the j-th of them with
DINOv3's j-th period over frame / 16. Both rotate, so norms stay and dot products depend on offsets only. Prefix
tokens (CLS, camera, registers) have no place in a frame and are never rotated, in time neither: so they are in
DINOv3 and in OmniStream's release. What a patch sees of them therefore depends on the patch's own row, column and
time, from which the model knows where and when it is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .config import BackboneConfig

#: Frames in one unit of the time coordinate. A constant, never a clip's length: a stream has no known end.
FRAMES_PER_UNIT = 16.0


def inverse_periods(config: BackboneConfig, device: torch.device | None = None) -> Tensor:
    """[head_dim / 4] float32: ``base ** (-4 i / head_dim)``, rounded as DINOv3 rounds it."""
    exponents = torch.arange(0, 1, 4 / config.head_dim, dtype=torch.float32, device=device)
    return 1 / config.rope_base**exponents


def patch_centres(rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """[rows * columns, 2] float32: (y, x) of the patch centres, each axis mapped to [-1, 1]."""
    y = torch.arange(0.5, rows, dtype=torch.float32, device=device) / rows
    x = torch.arange(0.5, columns, dtype=torch.float32, device=device) / columns
    return 2.0 * torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1) - 1.0


def rotation(
    config: BackboneConfig, times: Tensor, rows: int, columns: int, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every token's angles.

    ``times``: [B or 1, T] in frames, any real numbers; angles of time are computed in float64, so that a clip at frame
    1,000,000 equals a clip at frame 0. ``scale``: [B, 2] factors (time, space) of training's jitter, or None.
    Returns two float32 tensors [B or 1, 1, T * tokens, head_dim] that broadcast over heads: each half of a head's
    dimensions has the same angles, and the sines of the first half are negative, as :func:`rotate` wants them.
    """
    with torch.autocast(times.device.type, enabled=False):
        inverse = inverse_periods(config, times.device)
        centres = patch_centres(rows, columns, times.device)[None]  # [1, hw, 2]
        if scale is not None:
            centres = centres * scale[:, 1].float()[:, None, None]
        angles = (2 * math.pi * centres[..., None] * inverse).flatten(2)[:, None]  # [B or 1, 1, hw, half]
        batch = max(angles.shape[0], times.shape[0])
        shape = (batch, times.shape[1], rows * columns, config.head_dim // 2)
        cos, sin = angles.cos().expand(shape), angles.sin().expand(shape)
        if config.rope == "rotary":
            turns = _turns(config, times, scale)
            cos, sin = _with_time(cos, turns.cos()), _with_time(sin, turns.sin())
        cos, sin = _behind_prefix(cos, config, 1.0), _behind_prefix(sin, config, 0.0)
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``x`` [B, heads, N, head_dim] as :func:`rotation` says; computed in at least float32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    halves_swapped = wide.roll(wide.shape[-1] // 2, dims=-1)
    return torch.addcmul(wide * cos, halves_swapped, sin).to(x.dtype)


def _turns(config: BackboneConfig, times: Tensor, scale: Tensor | None) -> Tensor:
    """[B or 1, T, 1, head_dim / 8] float64 angles of time."""
    units = times.double() / FRAMES_PER_UNIT
    if scale is not None:
        units = units * scale[:, :1].double()
    exponents = torch.arange(config.head_dim // 8, dtype=torch.float64, device=times.device) * 4 / config.head_dim
    return 2 * math.pi * units[:, :, None, None] / config.rope_base**exponents


def _with_time(space: Tensor, time: Tensor) -> Tensor:
    """A copy of ``space`` [B, T, hw, half] whose indices 3 mod 4 are ``time`` [B or 1, T, 1, half / 4]."""
    table = space.clone(memory_format=torch.contiguous_format)
    table[..., 3::4] = time.to(table.dtype)
    return table


def _behind_prefix(table: Tensor, config: BackboneConfig, identity: float) -> Tensor:
    """[B, 1, T * tokens, half]: each frame's patches after prefix tokens that do not turn."""
    batch, frames, _, half = table.shape
    prefix = table.new_full((batch, frames, config.prefix_tokens, half), identity)
    return torch.cat((prefix, table), dim=2).flatten(1, 2)[:, None]
