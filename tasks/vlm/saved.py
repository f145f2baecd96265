"""A trained model read back from its run."""

from __future__ import annotations

from pathlib import Path

from interlace.backbone import FrozenBackbone

from .language_task import load_trained
from .task import Vlm


def load_vlm(run: str | Path, backbone: str | None = None) -> tuple[Vlm, FrozenBackbone]:
    """The model of a run, and the very backbone that it was trained on: see :func:`~.language_task.load_trained`."""
    return load_trained(Vlm, run, backbone)
