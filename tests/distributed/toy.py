"""A student small enough to follow by hand, with everything in it that sharding gets wrong.

Parameters that modules own beside their layers, one that another module reads, sizes that no rank count divides, a
frozen one, outputs behind dataclasses, two loss terms with counts that differ between ranks, and one that is empty on
some ranks. And the same training in plain PyTorch on the whole batch, as what the engine must equal.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from interlace.pretrain.sharded import ShardedAdam
from interlace.pretrain.student import Student
from interlace.pretrain.zero import ZeroEngine
from interlace.tasks.collectives import gather_rows
from interlace.tasks.interface import Progress, Sharded, Task, Term

WIDTH, CENTRES = 12, 7
PROGRESS = Progress(0, 10, 0)
SHARES = {"a": 0.1, "b": 1.0, "c": 0.5}
LR, EPS = 1e-2, 1e-6
#: Steps that differ in which tasks they hold, in what order, and how often.
PLAN: list[list[str]] = [["a", "b", "c"], ["c", "b", "a"], ["b", "a"], ["a", "a", "c"], ["c", "b"]]


@dataclass(frozen=True)
class Seen:
    cls: Tensor
    patches: Tensor


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH + 1), nn.Linear(2 * WIDTH + 1, WIDTH)
        self.factor = nn.Parameter(torch.full((WIDTH,), 0.7))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.factor * self.down(torch.tanh(self.up(self.norm(x))))


class ToyBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.gain = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.ones(WIDTH))
        self.unused = nn.Parameter(torch.randn(5))
        self.fixed = nn.Parameter(torch.randn(WIDTH), requires_grad=False)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.late, self.reads_late = nn.Linear(6, 5, bias=False), False

    def forward(self, x: Tensor) -> Seen:
        x = torch.cat([self.cls_token.expand(len(x), 1, -1), x + self.fixed], 1)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if torch.is_grad_enabled() else block(x)
        x = x * self.gain
        if self.reads_late:
            x = x * self.late.weight.sum().cos()
        return Seen(x[:, 0], x[:, 1:])


class Head(nn.Module):
    def __init__(self, out: int) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(WIDTH, 9), nn.Linear(9, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # Another module's weight, as heads with normalised last layers read it.
        return torch.tanh(self.hidden(x)) @ nn.functional.normalize(self.last.weight, dim=1).T


class ToyTeacher(nn.Module):
    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.heads = copy.deepcopy(backbone), nn.ModuleDict({"head": copy.deepcopy(head)})
        self.first = copy.deepcopy(head)  # neither backbone. nor heads.: stays

    def forward(self, x: Tensor) -> Tensor:
        return self.heads["head"](self.backbone(x).patches) + self.first(x)


class ToyTask(Task):
    def __init__(self, out: int, teaches: bool = False, centres: tuple[int, int] | None = None) -> None:
        super().__init__(None, None)  # type: ignore[arg-type]
        self.head, self.temperature = Head(out), nn.Parameter(torch.ones(1))
        self.teaches, self.speed, self.calls = teaches, 0.9, 0
        self.centres: Tensor | None = None
        if centres is not None:
            rank, world = centres
            self.alone = world == 1
            whole = torch.randn(CENTRES, out)
            start, stop = rank * CENTRES // world, (rank + 1) * CENTRES // world
            self.start, self.centres = start, whole[start:stop].clone().requires_grad_()

    def build_teacher(self, backbone: nn.Module) -> nn.Module | None:
        return ToyTeacher(backbone, self.head) if self.teaches else None

    def momentum(self, progress: Progress) -> float:
        return self.speed

    def sharded(self) -> list[Sharded]:
        return [] if self.centres is None else [Sharded("centres", self.centres, self.start, CENTRES)]

    def losses(
        self, backbone: nn.Module, batch: Any, *, teacher: nn.Module | None, progress: Progress
    ) -> dict[str, Term]:
        seen = backbone(batch["x"])
        features = self.head(seen.patches)
        self.dtype = features.dtype
        out = features * self.temperature
        target = batch["y"][..., None]
        if teacher is not None:
            with torch.no_grad():
                # As a module, and past it: every other time a teacher is called like that.
                self.calls += 1
                whole = teacher if self.calls % 2 else type(teacher).forward.__get__(teacher)
                target = target + whole(batch["x"])
        kept = batch["mask"]
        error = (out - target).float().square().mean(-1)
        terms = {
            "error": Term((error * kept).sum(), kept.sum()),
            "cls": Term(self.head(seen.cls).float().square().sum(), torch.tensor(float(len(seen.cls))), 0.5),
        }
        if self.centres is not None:
            # This rank's centres against everybody's rows, as model-parallel classification has it.
            rows = out.float().mean(1) if self.alone else gather_rows(out.float().mean(1))[0]
            near = (rows @ self.centres.T).tanh().sum()
            terms["near"] = Term(near, torch.tensor(float(len(batch["x"]) * CENTRES)))
        return terms


def build(*, teaches: bool = False, centres: tuple[int, int] | None = None, seed: int = 1) -> Student:
    torch.manual_seed(seed)
    tasks = {"a": ToyTask(5, teaches), "b": ToyTask(3), "c": ToyTask(4, centres=centres)}
    return Student(ToyBackbone(), tasks)  # type: ignore[arg-type]


def batch_of(step: int, micro: int) -> dict[str, Tensor]:
    """A whole micro-batch; every sample keeps another number of its tokens, the first none. Once a single sample."""
    size = 1 if (step, micro) == (2, 1) else 5
    draws = torch.Generator().manual_seed(1000 * step + micro)
    kept = torch.arange(size)[:, None] > torch.arange(6)[None]
    return {
        "x": torch.randn(size, 6, WIDTH, generator=draws),
        "y": torch.randn(size, 6, generator=draws),
        "mask": kept.float(),
    }


def split(batch: Mapping[str, Tensor], rank: int, world: int) -> dict[str, Tensor]:
    size = len(batch["x"])
    return {key: value[rank * size // world : (rank + 1) * size // world].clone() for key, value in batch.items()}


def objective(terms: Mapping[str, Term], share: float, world: int) -> Tensor:
    """The scalar for backward: ``world`` times too large, because the engine averages gradients over ranks."""
    total = torch.zeros(())
    for term in terms.values():
        count = term.count.clone()
        if world > 1:
            dist.all_reduce(count)
        total = total + share * world * term.weight * term.sum / count.clamp(min=1)
    return total


def run_step(
    engine: ZeroEngine,
    step: int,
    tasks: Sequence[str],
    *,
    teachers: Any = None,
    centres: ShardedAdam | None = None,
    clip: float = math.inf,
    poison: int | None = None,
) -> float:
    """One interlaced step as the trainer takes it; ``poison``: the rank whose batch is NaN. Returns the norm."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for micro, task in enumerate(tasks):
        batch = split(batch_of(step, micro), rank, world)
        if poison == rank and micro == 1:
            batch["y"][0, 0], batch["mask"][0, 0] = math.nan, 1.0
        teacher = teachers.get(task) if teachers is not None else None
        terms = engine.forward(task, batch, teacher, PROGRESS)
        engine.backward(objective(terms, SHARES[task], world), last=micro == len(tasks) - 1)
    square = engine.gradient_norm().square()
    norm = float((square if centres is None else square + centres.squared_norm()).sqrt())
    if not math.isfinite(norm):
        engine.discard()
        if centres is not None:
            centres.discard()
        return norm
    scale = min(1.0, clip / norm)
    engine.step(LR, scale)
    if centres is not None:
        centres.step(LR, scale)
    if teachers is not None:
        teachers.update(PROGRESS)
    return norm


