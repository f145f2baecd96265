"""For what the backbone is trained: one folder a task, behind the interface in :mod:`interlace.tasks.interface`."""

from __future__ import annotations

from .geometry import Geometry
from .interface import Task

#: Every task by the name that recipes use. A new task is one folder and one line here.
TASKS: dict[str, type[Task]] = {"geometry": Geometry}
