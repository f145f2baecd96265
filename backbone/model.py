"""The backbone: frames in, features out, the same for a photograph, a clip and a stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .blocks import Block
from .config import BackboneConfig
from .noise import BackboneNoise
from .rope import rotation
from .stream import Stream, StreamCache


@dataclass(frozen=True)
class Features:
    """What a backbone says of B clips of T frames with h x w patches each, D channels.

    ``patches`` [B, T, h, w, D], ``cls`` [B, T, D], ``camera`` [B, T, D] (None without a camera token) and
    ``registers`` [B, T, R, D] are the last block's tokens after the final LayerNorm. ``layers`` maps each asked-for
    block, counted from 0, to its patches [B, T, h, w, D] as they leave the block, not normalised.
    """

    patches: Tensor
    cls: Tensor
    camera: Tensor | None
    registers: Tensor
    layers: dict[int, Tensor]


class Embedding(nn.Module):
    """Frames to tokens. A frame is CLS, the camera token if any, registers, then patches row by row.

    The camera token and the registers have two versions in a causal backbone, for the stream's first frame and for
    every later one, so that the first frame can define a coordinate system.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.patch = nn.Conv2d(3, width, kernel_size=config.patch_size, stride=config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(width))
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.register_tokens = nn.Parameter(torch.zeros(config.slots, config.registers, width))
        self.camera_token = nn.Parameter(torch.zeros(config.slots, width)) if config.camera_token else None

    def forward(self, frames: Tensor, first: Sequence[int], mask: Tensor | None) -> Tensor:
        """``frames`` [B, T, 3, H, W] -> [B, T * tokens, D] float32.

        ``first``: which frame of its stream a row's first frame is, one number a row or one for all.
        """
        batch, length = frames.shape[:2]
        patches = self.patch(frames.flatten(0, 1).to(self.patch.weight.dtype)).flatten(2).transpose(1, 2)
        patches = patches.unflatten(0, (batch, length))
        if mask is not None:
            patches = torch.where(mask.flatten(2)[..., None], self.mask_token.to(patches.dtype), patches)
        prefix = [self.cls_token.expand(len(first), length, 1, -1)]
        if self.camera_token is not None:
            prefix.append(_by_position(self.camera_token[:, None], first, length))
        prefix.append(_by_position(self.register_tokens, first, length))
        tokens = torch.cat(prefix, dim=2).expand(batch, -1, -1, -1)
        # Under autocast patches are half precision; the residual stream must not be.
        return torch.cat((tokens, patches.to(tokens.dtype)), dim=2).flatten(1, 2)


def _by_position(slots: Tensor, first: Sequence[int], length: int) -> Tensor:
    """[rows, length, n, D] of [slots, n, D]: the first slot for a stream's frame 0, the last for every other frame."""
    rows = []
    for frame in first:
        opening = int(frame == 0)
        rows.append(torch.cat((slots[:1].expand(opening, -1, -1), slots[-1:].expand(length - opening, -1, -1))))
    return torch.stack(rows)


