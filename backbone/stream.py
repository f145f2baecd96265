"""A stream's memory, of a size that is known before the first frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import BackboneConfig
from .preprocess import normalise

if TYPE_CHECKING:
    from .model import Backbone, Features

_LARGEST = 127  # of an 8-bit number and of its negative


@dataclass(frozen=True)
class Place:
    """Where one frame of neighbouring rows goes: rows ``given`` of a call are rows ``rows`` of the cache.

    Their tokens start at ``start``, and the first ``filled`` tokens of the cache are what that frame sees.
    """

    given: slice
    rows: slice
    start: int
    filled: int


class Slots:
    """The keys of all blocks, or the values: [depth, batch, heads, tokens, head_dim] of a floating-point type."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        # Zeros rather than whatever is there: the memory is really taken now, and a saved state says nothing foreign.
        self.data = torch.zeros(*shape, dtype=dtype, device=device)

    def write(self, layer: int, place: Place, x: Tensor) -> None:
        """Keep ``x`` [rows, heads, t, head_dim]."""
        self.data[layer, place.rows, :, place.start : place.start + x.shape[2]] = x

    def read(self, layer: int, place: Place) -> Tensor:
        """What that frame sees, [rows, heads, filled, head_dim]: a view."""
        return self.data[layer, place.rows, :, : place.filled]

    def kept(self) -> dict[str, Tensor]:
        """What a saved state holds, each [depth, batch, heads, tokens, ...]."""
        return {"": self.data}

    def held(self) -> list[Tensor]:
        """All memory."""
        return [self.data]


