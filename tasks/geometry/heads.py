"""The trained heads alone, for a backbone that is frozen: no options, no losses, no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
        return predict(self.dpt, self.camera, self.layers, features)


def predict(
    dpt: DualDPT, camera: CameraHead, layers: Sequence[int], features: Features, *, at_once: int | None = None
) -> Prediction:
    """Geometry from the features of ``backbone(frames, layers=layers)`` or of any chunk of a stream. Always fp32.

    Every frame is read by itself, so a stream's frames give what the whole clip gives. ``at_once``: frames of the DPT
    computed at a time, and again in backward, which saves memory. Raises ValueError when a needed block or the camera
    token is missing from ``features``.
    """
    missing = sorted(set(layers) - set(features.layers))
    if missing or features.camera is None:
        wanted = f"blocks {missing}" if missing else "a camera token"
        raise ValueError(f"geometry: features lack {wanted}; call the backbone with layers={list(layers)}")
    whole = features.camera.shape[:2]
    with torch.autocast(features.camera.device.type, enabled=False):
        levels = [features.layers[layer].float().flatten(0, 1) for layer in layers]
        dense = dpt(levels) if at_once is None else _in_parts(dpt, levels, at_once)
        poses = camera(features.camera.float())
    depth, confidence, rays = (each.unflatten(0, whole) for each in dense)
    return Prediction(depth, confidence, rays, poses)


def _in_parts(dpt: DualDPT, levels: list[Tensor], at_once: int) -> tuple[Tensor, ...]:
    parts = [
        checkpoint(dpt, list(chunk), use_reentrant=False, preserve_rng_state=False)
        for chunk in zip(*(level.split(at_once) for level in levels), strict=True)
    ]
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))
