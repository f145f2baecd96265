"""The trained heads alone, for a backbone that is frozen: no options, no losses, no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from interlace.backbone.config import BackboneConfig
from interlace.backbone.model import Features

from .camera import CameraHead
from .dpt import DualDPT
from .prediction import Prediction


class GeometryHeads(nn.Module):
    """Dual DPT and camera head under the names that :class:`~.task.Geometry` saves its weights with.

    ``layers``: the four blocks that feed the DPT, to be asked of the backbone; the rest as in :class:`~.dpt.DualDPT`.
    """

    def __init__(
        self,
        hidden_size: int,
        patch_size: int,
        *,
        layers: Sequence[int],
        widths: Sequence[int],
        features: int,
        ray_neck: int,
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.dpt = DualDPT(hidden_size, patch_size, widths=widths, features=features, ray_neck=ray_neck)
        self.camera = CameraHead(hidden_size)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], backbone: BackboneConfig) -> GeometryHeads:
        """Heads for this backbone from the fields of a ``geometry.json`` that names its four ``layers``."""
        kept = {name: options[name] for name in ("layers", "widths", "features", "ray_neck")}
        return cls(backbone.hidden_size, backbone.patch_size, **kept)

    def forward(self, features: Features) -> Prediction:
        """Geometry from features of a clip, or of any chunk of a stream, with ``layers=heads.layers``. Always fp32.

        Raises ValueError when a needed block or the camera token is missing from ``features``.
        """
        missing = sorted(set(self.layers) - set(features.layers))
        if missing or features.camera is None:
            wanted = f"blocks {missing}" if missing else "a camera token"
            raise ValueError(f"geometry: features lack {wanted}; call the backbone with layers={list(self.layers)}")
        whole = features.camera.shape[:2]
        with torch.autocast(features.camera.device.type, enabled=False):
            depth, confidence, rays = self.dpt([features.layers[layer].float().flatten(0, 1) for layer in self.layers])
            poses = self.camera(features.camera.float())
        return Prediction(depth.unflatten(0, whole), confidence.unflatten(0, whole), rays.unflatten(0, whole), poses)
