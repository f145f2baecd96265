"""Collectives between real processes: two gloo ranks with uneven rows, started once for all cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from interlace.tasks.collectives import gather_rows, sum_over_ranks, world_size

WORLD = 2
#: Rows of each rank, case by case.
COUNTS = {"uneven": (3, 1), "none on the first": (0, 2), "none on the second": (2, 0), "none": (0, 0), "even": (2, 2)}


def rows_of(rank: int, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.arange(count * 6, dtype=torch.float64).view(count, 3, 2) * 0.7 - 3 * rank).to(dtype)


def objective(everyone: Tensor, mine: Tensor, rank: int) -> Tensor:
    """What rank ``rank`` adds to the loss: it weighs every row, its own rows again."""
    return (everyone.sin() * (1 + rank) * torch.arange(len(everyone)).view(-1, 1, 1)).sum() + (mine**2).sum()


def worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    found: dict[str, Any] = {"world": world_size()}
    for name, counts in COUNTS.items():
        x = rows_of(rank, counts[rank]).requires_grad_()
        everyone, offset = gather_rows(x)
        objective(everyone, x, rank).backward()
        found[name] = (everyone.detach(), offset, x.grad)
    for dtype in (torch.bool, torch.int64, torch.bfloat16):
        found[str(dtype)] = gather_rows(rows_of(rank, rank + 1, dtype))[0]
    x = torch.full((2, 3), float(rank + 1), requires_grad=True)
    total = sum_over_ranks(x.T)
    found["sum"] = (total, total.requires_grad, x.detach())
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, (str(folder),), WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("case", COUNTS)
def test_gather_rows_gives_all_rows_in_rank_order(ranks: list[dict[str, Any]], case: str) -> None:
    expected = torch.cat([rows_of(rank, COUNTS[case][rank]) for rank in range(WORLD)])
    for rank in range(WORLD):
        everyone, offset, _ = ranks[rank][case]
        assert torch.equal(everyone, expected)
        assert offset == sum(COUNTS[case][:rank])


@pytest.mark.parametrize("case", COUNTS)
def test_gradient_is_that_of_the_sum_of_all_ranks_objectives(ranks: list[dict[str, Any]], case: str) -> None:
    parts = [rows_of(rank, COUNTS[case][rank]).requires_grad_() for rank in range(WORLD)]
    everyone = torch.cat(parts)
    sum(objective(everyone, part, rank) for rank, part in enumerate(parts)).backward()
    for rank in range(WORLD):
        torch.testing.assert_close(ranks[rank][case][2], parts[rank].grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16], ids=str)
def test_gather_rows_keeps_the_dtype(ranks: list[dict[str, Any]], dtype: torch.dtype) -> None:
    expected = torch.cat([rows_of(rank, rank + 1, dtype) for rank in range(WORLD)])
    assert all(torch.equal(found[str(dtype)], expected) for found in ranks)


def test_sum_over_ranks_leaves_its_input_alone_and_has_no_gradient(ranks: list[dict[str, Any]]) -> None:
    for rank in range(WORLD):
        total, has_gradient, x = ranks[rank]["sum"]
        assert torch.equal(total, torch.full((3, 2), 3.0))
        assert not has_gradient
        assert torch.equal(x, torch.full((2, 3), float(rank + 1)))


def test_world_size(ranks: list[dict[str, Any]]) -> None:
    assert [found["world"] for found in ranks] == [WORLD] * WORLD


def test_without_a_process_group_there_is_one_rank() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    everyone, offset = gather_rows(x)
    everyone.sum().backward()
    assert world_size() == 1
    assert offset == 0
    assert torch.equal(everyone, x)
    assert torch.equal(x.grad, torch.ones_like(x))
    assert torch.equal(sum_over_ranks(x), x)
    assert not sum_over_ranks(x).requires_grad