class EightBitSlots(Slots):
    """The same in whole numbers from -127 to 127, with a float32 factor for each token and head.

    No number is further than half its factor from what was given, and the factor is the largest of its token and head
    over 127. Attention reads one row of one block at a time, in ``dtype``, from memory that is taken once as well.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(shape, torch.int8, device)
        self.factor = torch.zeros(*shape[:-1], 1, dtype=torch.float32, device=device)
        self.work = torch.zeros(1, *shape[2:], dtype=dtype, device=device)

    def write(self, layer: int, place: Place, x: Tensor) -> None:
        factor = x.float().abs().amax(-1, keepdim=True) / _LARGEST
        tokens = slice(place.start, place.start + x.shape[2])
        smallest = torch.finfo(torch.float32).tiny  # a token of zeros has factor 0
        self.data[layer, place.rows, :, tokens] = (x.float() / factor.clamp(min=smallest)).round().to(torch.int8)
        self.factor[layer, place.rows, :, tokens] = factor

    def read(self, layer: int, place: Place) -> Tensor:
        work = self.work[:, :, : place.filled]
        # One step after the other: a product of mixed types would first make a copy of a common one.
        work.copy_(self.data[layer, place.rows, :, : place.filled])
        return work.mul_(self.factor[layer, place.rows, :, : place.filled].to(work.dtype))

    def kept(self) -> dict[str, Tensor]:
        return {"": self.data, ".factor": self.factor}

    def held(self) -> list[Tensor]:
        return [self.data, self.factor, self.work]


class StreamCache:
    """Keys (already rotated to their true times) and values of the frames that later frames may see.

    Each row of the batch is a stream of its own: ``seen`` counts its frames. With a window, frame f lives in slot f
    while f < ``sink`` and else in a ring of ``window`` slots. Frame t then overwrites frame t - window, the very frame
    that it no longer sees: what is in the slots is what frame t sees, and attention needs neither a mask nor a copy.
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
        computed_in: torch.dtype,
        device: torch.device,
    ) -> None:
        length = max_frames if window is None else window
        if length is None or (max_frames is not None and window is not None):
            raise ValueError("stream: give either max_frames or window")
        if batch < 1 or length < 1:
            raise ValueError("stream: batch, max_frames and window must be at least 1")
        if sink < 0 or (sink and window is None):
            raise ValueError("stream: sink must be at least 0, and needs a window")
        if not dtype.is_floating_point and dtype != torch.int8:
            raise ValueError(f"stream: dtype {dtype} is neither a floating-point type nor torch.int8")
        self.config, self.batch, self.tokens, self.window, self.sink = config, batch, tokens, window, sink
        self.dtype, self.computed_in, self.device = dtype, computed_in, device
        self.capacity = sink + length
        self.seen = [0] * batch
        self.places: list[list[Place]] = []
        shape = (config.depth, batch, config.heads, self.capacity * tokens, config.head_dim)
        eight_bits = dtype == torch.int8
        self.keys, self.values = (
            EightBitSlots(shape, computed_in, device) if eight_bits else Slots(shape, dtype, device) for _ in range(2)
        )

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.held())

    @property
    def filled(self) -> int:
        """Slots that any row has filled."""
        return min(max(self.seen), self.capacity)

    def held(self) -> list[Tensor]:
        """All memory of keys and values."""
        return [*self.keys.held(), *self.values.held()]

    def kept(self) -> dict[str, Tensor]:
        """What a saved state holds, by name."""
        named = (("keys", self.keys), ("values", self.values))
        return {name + part: tensor for name, slots in named for part, tensor in slots.kept().items()}

    def slot(self, frame: int) -> int:
        """Where frame ``frame`` of a stream lives."""
        if self.window is None or frame < self.sink:
            return frame
        return self.sink + (frame - self.sink) % self.window

    def place(self, rows: Sequence[int], length: int) -> None:
        """Say where the next ``length`` frames of these rows go, before the blocks ask for it."""
        self.places = [self._places(rows, offset) for offset in range(length)]

    def _places(self, rows: Sequence[int], offset: int) -> list[Place]:
        """Neighbouring rows at the same place are attended to in one call; a view of them needs no copy."""
        places: list[Place] = []
        for given, row in enumerate(rows):
            frame = self.seen[row] + offset
            start, filled = self.slot(frame) * self.tokens, min(frame + 1, self.capacity) * self.tokens
            last = places[-1] if places else None
            joins = last is not None and (last.rows.stop, last.start, last.filled) == (row, start, filled)
            if joins and last is not None and self.dtype != torch.int8:
                given_rows, rows_there = slice(last.given.start, given + 1), slice(last.rows.start, row + 1)
                places[-1] = Place(given_rows, rows_there, start, filled)
            else:
                places.append(Place(slice(given, given + 1), slice(row, row + 1), start, filled))
        return places

    def layer(self, index: int) -> LayerCache:
        return LayerCache(self, index)

    def copied(self, copies: int, max_frames: int | None) -> StreamCache:
        """A cache with ``copies`` rows for each row of this one, of the same contents."""
        length = self.capacity if max_frames is None else max_frames
        other = StreamCache(
            self.config,
            batch=self.batch * copies,
            tokens=self.tokens,
            max_frames=None if self.window else length,
            window=self.window,
            sink=self.sink,
            dtype=self.dtype,
            computed_in=self.computed_in,
            device=self.device,
        )
        other.seen = [seen for seen in self.seen for _ in range(copies)]
        filled = self.filled * self.tokens
        for name, target in other.kept().items():
            source = self.kept()[name][:, :, None, :, :filled]
            target.unflatten(1, (self.batch, copies))[:, :, :, :, :filled] = source
        return other


class LayerCache:
    """One block's part of a :class:`StreamCache`."""

    def __init__(self, cache: StreamCache, index: int) -> None:
        self.cache, self.index = cache, index

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store a chunk's keys and values, return its attention frame by frame; all [rows, heads, t * tokens, d]."""
        cache, outputs = self.cache, []
        for offset, places in enumerate(cache.places):
            chunk = slice(offset * cache.tokens, (offset + 1) * cache.tokens)
            parts = []
            # Autocast would convert the whole cache, every frame.
            with torch.autocast(query.device.type, enabled=False):
                for place in places:
                    cache.keys.write(self.index, place, key[place.given, :, chunk])
                    cache.values.write(self.index, place, value[place.given, :, chunk])
                    keys, values = cache.keys.read(self.index, place), cache.values.read(self.index, place)
                    asked = query[place.given, :, chunk].to(keys.dtype)
                    parts.append(F.scaled_dot_product_attention(asked, keys, values))
            outputs.append(_joined(parts, dim=0))
        return _joined(outputs, dim=2).to(query.dtype)


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    """One part alone is not copied: attention's result already lies as the next layer wants it."""
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts), dim)


