"""One interlaced step: all tasks' micro-batches, one backward each, one optimizer step (OmniStream, section 4.2)."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from interlace.data_recipes.feed import MicroBatch, changed
from interlace.tasks.interface import Batch, Progress, Term

from .cosine import TaskGradients
from .frozen import FrozenGuard
from .health import NonFinite
from .sharded import ShardedAdam
from .teachers import Teachers
from .zero import ZeroEngine


@dataclass
class Outcome:
    """What one step did. Sums are over all ranks; seconds are this rank's own."""

    losses: dict[str, float] = field(default_factory=dict)  # "task/term" -> value before the weights
    gradient_norm: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)  # task -> forward and backward; "step" -> the rest
    stop: bool = False  # some rank was asked to stop
    broken: int = 0  # samples that were met and replaced


@dataclass(frozen=True)
class Parts:
    """Everything a step changes."""

    engine: ZeroEngine
    centres: ShardedAdam
    teachers: Teachers
    cosine: TaskGradients
    frozen: FrozenGuard | None = None  # of a backbone that is not trained


def interlaced_step(
    parts: Parts,
    micros: Sequence[MicroBatch],
    *,
    shares: Mapping[str, float],
    progress: Progress,
    rate: float,
    clip: float,
    stop: Callable[[], bool],
    device: torch.device,
) -> Outcome:
    """Forward and backward of every micro-batch, then one finite check, one clip, one update, and the teachers.

    ``shares[task]`` is the task's weight divided by its number of micro-batches. ``clip`` bounds the global gradient
    norm, the sharded centres included; infinity leaves it alone. ``stop`` says, as late as may be, whether this rank
    was asked to stop. Raises :class:`NonFinite` on every rank, with nothing changed, when a loss term or the gradient
    norm of any rank is not finite.
    """
    outcome, began, clock = Outcome(), time.perf_counter(), Clock(device)
    names: list[str] = []
    values: list[Tensor] = []
    for position, micro in enumerate(micros):
        now = Progress(progress.step, progress.steps, progress.seed, micro.index)
        batch = to_device(micro.batch, device)
        terms = parts.engine.forward(micro.task, batch, parts.teachers.get(micro.task), now)
        loss, sums, counts = objective(terms, shares[micro.task])
        with parts.cosine.watch(micro.task):
            parts.engine.backward(loss, last=position == len(micros) - 1)
        names += [f"{micro.task}/{term}" for term in terms]
        values += [sums / counts.clamp(min=torch.finfo(counts.dtype).tiny)]
        clock.mark()

    norm = (parts.engine.gradient_norm().float().square() + parts.centres.squared_norm()).sqrt()
    # One vector, summed over ranks and read once: NaN and Inf survive the sum, so every rank decides alike.
    broken = sum(len(micro.broken) for micro in micros)
    flags = torch.tensor([float(stop()), float(broken)], device=device)
    world = dist.get_world_size()
    vector = torch.cat([*values, norm.reshape(1) / world, flags]).double()
    dist.all_reduce(vector)
    *losses, outcome.gradient_norm, asked, replaced = vector.tolist()
    outcome.stop, outcome.broken = asked > 0, round(replaced)
    for name, value in zip(names, losses, strict=True):  # the mean over the task's micro-batches; NaN stays NaN
        outcome.losses[name] = outcome.losses.get(name, 0.0) + value / names.count(name)
    if not all(math.isfinite(value) for value in (*losses, outcome.gradient_norm)):
        parts.engine.discard()
        parts.centres.discard()
        raise NonFinite(outcome.losses, outcome.gradient_norm)
    scale = min(1.0, clip / (outcome.gradient_norm + 1e-6))
    parts.engine.step(rate, scale)
    parts.centres.step(rate, scale)
    parts.teachers.update(progress)
    for micro, spent in zip(micros, clock.seconds(), strict=True):
        outcome.seconds[micro.task] = outcome.seconds.get(micro.task, 0.0) + spent
    outcome.seconds["step"] = time.perf_counter() - began - sum(outcome.seconds.values())
    return outcome


class Clock:
    """Seconds between marks, from its making on, as the device passes them: a GPU is told its work long before."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[Any] = []
        self.mark()

    def mark(self) -> None:
        """What the device was told so far ends here."""
        if not self._cuda:
            self._marks.append(time.perf_counter())
            return
        event: Any = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def seconds(self) -> list[float]:
        """From each mark to the next, once the device has passed them all."""
        between = itertools.pairwise(self._marks)
        return [a.elapsed_time(b) / 1000 if self._cuda else b - a for a, b in between]


def objective(terms: Mapping[str, Term], share: float) -> tuple[Tensor, Tensor, Tensor]:
    """The scalar this rank runs backward on, its sums [terms] and the counts [terms] over all ranks.

    Gradients are averaged over ranks, so the factor ``world`` makes the average of the ranks' scalars equal
    ``share * sum_i weight_i * (sum over ranks of sum_i) / (sum over ranks of count_i)``.
    """
    sums = torch.stack([term.sum.float() for term in terms.values()])
    counts = torch.stack([term.count.detach().float().to(sums.device) for term in terms.values()])
    dist.all_reduce(counts)
    weights = torch.tensor([term.weight for term in terms.values()], device=sums.device)
    # A term nobody has an element for has sum 0 and stays in the graph: its modules run on every rank.
    divisor = torch.where(counts > 0, counts, torch.ones_like(counts))
    loss = share * dist.get_world_size() * (weights * sums / divisor).sum()
    return loss, sums.detach(), counts


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move every tensor of a batch, however deep it lies, to ``device``, without waiting for those in pinned memory."""

    def move(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, non_blocking=True)
        return leaf.to(device) if callable(getattr(leaf, "to", None)) else leaf

    moved: Batch = changed(batch, move)
    return moved
