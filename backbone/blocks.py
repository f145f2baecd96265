"""One transformer block: pre-norm attention and MLP, each behind a learned scale."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import attend
from .config import BackboneConfig
from .rope import rotate


class KeyValueStore(Protocol):
    """Where a stream keeps one layer's keys and values."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor: ...


class LayerScale(nn.Module):
    """Adds a branch to the residual stream, each channel times a learned factor."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((config.hidden_size,), float(config.layer_scale)))

    def forward(self, x: Tensor, change: Tensor, branch: Tensor | None) -> Tensor:
        """``x`` and ``change``: [B, N, D]; ``branch``: [B] factors of the samples (drop path), or None for 1."""
        factor = self.factor if branch is None else self.factor * branch[:, None, None]
        return torch.addcmul(x, change, factor)


class SelfAttention(nn.Module):
    """Multi-head attention over the tokens of a clip, or of a chunk of a stream and what the stream has kept."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        width, bias = config.hidden_size, config.query_value_bias
        self.heads = config.heads
        self.causal = config.attention == "causal"
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=bias)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, tokens: int, store: KeyValueStore | None = None) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if store is None:
            mixed = attend(query, key, value, tokens, causal=self.causal)
        else:
            mixed = store.attend(query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers around GELU, or SwiGLU."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden_size, config.mlp_size) if config.gated_mlp else None
        self.up = nn.Linear(config.hidden_size, config.mlp_size)
        self.down = nn.Linear(config.mlp_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.up(x)) if self.gate is None else F.silu(self.gate(x)) * self.up(x)
        return self.down(hidden)


class Block(nn.Module):
    """``x + scale1(attention(norm1(x)))``, then ``x + scale2(mlp(norm2(x)))``."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SelfAttention(config)
        self.scale1 = LayerScale(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = Mlp(config)
        self.scale2 = LayerScale(config)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        tokens: int,
        branches: Tensor | None = None,
        store: KeyValueStore | None = None,
    ) -> Tensor:
        """``x``: [B, T * tokens, D]; ``cos``, ``sin``: see :func:`~interlace.backbone.rope.rotation`.

        ``branches``: [B, 2] factors of the two branches (drop path), or None for 1.
        """
        first, second = (None, None) if branches is None else branches.unbind(1)
        x = self.scale1(x, self.attention(self.norm1(x), cos, sin, tokens, store), first)
        return self.scale2(x, self.mlp(self.norm2(x)), second)
