"""The processes that the distributed tests run in: a failure is told, and does not spoil the next case."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist
from harness import CaseFailed, Ranks


def summed(rank: int, world: int, value: float) -> float:
    total = torch.tensor(value + rank)
    dist.all_reduce(total)
    return float(total)


def torn(rank: int, world: int) -> None:
    if rank == 1:
        raise RuntimeError("only here")
    dist.barrier()


def killed(rank: int, world: int) -> None:
    if rank == 1:
        os._exit(3)
    dist.barrier()


def test_cases_run_on_every_rank_and_failures_are_told() -> None:
    with Ranks(2) as ranks:
        assert ranks.run(summed, value=2.0) == [5.0, 5.0]
        with pytest.raises(CaseFailed, match=r"torn.*failed on rank 1(.|\n)*only here"):
            ranks.run(torn)
        assert ranks.run(summed, value=1.0) == [3.0, 3.0]
        with pytest.raises(CaseFailed, match=r"killed.*a rank died with status \[3\]|killed.*failed on rank 0"):
            ranks.run(killed)