def rate_of(name: str, rates: Mapping[str, float]) -> float:
    return next((rate for part, rate in rates.items() if name == part or name.startswith(part + ".")), 1.0)


class Plain:
    """The same training in plain PyTorch: one process, whole batches, missing gradients filled with zeros."""

    def __init__(
        self, student: Student, *, decay: float = 0.0, bf16: bool = False, rates: Mapping[str, float] | None = None
    ) -> None:
        self.student, self.bf16 = student, bf16
        self.named = {name: p for name, p in student.named_parameters() if p.requires_grad}
        for name, task in student.tasks.items():
            self.named |= {f"{name}.{m.name}": m.local for m in task.sharded()}  # type: ignore[operator,union-attr]
        kind = torch.optim.AdamW if decay else torch.optim.Adam
        self.optimizer = kind(
            [{"params": [p], "lr": LR * rate_of(name, rates or {})} for name, p in self.named.items()],
            eps=EPS,
            weight_decay=decay,
        )

    def run_step(self, step: int, tasks: Sequence[str], clip: float = math.inf, teachers: Any = None) -> float:
        for p in self.named.values():
            p.grad = torch.zeros_like(p)
        for micro, task in enumerate(tasks):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                teacher = teachers.get(task) if teachers is not None else None
                terms = self.student(task, batch_of(step, micro), teacher, PROGRESS)
            objective(terms, SHARES[task], 1).backward()
        norm = float(torch.cat([p.grad.view(-1) for p in self.named.values() if p.grad is not None]).norm())
        for p in self.named.values():
            assert p.grad is not None
            p.grad *= min(1.0, clip / norm)
        self.optimizer.step()
        return norm
