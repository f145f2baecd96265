"""Small fresh heads on frozen tokens, every subject with the same budget, the same batches and the same tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interlace.data_recipes import generator


@dataclass(frozen=True)
class Budget:
    """What a head may cost. A head is trained for each of ``rates``; the one that does best on ``held_back`` is kept.

    ``held_back``: the share of the training scenes that no head is trained on. The scenes that results come from
    decide nothing.
    """

    steps: int = 200
    batch: int = 16
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    weight_decay: float = 1e-4
    held_back: float = 0.2

    def settings(self) -> dict[str, Any]:
        return {"steps": self.steps, "batch": self.batch, "rates": "/".join(f"{rate:g}" for rate in self.rates)}


class Standardise(nn.Module):
    """(x - mean) / deviation over all training tokens, so that a rate means the same for every subject."""

    mean: Tensor
    scale: Tensor

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        rows = tokens.flatten(0, -2)
        self.register_buffer("mean", rows.mean(0))
        self.register_buffer("scale", rows.std(0).clamp_min(1e-4).reciprocal())

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return (tokens - self.mean) * self.scale


class DenseHead(nn.Module):
    """A linear map of each patch, made larger bilinearly: ``outputs`` numbers a pixel."""

    def __init__(self, training: Tensor, outputs: int, start: float = 0.0) -> None:
        super().__init__()
        self.standardise = Standardise(training)
        self.linear = nn.Linear(training.shape[-1], outputs)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.constant_(self.linear.bias, start)

    def forward(self, patches: Tensor, size: tuple[int, int]) -> Tensor:
        """Patches [N, h, w, D] -> [N, outputs, *size]."""
        cells = self.linear(self.standardise(patches)).permute(0, 3, 1, 2)
        return F.interpolate(cells, size, mode="bilinear")


class PoseHead(nn.Module):
    """Two layers on the camera tokens of a frame and of the stream's first frame: the pose relative to the first."""

    def __init__(self, training: Tensor, width: int = 256) -> None:
        super().__init__()
        self.standardise = Standardise(training)
        self.hidden, self.output = nn.Linear(2 * training.shape[-1], width), nn.Linear(width, 7)
        nn.init.normal_(self.output.weight, std=0.01)
        with torch.no_grad():
            self.output.bias.copy_(torch.tensor((0.0, 0, 0, 1, 0, 0, 0)))

    def forward(self, tokens: Tensor, first: Tensor) -> Tensor:
        """Tokens [..., K] of frames and of their streams' first frames -> quaternion xyzw (unit), translation [..., 7].

        The unit of the translation is that of the training poses.
        """
        both = torch.cat((self.standardise(tokens), self.standardise(first)), -1)
        out = self.output(F.gelu(self.hidden(both)))
        return torch.cat((F.normalize(out[..., :4], dim=-1), out[..., 4:]), -1)


@dataclass(frozen=True)
class Fitted:
    """The kept head, its rate, and the loss on held-back scenes of each rate."""

    head: nn.Module
    rate: float
    losses: dict[float, float]


def fit(
    make: Callable[[], nn.Module],
    loss: Callable[[nn.Module, Tensor], Tensor],
    scenes: Sequence[str],
    budget: Budget,
    seed: int,
) -> Fitted:
    """Train one head for each rate of the budget and keep the best on held-back scenes.

    ``make``: a fresh head. ``loss``: the mean loss of a head on the items at the given indices. ``scenes`` [n]: of each
    item. Everything drawn depends on ``seed`` and the budget alone: all subjects see the same batches.

    Raises ValueError with fewer than two scenes, or when no rate gives a finite loss.
    """
    training, held_back = split(scenes, budget.held_back, seed)
    best: tuple[float, float, nn.Module] | None = None
    losses = {}
    for rate in budget.rates:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            head = _trained(make(), loss, training, budget, rate, seed)
        with torch.no_grad():
            found = float(np.mean([float(loss(head, part)) for part in held_back.split(256)]))
        losses[rate] = found
        if np.isfinite(found) and (best is None or found < best[0]):
            best = (found, rate, head)
    if best is None:
        raise ValueError(f"a fresh head's loss is finite at none of the rates {list(budget.rates)}")
    return Fitted(best[2].eval().requires_grad_(False), best[1], losses)


def split(scenes: Sequence[str], share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the items to train on and of those held back: whole scenes, ``share`` of them, at least one."""
    names = sorted(set(scenes))
    if len(names) < 2:
        raise ValueError(f"a head needs training items of two scenes at least, found {len(names)}")
    order = generator(seed, "held back").permutation(len(names))
    back = {names[place] for place in order[: max(1, round(share * len(names)))]}
    inside = np.array([scene in back for scene in scenes])
    return torch.from_numpy(np.flatnonzero(~inside)), torch.from_numpy(np.flatnonzero(inside))


def _trained(
    head: nn.Module, loss: Callable[[nn.Module, Tensor], Tensor], items: Tensor, budget: Budget, rate: float, seed: int
) -> nn.Module:
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=budget.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget.steps)
    rng = generator(seed, "head batches")
    for _ in range(budget.steps):
        batch = items[torch.from_numpy(rng.integers(0, len(items), budget.batch))]
        optimizer.zero_grad()
        loss(head, batch).backward()
        optimizer.step()
        schedule.step()
    return head


def depth_loss(patches: Tensor, depth: Tensor) -> Callable[[nn.Module, Tensor], Tensor]:
    """Mean of |log D^ - log D| over valid pixels; ``patches`` [N, h, w, D], ``depth`` [N, H, W], 0 = invalid."""

    def loss(head: nn.Module, items: Tensor) -> Tensor:
        truth = depth[items]
        valid = truth > 0
        guess = head(patches[items], tuple(truth.shape[1:]))[:, 0]
        return (guess - truth.clamp_min(1e-6).log()).abs()[valid].sum() / valid.sum().clamp_min(1)

    return loss


def class_loss(patches: Tensor, classes: Tensor, ignored: int) -> Callable[[nn.Module, Tensor], Tensor]:
    """Mean cross-entropy over pixels; ``classes`` [N, H, W] int64, ``ignored`` where there is none."""

    def loss(head: nn.Module, items: Tensor) -> Tensor:
        truth = classes[items].long()
        return F.cross_entropy(head(patches[items], tuple(truth.shape[1:])), truth, ignore_index=ignored)

    return loss


def pose_loss(tokens: Tensor, first: Tensor, poses: Tensor) -> Callable[[nn.Module, Tensor], Tensor]:
    """L1 of quaternion and translation; ``tokens``, ``first`` [N, K], ``poses`` [N, 7] with w >= 0."""

    def loss(head: nn.Module, items: Tensor) -> Tensor:
        return (head(tokens[items], first[items]) - poses[items]).abs().sum(-1).mean()

    return loss
