"""The real task on two gloo ranks, samples and centres split unevenly, equals one process: sums, gradients, recall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_clusters
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_clusters import PROGRESS, samples

WORLD = 2
#: Loss, which samples the first rank has of all (the second has the rest), and options.
CASES: dict[str, tuple[str, list[int], list[int], dict[str, Any]]] = {
    "sigmoid": ("sigmoid", [0, 1], [0, 1, 2, 3, 4], {}),
    "sigmoid, plain": ("plain", [0, 1, 2], [0, 1, 2, 3, 4], {}),
    "cosface": ("cosface", [0, 1], [0, 1, 2, 3, 4], {}),
    "cosface, all on the first rank": ("cosface", [0, 1, 2], [0, 1, 2], {}),
    "sigmoid, all on the second rank": ("sigmoid", [], [0, 1, 2], {}),
    "cosface, no motion on the first rank": ("cosface", [0, 4], [0, 4, 1, 2], {}),
    "sigmoid, no motion at all": ("sigmoid", [0], [0, 4], {}),
    "cosface, few negatives": ("cosface", [0, 1], [0, 1, 2, 3, 4], {"negatives": 0.01}),
    "cosface, a negative of nobody": ("cosface", [2], [2, 1], {"negatives": 1.0, "positives": 10}),
    "sigmoid, a rank without centres": ("sigmoid", [0], [0, 1], {"banks": {"object": {"rows": 37}}}),
}


def run(case: str, rank: int, world: int) -> dict[str, Any]:
    loss, first, every, changes = CASES[case]
    task, backbone = tiny_clusters.build(loss, rank=rank, world=world, **changes)
    if case.endswith("without centres") and world > 1:
        # Not how ranks are split, but how a bank of one row would be.
        for bank in task.banks.values():
            bank.start, whole = (0, rank == 0)
            centres = tiny_clusters.build(loss, **changes)[0].banks[bank.name].local.detach()
            bank.local = (centres if whole else centres[:0]).clone().requires_grad_()
    chosen = [i for i in every if world == 1 or (i in first) == (rank == 0)]
    batch = task.collate(tiny_clusters.items(task, [samples()[i] for i in chosen]))
    terms = task.losses(backbone, batch, teacher=None, progress=PROGRESS)
    tiny_clusters.total(terms).backward()
    named = {**dict(backbone.named_parameters()), **dict(task.named_parameters())}
    gradients = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
    centres = {name: bank.local.grad for name, bank in task.banks.items()}
    task, backbone = task.float(), backbone.float()
    for bank in task.banks.values():
        bank.local = bank.local.detach().float()
    with torch.no_grad():
        measures = task.evaluate(backbone, samples(), task.fit_blind(samples()[:3]))
    return {
        "terms": list(terms),
        "sums": {name: term.sum.detach() for name, term in terms.items()},
        "counts": {name: term.count for name, term in terms.items()},
        "gradients": gradients,
        "centres": centres,
        "recall": {measure.name: (measure.values, measure.swapped, measure.fixed) for measure in measures},
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
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one(ranks: list[dict[str, Any]], case: str) -> None:
    one, two = run(case, 0, 1), [found[case] for found in ranks]
    assert two[0]["terms"] == two[1]["terms"] == one["terms"]
    assert any(int(count) for count in one["counts"].values())
    for kind in ("sums", "counts", "gradients"):
        assert all(part[kind].keys() == one[kind].keys() for part in two)
        for name, expected in one[kind].items():
            found = two[0][kind][name] + two[1][kind][name]
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11, msg=lambda text, n=name: f"{n}: {text}")
    for name, expected in one["centres"].items():
        # Each rank's own rows, complete as they are: nothing is summed or averaged over ranks.
        found = torch.cat([part["centres"][name] for part in two])
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
        assert float(expected.abs().max()) > 0 or "motion" in case


@pytest.mark.parametrize("case", ["sigmoid", "sigmoid, plain"])
def test_recall_sees_the_whole_bank(ranks: list[dict[str, Any]], case: str) -> None:
    one = run(case, 0, 1)["recall"]
    assert set(one) == {"recall_object", "recall_motion"}
    for found in ranks:
        for name, arrays in one.items():
            for array, expected in zip(found[case]["recall"][name], arrays, strict=True):
                np.testing.assert_array_equal(array, expected)
