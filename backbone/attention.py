"""Which kernel computes attention, and how frame-causal attention needs no mask.

A dense mask of a 16-frame clip at 512 pixels is 271 MB and rules FlashAttention out. None is ever built here: the
queries of frame t meet the keys of frames <= t, a prefix, which is plain attention of two lengths.

All kernels take query, key and value [B, heads, T * tokens, head_dim], frames one after the other, and return the
same shape; scores are divided by sqrt(head_dim).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Kernel = Callable[[Tensor, Tensor, Tensor, int], Tensor]

_BLOCK = 128  # FlexAttention's block size
#: Kernels that FlexAttention may be compiled to. A dtype with or without gradients takes about five before batch and
#: length are symbols; torch's own limit of eight would end a run of several tasks with a teacher and evaluations.
_KERNELS = 64


def attend(query: Tensor, key: Tensor, value: Tensor, tokens: int, *, causal: bool) -> Tensor:
    """Attention over a clip of frames of ``tokens`` tokens: frame-causal or full."""
    if not causal or query.shape[2] == tokens:
        return F.scaled_dot_product_attention(query, key, value)
    return causal_kernel(query.device, query.dtype)(query, key, value, tokens)


def causal_kernel(device: torch.device, dtype: torch.dtype) -> Kernel:
    """The kernel of frame-causal attention for tensors of this kind."""
    if device.type != "cuda":
        return frame_sdpa
    if dtype in (torch.float16, torch.bfloat16) and _flash_attention_installed():
        return frame_flash
    return frame_flex


def frame_sdpa(query: Tensor, key: Tensor, value: Tensor, tokens: int) -> Tensor:
    """Frame-causal attention as one unmasked call a frame, over growing prefixes of keys and values."""
    outputs = []
    # Last frame first, each prefix a slice of the one before: backward then fills gradients of a prefix's size, not
    # of the whole clip's, once a frame.
    for part in reversed(query.split(tokens, dim=2)):
        outputs.append(F.scaled_dot_product_attention(part, key, value))
        key, value = key[:, :, :-tokens], value[:, :, :-tokens]
    return torch.cat(outputs[::-1], dim=2)


def frame_flash(query: Tensor, key: Tensor, value: Tensor, tokens: int) -> Tensor:
    """The same calls through the flash-attn package. CUDA and half precision only."""
    # By name: in exported code transformers would demand every package that an import statement names.
    flash_attn_func = importlib.import_module("flash_attn").flash_attn_func
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    outputs = []
    for part in reversed(query.split(tokens, dim=1)):
        outputs.append(flash_attn_func(part, key, value))
        key, value = key[:, :-tokens], value[:, :-tokens]
    return torch.cat(outputs[::-1], dim=1).transpose(1, 2)


def frame_flex(query: Tensor, key: Tensor, value: Tensor, tokens: int) -> Tensor:
    """Frame-causal attention as one compiled FlexAttention kernel over a block mask."""
    from torch._dynamo import config

    mask = frame_block_mask(query.shape[2], tokens, query.device)
    with config.patch(recompile_limit=_KERNELS):
        return _compiled_flex_attention()(query, key, value, block_mask=mask)


@functools.lru_cache(maxsize=32)
def frame_block_mask(length: int, tokens: int, device: torch.device) -> BlockMask:
    """The :class:`BlockMask` of frame-causal attention over ``length`` tokens, ``tokens`` to a frame.

    Built from block indices: ``create_block_mask`` would make the dense mask first.
    """
    from torch.nn.attention.flex_attention import BlockMask

    count = -(-length // _BLOCK)
    start = torch.arange(count, device=device) * _BLOCK
    first, last = start // tokens, (start + _BLOCK - 1).clamp(max=length - 1) // tokens
    whole = start + _BLOCK <= length
    seen = first[None, :] <= last[:, None]
    full = (last[None, :] <= first[:, None]) & whole[:, None] & whole[None, :]

    def frame_causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return query // tokens >= key // tokens

    def ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
        indices = torch.argsort(blocks.int(), dim=-1, descending=True, stable=True)
        return blocks.sum(-1).int()[None, None], indices.int()[None, None]

    return BlockMask.from_kv_blocks(
        *ordered(seen & ~full), *ordered(full), BLOCK_SIZE=_BLOCK, mask_mod=frame_causal, seq_lengths=(length, length)
    )


@functools.lru_cache(maxsize=1)
def _compiled_flex_attention() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    # fullgraph: past the recompile limit torch must raise; eager FlexAttention would make the dense score matrix.
    return torch.compile(flex_attention, fullgraph=True)


@functools.lru_cache(maxsize=1)
def _flash_attention_installed() -> bool:
    return importlib.util.find_spec("flash_attn") is not None
