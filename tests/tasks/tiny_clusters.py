"""A small clusters task, samples, and its losses said pair by pair in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from interlace.backbone import Backbone, BackboneConfig
from interlace.data_recipes import Sample
from interlace.tasks.clusters import Clusters, ClustersOptions
from interlace.tasks.interface import Progress, TaskContext, Term

BACKBONE = BackboneConfig(hidden_size=32, depth=1, heads=2, mlp_size=32, patch_size=8, registers=1, layer_scale=1.0)
PROGRESS = Progress(step=7, steps=100, seed=5, micro=1)
ROWS = {"object": 37, "motion": 9}
LOSSES: dict[str, dict[str, Any]] = {
    "sigmoid": {"kind": "sigmoid", "scale": 4.0, "bias": -0.5, "positive_weight": 2.0, "negative_weight": 0.5},
    "plain": {"kind": "sigmoid", "normalise": False, "scale": 1.0},
    "cosface": {"kind": "cosface", "scale": 8.0, "margin": 0.3},
}


def options(loss_name: str = "sigmoid", **changes: Any) -> ClustersOptions:
    banks = {"object": {"rows": ROWS["object"]}, "motion": {"rows": ROWS["motion"], "frames": 3, "weight": 0.5}}
    data = {
        "size": 16,
        "banks": banks,
        "loss": LOSSES[loss_name],
        "embedding_size": 6,
        "positives": 4,
        "negatives": 0.3,
    }
    return ClustersOptions.model_validate({**data, **changes})


def build(loss: str = "sigmoid", *, rank: int = 0, world: int = 1, **changes: Any) -> tuple[Clusters, Backbone]:
    """The task and a backbone in float64, the same on every rank, centres long enough to matter."""
    torch.manual_seed(0)
    task = Clusters(options(loss, **changes), TaskContext(BACKBONE, seed=2, rank=rank, world=world)).double()
    backbone = Backbone(BACKBONE).double()
    for bank in task.banks.values():
        bank.local = (bank.local.detach().double() * 50).requires_grad_()
    return task, backbone


def sample(index: int, length: int = 1, **clusters: list[int]) -> Sample:
    rng = np.random.default_rng(index)
    return Sample(
        key=f"test/{index}",
        source="tests",
        frames=rng.integers(0, 256, (length, 20, 24, 3), dtype=np.uint8),
        times=np.arange(length) / 10.0,
        clusters={name: np.array(rows, np.int64) for name, rows in clusters.items()},
    )


def samples() -> list[Sample]:
    """Images, clips, a sample of both banks and one of neither."""
    return [
        sample(0, object=[3, 36, 0, 11]),
        sample(1, 5, motion=[0, 8]),
        sample(2, 4, object=[3, 20], motion=[4, 5, 0, 1]),
        sample(3),
        sample(4, object=[18, 19, 20, 21]),
    ]


def items(task: Clusters, chosen: list[Sample]) -> list[Any]:
    return [task.item(one, np.random.default_rng(int(one.key.split("/")[1]))) for one in chosen]


def total(terms: dict[str, Term]) -> Tensor:
    """What the engine would minimise on one rank, without dividing by counts."""
    return torch.stack([term.weight * term.sum for term in terms.values()]).sum()


def naive(
    loss: str, embeddings: Tensor, positives: list[list[int]], centres: Tensor, drawn: list[int], logit: Any
) -> dict[str, tuple[Tensor, int]]:
    """Every term's sum and count, one pair at a time."""
    given, zero = LOSSES[loss], embeddings.sum() * 0

    def similarity(u: int, k: int) -> Tensor:
        e, c = embeddings[u], centres[k]
        return e @ c / (e.norm() * c.norm()) if given.get("normalise", True) else e @ c

    if given["kind"] == "cosface":
        costs = []
        for u, mine in enumerate(positives):
            others = [(given["scale"] * similarity(u, k)).exp() for k in drawn if k not in mine]
            for k in mine:
                positive = (given["scale"] * (similarity(u, k) - given["margin"])).exp()
                costs.append(-(positive / (positive + sum(others, zero))).log())
        return {"softmax": (sum(costs, zero), len(costs))}
    scale, bias = logit.log_scale[0].exp(), logit.bias[0]

    def cost(u: int, k: int, y: int) -> Tensor:
        return (1 + (-y * (scale * similarity(u, k) + bias)).exp()).log()

    positive = [cost(u, k, 1) for u, mine in enumerate(positives) for k in mine]
    negative = [cost(u, k, -1) for u, mine in enumerate(positives) for k in drawn if k not in mine]
    return {
        "positive": (sum(positive, zero), len(positive)),
        "negative": (sum(negative, zero), len(negative)),
    }
