"""What is trained: one backbone and the heads of every task, as one module."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from interlace.backbone import Backbone, FrozenBackbone
from interlace.tasks.interface import Batch, Progress, Task, Term

#: What begins the names of the backbone's parameters, before a dot.
BACKBONE = "backbone"


class Student(nn.Module):
    """The backbone and the tasks that train it. Parameters are ``backbone.X`` and ``tasks.<task>.X``.

    Tasks reach the backbone through the student, so that what shards the student's parameters sees every use of them.
    """

    def __init__(self, backbone: Backbone, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        self.backbone = backbone
        self.tasks = nn.ModuleDict(dict(tasks))

    @property
    def by_reference(self) -> frozenset[str]:
        """Names of the parameters that checkpoints do not hold: those of a frozen backbone, known by its hash."""
        if not isinstance(self.backbone, FrozenBackbone):
            return frozenset()
        return frozenset(f"{BACKBONE}.{name}" for name, _ in self.backbone.named_parameters())

    def forward(self, task: str, batch: Batch, teacher: nn.Module | None, progress: Progress) -> dict[str, Term]:
        """The loss terms of this rank's part of one micro-batch of ``task``."""
        terms: dict[str, Term] = self.tasks[task](
            backbone=self.backbone, batch=batch, teacher=teacher, progress=progress
        )
        return terms
