"""The real task on two gloo ranks with uneven samples equals one process: losses, gradients, signals, modules run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_ssl
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

WORLD = 2
#: Frames of each sample, and how many of the samples the first rank has.
CASES = {
    "mixed": ([1, 5, 1, 1, 4], 2),
    "no clip on the first rank": ([1, 1, 5, 5, 1], 2),
    "no image on the second rank": ([1, 1, 5], 2),
    "a rank without samples": ([1, 3], 0),
    "one sample in all": ([1], 0),
    "images only": ([1, 1, 1], 1),
    "clips only": ([3, 3, 3], 1),
}


def modules_run(module: nn.Module, calls: list[str], prefix: str) -> None:
    for name, part in module.named_modules():
        if next(part.parameters(recurse=False), None) is not None:
            part.register_forward_hook(lambda *_, name=name: calls.append(f"{prefix}.{name}"))


def run(case: str, rank: int, world: int) -> dict[str, Any]:
    lengths, first = CASES[case]
    task, backbone, teacher = tiny_ssl.build()
    everything = tiny_ssl.items(task, lengths)
    mine = everything if world == 1 else (everything[:first], everything[first:])[rank]
    calls: list[str] = []
    for prefix, module in (("student", backbone), ("task", task), ("teacher", teacher)):
        modules_run(module, calls, prefix)
    terms = task.losses(backbone, task.collate(mine), teacher=teacher, progress=tiny_ssl.HALFWAY)
    return {
        "sums": {name: term.sum.detach() for name, term in terms.items()},
        "counts": {name: term.count for name, term in terms.items()},
        "gradients": tiny_ssl.gradients(task, backbone, tiny_ssl.total(terms)),
        "signals": task.signals(),
        "calls": calls,
    }


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    torch.save({case: run(case, rank, WORLD) for case in CASES}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, (str(folder),), WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one(ranks: list[dict[str, Any]], case: str) -> None:
    one, two = run(case, 0, 1), [found[case] for found in ranks]
    assert list(one["sums"]) == ["dino", "ibot", "koleo", "gram"]
    for kind in ("sums", "counts", "gradients"):
        for name, expected in one[kind].items():
            found = sum(part[kind][name] for part in two)
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}")
    for name, expected in one["signals"].items():
        for part in two:
            torch.testing.assert_close(part["signals"][name], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_ranks_run_the_same_modules_in_the_same_order(ranks: list[dict[str, Any]], case: str) -> None:
    first, second = (found[case]["calls"] for found in ranks)
    assert first == second
    assert first == run(case, 0, 1)["calls"]
