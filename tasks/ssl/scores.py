"""Prototype scores that are never held whole, and what losses need of them.

With the paper's heads, thousands of masked patches times 65,536 prototypes are gigabytes in fp32, and a loss needs
several copies. What is held instead are the two factors: a vector of each row and one of each prototype. Their product
is made in blocks of rows, as often as it is needed, and each block is dropped before the next is made.

Blocks are made of tensors that a head's one call has returned: how many a rank makes is nobody else's business, so
ranks with different numbers of rows still run the same modules and the same collectives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..collectives import sum_over_ranks

#: Elements of a block: 64 MiB in fp32. About five tensors of that size are alive at once.
BLOCK_ELEMENTS = 2**24


@dataclass(frozen=True)
class Scores:
    """``rows`` [V, n, D] times ``prototypes`` [K, D] are the scores [V, n, K] of V views of n samples."""

    rows: Tensor
    prototypes: Tensor

    def block(self, part: slice, temperature: float) -> Tensor:
        """[V, samples of ``part``, K] the scores of some samples, divided by ``temperature``."""
        rows = self.rows[:, part]
        with torch.autocast(rows.device.type, enabled=False):
            # One product of two matrices: a batch of views could repeat the prototypes for each.
            return (rows.flatten(0, 1) @ self.prototypes.T).div_(temperature).unflatten(0, rows.shape[:2])


@dataclass(frozen=True)
class Targets:
    """Distributions over prototypes, [V, n, K]: see :func:`sinkhorn`. ``columns`` [K] are the prototypes' factors."""

    scores: Scores
    temperature: float
    columns: Tensor

    def block(self, part: slice) -> Tensor:
        """[V, samples of ``part``, K] the distributions of some samples."""
        q = self.scores.block(part, self.temperature).exp_().mul_(self.columns)
        return q.div_(q.sum(dim=-1, keepdim=True))

    def entropy(self) -> Tensor:
        """[2] the sum over this rank's rows of their entropies in nats, and how many rows those are."""
        views, samples = self.scores.rows.shape[:2]
        total = self.columns.new_zeros(())
        for part in blocks(views, samples, len(self.columns)):
            total += torch.special.entr(self.block(part)).sum()
        return torch.stack([total, total.new_tensor(float(views * samples))])


def blocks(views: int, samples: int, prototypes: int) -> Iterator[slice]:
    """The samples in parts, each with at most :data:`BLOCK_ELEMENTS` scores of its views, or with one sample."""
    size = max(1, BLOCK_ELEMENTS // (views * prototypes))
    return (slice(start, min(start + size, samples)) for start in range(0, samples, size))


@torch.no_grad()
def sinkhorn(scores: Scores, temperature: float, iterations: int = 3) -> Targets:
    """Teacher targets: every row sums to 1, prototypes are used evenly over the global batch.

    DINOv3's centring: ``exp(scores / temperature)``, then ``iterations`` times: every prototype's column is divided by
    its sum over all ranks' rows, every row by its own sum. (Its further divisions by constants cancel.) What that
    leaves is the exponential times a factor for each column and one for each row; only the columns' are kept. No
    gradient. Rows may be absent here or everywhere. ``scores / temperature`` must stay within the exponent range of
    fp32 (about 87): the heads' scores are cosines, far inside it.
    """
    with torch.autocast(scores.rows.device.type, enabled=False):
        columns = _columns(scores, temperature, None)
        for _ in range(iterations - 1):
            columns = _columns(scores, temperature, columns)
    return Targets(scores, temperature, columns)


def _columns(scores: Scores, temperature: float, before: Tensor | None) -> Tensor:
    """[K] what makes the columns' sums 1 once every row was divided by its sum under the factors ``before``."""
    views, samples = scores.rows.shape[:2]
    sums = scores.prototypes.new_zeros(len(scores.prototypes))
    for part in blocks(views, samples, len(sums)):
        q = scores.block(part, temperature).exp_().flatten(0, 1)
        sums += q.sum(dim=0) if before is None else (q @ before).reciprocal_() @ q
    return sum_over_ranks(sums).reciprocal_()


def cross_entropy(student: Scores, targets: Targets, pairs: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """The sum over views s, t and samples i of ``pairs[s, t] * weights[i]`` times the cross-entropy of s against t.

    ``student`` scores [S, n, K], ``targets`` [T, n, K], ``pairs`` [S, T], ``weights`` [n]. The gradient with respect to
    the student's rows and prototypes is made together with the sum, while a block's scores are there.
    """
    with torch.autocast(student.rows.device.type, enabled=False):
        total: Tensor = _CrossEntropy.apply(student.rows, student.prototypes, targets, pairs, weights, temperature)
    return total


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        prototypes: Tensor,
        targets: Targets,
        pairs: Tensor,
        weights: Tensor,
        temperature: float,
    ) -> Tensor:
        student, total = Scores(rows, prototypes), rows.new_zeros(())
        by_rows, by_prototypes = torch.empty_like(rows), torch.zeros_like(prototypes)
        for part in blocks(sum(pairs.shape), rows.shape[1], len(prototypes)):
            wanted = torch.einsum("st,tik->sik", pairs, targets.block(part)).mul_(weights[part, None])
            log_p = F.log_softmax(student.block(part, temperature), dim=-1)
            total -= (wanted * log_p).sum()
            slope = log_p.exp_().mul_(wanted.sum(dim=-1, keepdim=True)).sub_(wanted).div_(temperature)
            by_rows[:, part] = slope @ prototypes
            by_prototypes += slope.flatten(0, 1).T @ rows[:, part].flatten(0, 1)
        ctx.save_for_backward(by_rows, by_prototypes)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        by_rows, by_prototypes = ctx.saved_tensors
        return gradient * by_rows, gradient * by_prototypes, None, None, None, None