class Backbone(nn.Module):
    """A vision transformer over tokens that know where they are (OmniStream section 3.2).

    Weights begin truncated normal, of deviation 0.64 / sqrt(inputs): DINOv3's 0.02 at the width of a ViT-L, and at any
    other width the same spread of outputs, so that a small backbone's attention is not uniform at the start. Biases
    and the mask token begin at 0, layer scales as the config says. Training and evaluation mode are the same: noise
    comes in as an argument.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self._initialise()

    def forward(
        self,
        frames: Tensor,
        *,
        times: Tensor | None = None,
        mask: Tensor | None = None,
        layers: Sequence[int] = (),
        noise: BackboneNoise | None = None,
    ) -> Features:
        """Features of clips, each a stream from its first frame.

        ``frames``: [B, T, 3, H, W] float, as :func:`~interlace.backbone.normalise` makes them. ``times``: [B, T] in
        frames, any real numbers, 0 ... T-1 if None. ``mask``: [B, T, h, w] bool, patches shown as the mask token.
        ``layers``: blocks whose patches are wanted too. ``noise``: training noise of the B samples.

        Raises ValueError for a shape or dtype that does not fit.
        """
        grid = self._check(frames, times, layers)
        if mask is not None and (mask.dtype != torch.bool or mask.shape != (*frames.shape[:2], *grid)):
            raise ValueError(f"mask: expected bool {[*frames.shape[:2], *grid]}, found {mask.dtype} {list(mask.shape)}")
        if noise is not None and noise.keep.shape != (len(frames), self.config.depth, 2):
            raise ValueError(
                f"noise: expected keep {[len(frames), self.config.depth, 2]}, found {list(noise.keep.shape)}"
            )
        if times is None:
            times = torch.arange(frames.shape[1], device=frames.device)[None]
        x = self.embedding(frames, (0,), mask)
        cos, sin = rotation(self.config, times, *grid, None if noise is None else noise.rope_scale)
        tokens = self.config.prefix_tokens + grid[0] * grid[1]
        kept: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks):
            branches = None if noise is None else noise.keep[:, index].to(x.dtype) / (1 - self.config.drop_path)
            if self.config.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, cos, sin, tokens, branches, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, cos, sin, tokens, branches)
            if index in layers:
                kept[index] = x
        return self._features(x, kept, frames.shape[1], grid)

    def stream(
        self,
        batch: int,
        height: int,
        width: int,
        *,
        max_frames: int | None = None,
        window: int | None = None,
        sink: int = 0,
        dtype: torch.dtype | None = None,
    ) -> Stream:
        """Features frame by frame, in any chunking, as the whole causal clip would give them.

        ``batch`` streams run side by side, and each may start, pause and end by itself (``rows=`` and ``reset``).
        Give ``max_frames``, the frames that a stream may ever see, or ``window``: then frame t sees the last
        ``window`` frames, itself included, and the stream's first ``sink`` frames, all at their true times, and the
        stream may go on for ever. The memory of keys and values is taken here, once, and given back at the end of a
        ``with`` block or by ``close()``. ``dtype`` is theirs: bfloat16 on CUDA, otherwise that of the weights;
        torch.int8 keeps 8-bit numbers with a factor for each token and head. No gradients.

        Raises ValueError for a bidirectional backbone or arguments that do not fit.
        """
        if self.config.attention != "causal":
            raise ValueError('stream: a backbone with attention = "bidirectional" cannot stream; it sees the future')
        grid = self.config.grid(height, width)
        weight = self.norm.weight
        computed_in = torch.bfloat16 if weight.device.type == "cuda" else weight.dtype
        cache = StreamCache(
            self.config,
            batch=batch,
            tokens=self.config.prefix_tokens + grid[0] * grid[1],
            max_frames=max_frames,
            window=window,
            sink=sink,
            dtype=dtype or computed_in,
            computed_in=computed_in,
            device=weight.device,
        )
        return Stream(self, cache, height, width)

    def _step(
        self, frames: Tensor, times: Tensor | None, layers: Sequence[int], cache: StreamCache, rows: Sequence[int]
    ) -> Features:
        """One chunk of the streams in these rows of the cache."""
        grid = self._check(frames, times, layers)
        length = frames.shape[1]
        first = tuple(cache.seen[row] for row in rows)
        if len(set(first)) == 1:
            first = first[:1]
        if times is None:
            times = torch.tensor(first, device=frames.device)[:, None] + torch.arange(length, device=frames.device)
        cache.place(rows, length)
        x = self.embedding(frames, first, None)
        cos, sin = rotation(self.config, times, *grid)
        kept: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks):
            x = block(x, cos, sin, cache.tokens, None, cache.layer(index))
            if index in layers:
                kept[index] = x
        return self._features(x, kept, frames.shape[1], grid)

    def _features(self, x: Tensor, kept: dict[int, Tensor], length: int, grid: tuple[int, int]) -> Features:
        prefix = self.config.prefix_tokens
        x = self.norm(x).unflatten(1, (length, -1))
        return Features(
            patches=x[:, :, prefix:].unflatten(2, grid),
            cls=x[:, :, 0],
            camera=x[:, :, 1] if self.config.camera_token else None,
            registers=x[:, :, prefix - self.config.registers : prefix],
            layers={
                index: raw.unflatten(1, (length, -1))[:, :, prefix:].unflatten(2, grid) for index, raw in kept.items()
            },
        )

    def _check(self, frames: Tensor, times: Tensor | None, layers: Sequence[int]) -> tuple[int, int]:
        if frames.ndim != 5 or frames.shape[2] != 3 or not frames.is_floating_point() or 0 in frames.shape:
            raise ValueError(
                f"frames: expected float [B, T, 3, H, W], found {frames.dtype} {list(frames.shape)}; "
                "uint8 frames go through interlace.backbone.normalise first"
            )
        if times is not None and times.shape != frames.shape[:2]:
            raise ValueError(f"times: expected [B, T] = {list(frames.shape[:2])}, found {list(times.shape)}")
        for index in layers:
            if not 0 <= index < self.config.depth:
                raise ValueError(f"layers: block {index} does not exist; blocks are 0 to {self.config.depth - 1}")
        return self.config.grid(frames.shape[3], frames.shape[4])

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=0.64 / math.sqrt(module.weight[0].numel()))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        embedding = self.embedding
        for token in (embedding.cls_token, embedding.register_tokens, embedding.camera_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)
