"""Videos, one frame after another through the streaming path: in training and live the same features."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from torch import Tensor

from interlace.backbone.model import Backbone


def look_at(times: np.ndarray, fps: float, most: int) -> np.ndarray:
    """Which frames of a clip with these times [T] (seconds) are looked at: ascending indices.

    Those nearest to every 1 / ``fps`` seconds from its beginning on; where these are more than ``most``, ``most``
    frames spread evenly over the whole clip, its first and its last among them.
    """
    if len(times) == 1:
        return np.zeros(1, np.int64)
    wanted = np.arange(0.0, times[-1] - times[0] + 1e-6, 1 / fps) + times[0]
    after = np.clip(np.searchsorted(times, wanted), 1, len(times) - 1)
    nearest = np.where(wanted - times[after - 1] <= times[after] - wanted, after - 1, after)
    chosen = np.unique(nearest)
    if len(chosen) <= most:
        return chosen
    return np.unique(np.linspace(0, len(times) - 1, most).round().astype(np.int64))


class Watching:
    """The features of the frames that are looked at, as they come.

    Up to ``most`` frames they are what training on the same frames saw. Of a live video that goes on, the last ``most``
    frames stay, and a frame sees no others: older ones are forgotten, in the stream and here. Close it.
    """

    def __init__(self, backbone: Backbone, size: int, most: int) -> None:
        self._stream = backbone.stream(1, size, size, window=most)
        self._seen: deque[Tensor] = deque(maxlen=most)

    def see(self, frame: Tensor) -> None:
        """``frame`` [3, size, size] uint8, on the backbone's device."""
        self._seen.append(self._stream(frame[None, None]).patches[0, 0])

    def patches(self) -> Tensor:
        """[t, h, w, D] of the frames that are remembered, oldest first."""
        return torch.stack(list(self._seen))

    def close(self) -> None:
        """Give the stream's memory back."""
        self._stream.close()


def watch(backbone: Backbone, frames: Tensor) -> Tensor:
    """``frames`` [T, 3, size, size] uint8 of one video -> patches [T, h, w, D]."""
    watching = Watching(backbone, frames.shape[-1], len(frames))
    for frame in frames:
        watching.see(frame)
    patches = watching.patches()
    watching.close()
    return patches
