"""A stream's memory, of a size that is known before the first frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import BackboneConfig

if TYPE_CHECKING:
    from .model import Backbone, Features


class StreamCache:
    """Keys (already rotated to their true times) and values of the frames that later frames may see.

    With a window, frame f lives in slot f while f < ``sink`` and else in a ring of ``window`` slots. Frame t then
    overwrites frame t - window, the very frame that it no longer sees: what is in the slots is what frame t sees, and
    attention needs neither a mask nor a copy.
    """

    def __init__(
        self,
        config: BackboneConfig,
        *,
        batch: int,
        tokens: int,
        max_frames: int | None,
        window: int | None,
        sink: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        length = max_frames if window is None else window
        if length is None or (max_frames is not None and window is not None):
            raise ValueError("stream: give either max_frames or window")
        if batch < 1 or length < 1:
            raise ValueError("stream: batch, max_frames and window must be at least 1")
        if sink < 0 or (sink and window is None):
            raise ValueError("stream: sink must be at least 0, and needs a window")
        if not dtype.is_floating_point:
            raise ValueError(f"stream: dtype {dtype} is not a floating-point type")
        self.tokens, self.window, self.sink = tokens, window, sink
        self.capacity = sink + length
        self.seen = 0
        shape = (config.depth, batch, config.heads, self.capacity * tokens, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.keys, self.values))

    def slot(self, frame: int) -> int:
        """Where frame ``frame`` of the stream lives."""
        if self.window is None or frame < self.sink:
            return frame
        return self.sink + (frame - self.sink) % self.window

    def layer(self, index: int) -> LayerCache:
        return LayerCache(self, self.keys[index], self.values[index])


class LayerCache:
    """One block's part of a :class:`StreamCache`."""

    def __init__(self, cache: StreamCache, keys: Tensor, values: Tensor) -> None:
        self.cache, self.keys, self.values = cache, keys, values

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store a chunk's keys and values and return its attention, frame by frame; all [B, heads, t * tokens, d]."""
        tokens, dtype = self.cache.tokens, self.keys.dtype
        outputs = []
        for offset in range(query.shape[2] // tokens):
            frame = self.cache.seen + offset
            chunk = slice(offset * tokens, (offset + 1) * tokens)
            start = self.cache.slot(frame) * tokens
            self.keys[:, :, start : start + tokens] = key[:, :, chunk]
            self.values[:, :, start : start + tokens] = value[:, :, chunk]
            filled = min(frame + 1, self.keys.shape[2] // tokens) * tokens
            # Autocast would convert the whole cache, every frame.
            with torch.autocast(query.device.type, enabled=False):
                outputs.append(
                    F.scaled_dot_product_attention(
                        query[:, :, chunk].to(dtype), self.keys[:, :, :filled], self.values[:, :, :filled]
                    )
                )
        return torch.cat(outputs, dim=2).to(query.dtype)


class Stream:
    """An open stream: call it with the next frames. Made by :meth:`interlace.backbone.Backbone.stream`."""

    def __init__(self, backbone: Backbone, cache: StreamCache, height: int, width: int) -> None:
        self._backbone, self._cache = backbone, cache
        self._batch, self._size = cache.keys.shape[1], (height, width)
        self._open = True
        #: bytes of the keys and values: layers * frames * tokens * 2 * hidden_size * bytes of the dtype * batch
        self.cache_bytes = cache.bytes

    @property
    def frames_seen(self) -> int:
        return self._cache.seen

    @torch.no_grad()
    def __call__(self, frames: Tensor, times: Tensor | None = None, layers: Sequence[int] = ()) -> Features:
        """Features of the next t frames [B, t, 3, H, W], t >= 1; arguments as in the backbone's forward.

        ``times`` [B, t] defaults to the frames' places in the stream. Raises ValueError, and keeps the stream as it
        was, when the frames do not fit what the stream was opened for or would exceed ``max_frames``.
        """
        if not self._open:
            raise ValueError("stream: this stream is closed; open another with backbone.stream(...)")
        if frames.ndim != 5 or frames.shape[0] != self._batch or tuple(frames.shape[3:]) != self._size:
            expected = [self._batch, "t", 3, *self._size]
            raise ValueError(f"stream: opened for frames {expected}, found {list(frames.shape)}")
        cache, length = self._cache, frames.shape[1]
        if cache.window is None and cache.seen + length > cache.capacity:
            raise ValueError(
                f"stream: {cache.seen} frames seen and {length} more would exceed max_frames = {cache.capacity}; "
                "open the stream with a larger max_frames, or with window="
            )
        features = self._backbone._step(frames, times, layers, cache)
        cache.seen += length
        return features

    def close(self) -> None:
        """Give the memory back. Called at the end of the ``with`` block."""
        self._open = False
        self._cache.keys = self._cache.values = torch.empty(0)
