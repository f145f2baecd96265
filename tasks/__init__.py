"""For what the backbone is trained: one folder a task, behind the interface in :mod:`interlace.tasks.interface`."""

from __future__ import annotations

from .captioning import Captioning
from .clusters import Clusters
from .geometry import Geometry
from .interface import Task
from .ssl import Ssl
from .vla import Vla
from .vlm import Vlm

#: Every task by the name that recipes use. A new task is one folder and one line here.
TASKS: dict[str, type[Task]] = {
    "ssl": Ssl,
    "geometry": Geometry,
    "captioning": Captioning,
    "clusters": Clusters,
    "vlm": Vlm,
    "vla": Vla,
}
