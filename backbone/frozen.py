"""A backbone that is used as it is: what is trained on top of it never reaches it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import BackboneConfig
from .digest import NotFrozen, digest
from .folder import load
from .locate import REFERENCE
from .model import Backbone, Features
from .noise import BackboneNoise
from .stream import StreamCache

__all__ = ["REFERENCE", "FrozenBackbone", "load_reference", "write_reference"]


class FrozenBackbone(Backbone):
    """A backbone whose features inside a training step are, to the bit, those of :func:`load` in evaluation mode.

    No parameter requires a gradient; it is always in evaluation mode; a forward keeps no activations, whatever
    surrounds it; noise (drop path, RoPE jitter) is left out; and it computes in its own float32 also under autocast.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def of(cls, backbone: Backbone) -> FrozenBackbone:
        """The same weights, frozen. Nothing is copied: use ``backbone`` no more."""
        with torch.device("meta"):
            frozen = cls(backbone.config)
        frozen.load_state_dict(backbone.state_dict(), assign=True)
        return frozen.requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Stays in evaluation mode."""
        super().train(False)
        return self

    def forward(
        self,
        frames: Tensor,
        *,
        times: Tensor | None = None,
        mask: Tensor | None = None,
        layers: Sequence[int] = (),
        noise: BackboneNoise | None = None,
    ) -> Features:
        """:meth:`Backbone.forward` without gradients, and without ``noise``, which only training a backbone wants."""
        with torch.no_grad(), torch.autocast(frames.device.type, enabled=False):
            return super().forward(frames, times=times, mask=mask, layers=layers)

    def _step(
        self, frames: Tensor, times: Tensor | None, layers: Sequence[int], cache: StreamCache, rows: Sequence[int]
    ) -> Features:
        with torch.no_grad(), torch.autocast(frames.device.type, enabled=False):
            return super()._step(frames, times, layers, cache, rows)


def write_reference(path: Path, folder: str, config: BackboneConfig, sha256: str) -> None:
    """Say in ``path`` that what lies beside it was trained on the backbone of ``folder`` with this config and hash."""
    content = {"path": folder, "sha256": sha256, "config": config.to_json()}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_reference(path: Path, folder: str | None = None) -> FrozenBackbone:
    """The backbone that :func:`write_reference` told of; ``folder``: where it lies now, if it was moved.

    Raises ValueError where it is not there, and :class:`NotFrozen` where its weights are not those that were used.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a run on a frozen backbone has one when it ends")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    where = folder or content["path"]
    if not Path(where).exists() and folder is not None:
        raise ValueError(f"{where}: no such folder; say where the backbone is that {path.parent} was trained on")
    if not Path(where).exists():
        raise ValueError(f"{path}: its backbone is no longer in {where}; say where it is with --backbone")
    backbone = load(where, **content["config"])
    if digest(backbone) != content["sha256"]:
        raise NotFrozen(f"{where}: not the backbone that {path.parent} was trained on: its weights have another hash")
    return FrozenBackbone.of(backbone)
