"""What is trained: one backbone and the heads of every task, as one module."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from interlace.backbone import Backbone, FrozenBackbone
from interlace.tasks.interface import Batch, Progress, Task, Term


class Student(nn.Module):
    """The backbone and the tasks that train it. Parameters are ``backbone.X`` and ``tasks.<task>.X``.

    Tasks reach the backbone through the student, so that what shards the student's parameters sees every use of them.
    A frozen backbone is none of the student's parameters: every rank holds it whole.
    """

    def __init__(self, backbone: Backbone, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        if isinstance(backbone, FrozenBackbone):
            # Not as a submodule: what shards, steps or saves a student never meets it, and ranks may use it unalike.
            object.__setattr__(self, "backbone", backbone)
        else:
            self.backbone = backbone
        self.tasks = nn.ModuleDict(dict(tasks))

    def forward(self, task: str, batch: Batch, teacher: nn.Module | None, progress: Progress) -> dict[str, Term]:
        """The loss terms of this rank's part of one micro-batch of ``task``."""
        terms: dict[str, Term] = self.tasks[task](
            backbone=self.backbone, batch=batch, teacher=teacher, progress=progress
        )
        return terms