class Stream:
    """Open streams, one a row of the batch: call it with their next frames, and close it, or open it in a ``with``.

    Made by :meth:`interlace.backbone.Backbone.stream`.
    """

    def __init__(self, backbone: Backbone, cache: StreamCache, height: int, width: int) -> None:
        self._backbone, self._cache = backbone, cache
        self._size = (height, width)
        self._open = True
        #: bytes of the keys and values: batch * layers * frames * tokens * 2 * hidden_size * bytes of the dtype.
        #: In 8 bits: 2 * frames * tokens * (batch * layers * (hidden_size + 4 * heads) + hidden_size * bytes), the
        #: last for one row of one block in the dtype of attention.
        self.cache_bytes = cache.bytes

    @property
    def frames_seen(self) -> int:
        """Frames of the row that has seen most."""
        return max(self._cache.seen)

    @property
    def seen(self) -> tuple[int, ...]:
        """Frames of each row."""
        return tuple(self._cache.seen)

    @property
    def fps(self) -> float | None:
        """How many frame units of ``times`` are a second, where the backbone's config says so."""
        return self._cache.config.fps

    @torch.no_grad()
    def __call__(
        self,
        frames: Tensor,
        times: Tensor | None = None,
        layers: Sequence[int] = (),
        *,
        rows: Sequence[int] | None = None,
    ) -> Features:
        """Features of the next t >= 1 frames of all rows, or of some.

        ``frames``: [n, t, 3, H, W], float as in the backbone's forward, or uint8, which is normalised here. ``rows``:
        the n rows of the batch that they belong to; None for all, in order. A row that gets no frame stays as it is.
        ``times`` [n, t] in frame units, whenever each frame was really taken: a dropped frame leaves a gap, a late
        one has its own time; float64 keeps fractions exact for years. None: the frames' places in their own streams.

        Raises ValueError, and keeps the streams as they were, when the frames do not fit what the stream was opened
        for, would exceed ``max_frames``, or have a time that is not finite.
        """
        cache = self._cache
        self._check_open()
        rows = range(cache.batch) if rows is None else rows
        if not rows or len(set(rows)) < len(rows) or not all(0 <= row < cache.batch for row in rows):
            raise ValueError(f"stream: rows {list(rows)}: allowed are different rows from 0 to {cache.batch - 1}")
        if frames.ndim != 5 or frames.shape[0] != len(rows) or tuple(frames.shape[3:]) != self._size:
            expected = [len(rows), "t", 3, *self._size]
            raise ValueError(f"stream: opened for frames {expected}, found {list(frames.shape)}")
        length = frames.shape[1]
        for row in rows:
            if cache.window is None and cache.seen[row] + length > cache.capacity:
                raise ValueError(
                    f"stream: row {row}: {cache.seen[row]} frames seen and {length} more would exceed max_frames = "
                    f"{cache.capacity}; open the stream with a larger max_frames, or with window="
                )
        if times is not None and not bool(torch.isfinite(times).all()):
            raise ValueError("stream: times: found a time that is not finite")
        if frames.dtype == torch.uint8:
            frames = normalise(frames.to(cache.device))
        times = None if times is None else times.to(frames.device)
        features = self._backbone._step(frames, times, layers, cache, rows)
        for row in rows:
            cache.seen[row] += length
        return features

    def reset(self, rows: Sequence[int] | None = None) -> None:
        """Let these rows (None: all) begin a new stream: their next frame is a first frame. Nothing is allocated."""
        self._check_open()
        chosen = range(self._cache.batch) if rows is None else rows
        for row in chosen:
            if not 0 <= row < self._cache.batch:
                raise ValueError(f"stream: row {row}: allowed are rows from 0 to {self._cache.batch - 1}")
        for row in chosen:
            self._cache.seen[row] = 0

    def state(self) -> dict[str, Tensor]:
        """A copy of all that the streams know, which safetensors can save: :meth:`restore` goes on from there.

        ``keys`` and ``values`` of the slots that are in use (in 8 bits also ``keys.factor`` and ``values.factor``),
        ``seen`` [batch] and ``opened`` = [height, width, window or 0, sink]. It fits the weights that made it alone.
        """
        self._check_open()
        filled = self._cache.filled * self._cache.tokens
        state = {name: tensor[:, :, :, :filled].clone() for name, tensor in self._cache.kept().items()}
        return state | {"seen": torch.tensor(self._cache.seen), "opened": torch.tensor(self._opened)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a :meth:`state` of a stream of the same size, window, sink, batch and dtype.

        ``max_frames`` may differ, if the state's frames fit. Raises ValueError, and keeps the streams as they were,
        for a state that does not fit.
        """
        self._check_open()
        cache, kept = self._cache, self._cache.kept()
        wanted = {*kept, "seen", "opened"}
        if set(state) != wanted:
            raise ValueError(f"restore: expected a state with {sorted(wanted)}, found {sorted(state)}")
        opened = tuple(state["opened"].tolist())
        if opened != self._opened:
            names = "(height, width, window, sink)"
            raise ValueError(f"restore: the state is of a stream {names} = {opened}, this one is {self._opened}")
        seen = [int(frames) for frames in state["seen"]]
        if len(seen) != cache.batch or min(seen) < 0 or (cache.window is None and max(seen) > cache.capacity):
            raise ValueError(
                f"restore: the state's rows have seen {seen} frames; this stream has {cache.batch} rows"
                + (f" and max_frames = {cache.capacity}" if cache.window is None else "")
            )
        filled = min(max(seen), cache.capacity) * cache.tokens
        for name, tensor in kept.items():
            shape, found = (*tensor.shape[:3], filled, *tensor.shape[4:]), state[name]
            if found.shape != shape or found.dtype != tensor.dtype:
                expected = f"{tensor.dtype} {list(shape)}"
                raise ValueError(f"restore: {name}: expected {expected}, found {found.dtype} {list(found.shape)}")
        for name, tensor in kept.items():
            tensor[:, :, :, :filled] = state[name].to(tensor.device)
        cache.seen = seen

    def fork(self, copies: int, *, max_frames: int | None = None) -> Stream:
        """``copies`` futures of every row, as a stream of its own: rows r * copies ... (r + 1) * copies - 1 go on from
        row r, and nothing they see reaches this stream or each other.

        It costs what a stream of ``batch * copies`` rows costs: ``copies * cache_bytes``, or less with the
        ``max_frames`` that a planner needs (the frames seen so far and those it imagines). Close it, or open it in a
        ``with``. Raises ValueError for fewer than one copy or a ``max_frames`` that does not fit.
        """
        self._check_open()
        if copies < 1:
            raise ValueError(f"fork: {copies} copies: allowed is 1 or more")
        if max_frames is not None and (self._cache.window is not None or max_frames < self.frames_seen):
            raise ValueError(
                f"fork: max_frames = {max_frames}: a stream with a window keeps its own, and others need room for the "
                f"{self.frames_seen} frames they have seen"
            )
        return Stream(self._backbone, self._cache.copied(copies, max_frames), *self._size)

    def close(self) -> None:
        """Give the memory back, if that was not done. Called at the end of a ``with`` block."""
        if self._open:
            self._open = False
            del self._cache.keys, self._cache.values

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _opened(self) -> tuple[int, int, int, int]:
        return (*self._size, self._cache.window or 0, self._cache.sink)

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("stream: this stream is closed; open another with backbone.stream(...)")
