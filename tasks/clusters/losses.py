"""Losses of all samples of a micro-batch against this rank's centres.

Every rank sees the embeddings of all ranks and owns some centres, so a pair (sample, centre) is counted on exactly one
rank, and sums over ranks are sums over all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from ..collectives import world_size


@dataclass(frozen=True)
class Pairs:
    """This rank's pairs of N samples and its centres.

    ``positive`` [P]: similarity of each positive pair, ``owner`` [P] its sample. ``negative`` [N, m]: similarity to
    each sampled centre; ``apart`` [N, m]: whether that centre really is a negative of the sample.
    """

    positive: Tensor
    owner: Tensor
    negative: Tensor
    apart: Tensor


def score(
    embeddings: Tensor, positives: Tensor, bank: Tensor, start: int, negatives: Tensor, *, normalise: bool
) -> Pairs:
    """Cosines, or with ``normalise`` off dot products, of all samples with this rank's positives and negatives.

    ``embeddings`` [N, D]; ``positives`` [N, l] int64, numbers of centres in the whole bank, -1 where a sample has
    fewer; ``bank`` [rows here, D], the first of which is centre ``start``; ``negatives`` [m] int64 ascending, counted
    from ``start``.
    """
    local = positives - start
    owner, at = ((local >= 0) & (local < len(bank))).nonzero(as_tuple=True)  # what is absent, -1, lies before any start
    rows = local[owner, at]
    apart = torch.ones(len(embeddings), len(negatives), dtype=torch.bool, device=embeddings.device)
    if len(negatives):
        place = torch.searchsorted(negatives, rows).clamp(max=len(negatives) - 1)
        drawn = negatives[place] == rows
        apart[owner[drawn], place[drawn]] = False
    # Taken out of the bank once: its gradient is as large as the bank.
    centres = bank[torch.cat((rows, negatives))]
    if normalise:
        embeddings, centres = unit(embeddings), unit(centres)
    return Pairs(
        positive=(embeddings[owner] * centres[: len(rows)]).sum(-1),
        owner=owner,
        negative=embeddings @ centres[len(rows) :].T,
        apart=apart,
    )


def unit(x: Tensor) -> Tensor:
    """Rows of length 1."""
    return normalize(x, dim=-1)


class PairLogit(nn.Module):
    """``scale * similarity + bias``, both learned; the scale as its logarithm, so that it stays positive."""

    def __init__(self, scale: float, bias: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor([scale]).log())
        self.bias = nn.Parameter(torch.tensor([bias]))

    def forward(self, similarity: Tensor) -> Tensor:
        return similarity * self.log_scale.exp() + self.bias


def sigmoid_sums(pairs: Pairs, logit: nn.Module) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """OneVision equation 9, log(1 + exp(-y * logit)): (sum, count) of the positive pairs, and of the negative ones."""
    positive = softplus(-logit(pairs.positive))
    negative = softplus(logit(pairs.negative)) * pairs.apart
    return (positive.sum(), _positives(pairs)), (negative.sum(), pairs.apart.sum())


def cosface_sum(pairs: Pairs, scale: float, margin: float) -> tuple[Tensor, Tensor]:
    """-log(e^p / (e^p + sum over the sample's negatives of e^n)) over positive pairs: (sum, count).

    p = scale * (cosine - margin), n = scale * cosine. A sample without a negative costs 0.
    """
    logits = (pairs.negative * scale).masked_fill(~pairs.apart, float("-inf"))
    negatives = _LogSumExpOverRanks.apply(logits.logsumexp(-1))
    losses = softplus(negatives[pairs.owner] - scale * (pairs.positive - margin))
    return losses.sum(), _positives(pairs)


def _positives(pairs: Pairs) -> Tensor:
    return torch.tensor(len(pairs.owner), device=pairs.owner.device)


class _LogSumExpOverRanks(torch.autograd.Function):
    """log of the sum over ranks of exp(x), x [N] with -inf allowed. The gradient is the sum over ranks of theirs,
    times each rank's share."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        total = x.clone()
        if world_size() > 1:
            dist.all_reduce(total, dist.ReduceOp.MAX)
            largest = total.masked_fill(total == float("-inf"), 0)
            total = (x - largest).exp()
            dist.all_reduce(total)
            total = total.log() + largest
        ctx.save_for_backward(x, total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        x, total = ctx.saved_tensors  # type: ignore[attr-defined]
        gradient = gradients[0].clone()
        if world_size() > 1:
            dist.all_reduce(gradient)
        return gradient * (x - total.masked_fill(total == float("-inf"), 0)).exp()
