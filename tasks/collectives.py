"""Collectives that losses need to see the whole micro-batch, whatever the number of ranks.

The gradient convention: the objective is the *sum* over ranks of what each rank computes, so a collective's backward
sums the incoming gradients of all ranks. Without a process group everything here is the one-rank case.

Every rank must call the same collectives in the same order, forward and backward: a rank without rows passes a tensor
of zero rows, and either all ranks or none use the result in their loss.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many ranks share the micro-batch; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """``x`` (any shape, the same on all ranks) summed over ranks. A new tensor without gradient."""
    total = x.detach().clone(memory_format=torch.contiguous_format)
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def gather_rows(x: Tensor) -> tuple[Tensor, int]:
    """The rows of all ranks in rank order, and where this rank's begin.

    ``x`` is [n, ...] with ``n`` free to differ between ranks (zero included); the other sizes, the dtype and
    ``requires_grad`` must be the same on all ranks. Returns ([sum of n, ...], offset): row ``offset + i`` of the result
    is row ``i`` of ``x``. The gradient of ``x`` is the sum over all ranks of their gradients of its rows.
    """
    if world_size() == 1:
        return x, 0
    counts = torch.zeros(world_size(), dtype=torch.int64, device=x.device)
    counts[dist.get_rank()] = len(x)
    dist.all_reduce(counts)
    rows = counts.tolist()
    return _GatherRows.apply(x, rows), sum(rows[: dist.get_rank()])


class _GatherRows(torch.autograd.Function):
    """Pads to the largest count, since gloo gathers equal shapes only."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, rows: list[int]) -> Tensor:
        rank = dist.get_rank()
        ctx.start, ctx.count = sum(rows[:rank]), rows[rank]  # type: ignore[attr-defined]
        padded = x.new_zeros((max(rows), *x.shape[1:]))
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in rows]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.narrow(0, ctx.start, ctx.count), None  # type: ignore[attr-defined]
