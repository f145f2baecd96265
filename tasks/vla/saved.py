"""A trained policy read back from its run."""

from __future__ import annotations

from pathlib import Path

from interlace.backbone import FrozenBackbone

from ..vlm.language_task import load_trained
from .task import Vla


def load_vla(run: str | Path, backbone: str | None = None) -> tuple[Vla, FrozenBackbone]:
    """The policy of a run, and the very backbone that it was trained on: see ``load_trained`` of ``vlm``.

    Scale of actions, context and the rest are the run's.
    """
    return load_trained(Vla, run, backbone)
