"""Losses on scores that are made block by block equal those on whole scores, and hold no more than a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import tiny_ssl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from interlace.tasks.ssl import losses, scores
from interlace.tasks.ssl.heads import DinoHead
from interlace.tasks.ssl.scores import Scores, sinkhorn

WIDTH, STUDENT, TEACHER = 16, 0.1, 0.05
#: dtype: what "equal" means, relative to the largest number.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-6}


def unit(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def whole_sinkhorn(logits: Tensor, iterations: int = 3) -> Tensor:
    """DINOv3's centring of all rows at once."""
    q = torch.exp(logits.flatten(0, 1) / TEACHER)
    for _ in range(iterations):
        q = q / q.sum(dim=0)
        q = q / q.sum(dim=1, keepdim=True)
    return q.view_as(logits)


def whole_loss(rows: Tensor, prototypes: Tensor, taught: Tensor, theirs: Tensor, weights: Tensor | None) -> Tensor:
    """Equations 11 (``weights`` None) and 12 on the whole matrices of scores and targets."""
    log_p = F.log_softmax(rows @ prototypes.T / STUDENT, dim=-1)
    targets = whole_sinkhorn(taught @ theirs.T)
    if weights is not None:
        return -((targets * log_p).sum(dim=-1) * weights).sum()
    pairs = -torch.einsum("sik,tik->st", log_p, targets)
    return pairs.sum() - pairs.diagonal().sum()


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("block", [1, 500, 2**24], ids=["sample by sample", "uneven blocks", "one block"])
@pytest.mark.parametrize("loss", ["dino", "ibot"])
def test_blocks_change_neither_value_nor_gradient(
    loss: str, block: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "BLOCK_ELEMENTS", block)
    crops, others, samples, prototypes = (2, 5, 23, 40) if loss == "dino" else (1, 1, 101, 40)
    weights = None if loss == "dino" else torch.linspace(0.1, 1, samples, dtype=torch.float64)
    factors = [
        unit(others, samples, WIDTH, seed=0),
        unit(prototypes, WIDTH, seed=1),
        unit(crops, samples, WIDTH, seed=2),
        unit(prototypes, WIDTH, seed=3),
    ]
    trained = [factor.clone().requires_grad_() for factor in factors[:2]]
    expected = whole_loss(*trained, *factors[2:], weights)
    expected_gradients = torch.autograd.grad(expected, trained)

    ours = [factor.to(dtype).requires_grad_(index < 2) for index, factor in enumerate(factors)]
    targets = sinkhorn(Scores(*ours[2:]), TEACHER)
    if weights is None:
        term = losses.dino(Scores(*ours[:2]), targets, STUDENT)
    else:
        term = losses.ibot(Scores(*ours[:2]), targets, weights.to(dtype), 7, STUDENT)
    # twice the sum: what comes from behind must reach the gradients
    found = torch.autograd.grad(2 * term.sum, ours[:2])
    for mine, other in zip([term.sum, *found], [expected, *(2 * g for g in expected_gradients)], strict=True):
        assert mine.dtype == dtype
        assert other.abs().max() > 0
        assert (mine.double() - other).abs().max() <= TOLERANCES[dtype] * other.abs().max()


def test_entropy_is_that_of_the_whole_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "BLOCK_ELEMENTS", 500)
    taught, theirs = unit(2, 23, WIDTH, seed=2), unit(40, WIDTH, seed=3)
    total, rows = sinkhorn(Scores(taught, theirs), TEACHER).entropy()
    torch.testing.assert_close(total, torch.special.entr(whole_sinkhorn(taught @ theirs.T)).sum())
    assert rows == 46


# Memory


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that an operator makes while this is entered."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.bytes = max([self.bytes, *(leaf.untyped_storage().nbytes() for leaf in made)])
        return result


@contextmanager
def kept() -> Iterator[list[int]]:
    """The bytes of every tensor that is kept for the backward pass."""
    found: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor.numel() * tensor.element_size())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield found


@pytest.mark.parametrize("loss", ["dino", "ibot"])
def test_memory_does_not_grow_with_rows_times_prototypes(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block, prototypes, few, many = 2**14, 2048, 20, 100
    monkeypatch.setattr(scores, "BLOCK_ELEMENTS", block)
    student, teacher = (DinoHead(4, 8, 4, prototypes) for _ in range(2))
    found = {}
    for samples in (few, many):
        crops, others = (2, 4) if loss == "dino" else (1, 1)
        with Largest() as largest, kept() as saved:
            with torch.no_grad():
                targets = sinkhorn(teacher(torch.randn(crops, samples, 4)), TEACHER)
            ours = student(torch.randn(others, samples, 4))
            if loss == "dino":
                term = losses.dino(ours, targets, STUDENT)
                targets.entropy()
            else:
                term = losses.ibot(ours, targets, torch.ones(samples), 1, STUDENT)
            term.sum.backward()
        assert largest.bytes == 4 * block
        found[samples] = sum(saved)
    # of each row: what the three layers before the scores keep, and the gradient
    assert found[many] - found[few] < 4 * (many - few) * others * prototypes / 10


def test_the_whole_task_makes_no_matrix_of_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    task, backbone, teacher = tiny_ssl.build(ibot_prototypes=20_000, dino_prototypes=20_000)
    batch = task.collate(tiny_ssl.items(task, [3] * 4))
    masked = len(batch["clip"]["masked"])
    monkeypatch.setattr(scores, "BLOCK_ELEMENTS", 2**18)
    with Largest() as largest:
        terms = task.losses(backbone, batch, teacher=teacher, progress=tiny_ssl.HALFWAY)
        tiny_ssl.total(terms).backward()
    whole = 8 * masked * 20_000
    assert largest.bytes <= 8 * 2**18
    assert largest.bytes < whole / 10
