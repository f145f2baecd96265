"""Teachers: fp32 exponential moving averages of the student's fp32 masters, partitioned as the student is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from interlace.backbone import FrozenBackbone
from interlace.tasks.interface import Progress, Task

from .student import Student
from .zero import Held, ZeroEngine


class Teachers:
    """Every task's teacher. Build them before the engine, while the student is whole; then :meth:`follow` the engine.

    Under ZeRO stage 3 a teacher is partitioned like the student, element for element, so that an update moves nothing
    between ranks; at the other stages every rank has it whole.
    """

    def __init__(self, student: Student, device: torch.device) -> None:
        self._student = student
        self._modules: dict[str, nn.Module] = {}
        for name, task in student.tasks.items():
            teacher = cast(Task, task).build_teacher(student.backbone)
            if teacher is not None:
                self._modules[name] = teacher.to(device).requires_grad_(False).eval()
                for p in teacher.parameters():
                    # As DeepSpeed does for the student: everybody has what the first rank has.
                    dist.broadcast(p.data, src=0)
        self._followed = {name: followed_names(name, module, student) for name, module in self._modules.items()}

    def follow(self, engine: ZeroEngine) -> None:
        """Partition the teachers as ``engine`` partitions its student, and take its masters from now on."""
        self._engine = engine
        self._held: dict[str, dict[str, Held]] = {name: engine.hold(m) for name, m in self._modules.items()}

    def get(self, task: str) -> nn.Module | None:
        """The teacher of ``task``, or None."""
        return self._modules.get(task)

    @torch.no_grad()
    def update(self, progress: Progress) -> None:
        """teacher = m * teacher + (1 - m) * student, once a step, with each task's own momentum m. No communication."""
        for task, followed in self._followed.items():
            if not followed:
                continue
            momentum = cast(Task, self._student.tasks[task]).momentum(progress)
            held = self._held[task]
            ours = [held[name].piece for name in followed]
            masters = [self._engine.master(source) for source in followed.values()]
            # lerp rounds once, after the small difference was scaled: at momentum 0.9995 half a unit in the last place.
            torch._foreach_lerp_(ours, [m.to(o.device) for m, o in zip(masters, ours, strict=True)], 1.0 - momentum)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """("TASK/NAME", whole fp32 tensor) of every parameter of every teacher, one at a time; collective."""
        for task, held in self._held.items():
            for name, one in held.items():
                yield f"{task}/{name}", self._engine.whole(one)

    def load_state(self, state: Iterable[tuple[str, Tensor]]) -> None:
        """Continue from a :meth:`state`, in any order, whole on every rank. Raises ValueError where names differ."""
        expected = {f"{task}/{name}": one for task, held in self._held.items() for name, one in held.items()}
        for label, value in state:
            if label not in expected:
                raise ValueError(f"the checkpoint holds {label}, which no teacher of this run has (or twice)")
            one = expected.pop(label)
            if value.shape != one.shape:
                raise ValueError(f"teacher {label} is {list(value.shape)} in the checkpoint, {list(one.shape)} here")
            one.write(value)
        if expected:
            raise ValueError(f"the checkpoint lacks the teachers' {', '.join(sorted(expected)[:5])}")


def followed_names(task: str, teacher: nn.Module, student: Student) -> dict[str, str]:
    """The teacher's parameters that move, and the student's that each follows. Raises ValueError for a strange name."""
    shapes = {name: p.shape for name, p in student.named_parameters()}
    followed = {}
    for name, p in teacher.named_parameters():
        if name.startswith("backbone.") and isinstance(student.backbone, FrozenBackbone):
            continue  # it stays as its student does
        if name.startswith("backbone."):
            source = name
        elif name.startswith("heads."):
            source = f"tasks.{task}.{name.removeprefix('heads.')}"
        else:
            continue
        if shapes.get(source) != p.shape:
            raise ValueError(f"the teacher of {task} has {name} {list(p.shape)}, but the student's {source} differs")
        followed[name] = source
    return followed
