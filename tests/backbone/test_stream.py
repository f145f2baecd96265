"""A stream gives what the whole clip gives, in memory that is known beforehand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lively import Watcher, frames, lively, naive, tiny
from torch import Tensor

from interlace.backbone import PRESETS, Backbone, Features, Stream

LENGTH = 48
BACKBONE = lively(tiny())
CLIP = frames(2, LENGTH, 16, 32)
WHOLE = BACKBONE(CLIP, layers=[0])


def fields(features: Features) -> list[Tensor]:
    assert features.camera is not None
    return [features.patches, features.cls, features.camera, features.registers, *features.layers.values()]


def run(stream: Stream, clip: Tensor, chunks: Sequence[int], times: Tensor | None = None) -> list[Tensor]:
    """All features of ``clip``, given to the stream in chunks of these lengths."""
    parts, start = [], 0
    for length in chunks:
        stop = start + length
        parts.append(fields(stream(clip[:, start:stop], None if times is None else times[:, start:stop], layers=[0])))
        start = stop
    assert start == clip.shape[1]
    return [torch.cat(field, 1) for field in zip(*parts, strict=True)]


def cut(length: int) -> st.SearchStrategy[list[int]]:
    """Every way to cut ``length`` frames into chunks."""
    return st.sets(st.integers(1, max(1, length - 1))).map(
        lambda marks: [b - a for a, b in zip([0, *sorted(marks)], [*sorted(marks), length], strict=True) if b > a]
    )


@given(data=st.data(), length=st.integers(1, LENGTH))
@settings(max_examples=60, deadline=None)
def test_any_chunking_equals_the_whole_clip(data: st.DataObject, length: int) -> None:
    chunks = data.draw(cut(length))
    with BACKBONE.stream(2, 16, 32, max_frames=LENGTH) as stream:
        found = run(stream, CLIP[:, :length], chunks)
    for one, other in zip(found, fields(WHOLE), strict=True):
        torch.testing.assert_close(one, other[:, :length], atol=1e-4, rtol=0)


def test_one_frame_at_a_time_to_the_last() -> None:
    with BACKBONE.stream(2, 16, 32, max_frames=LENGTH) as stream:
        found = run(stream, CLIP, [1] * LENGTH)
        assert stream.frames_seen == LENGTH
    for one, other in zip(found, fields(WHOLE), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_given_times_are_used() -> None:
    times = torch.tensor([[0.0, 2, 3, 90], [5.0, 6.5, 7, 8]])
    with torch.no_grad(), BACKBONE.stream(2, 16, 32, max_frames=4) as stream:
        found = run(stream, CLIP[:, :4], [1, 2, 1], times)
        expected = BACKBONE(CLIP[:, :4], times=times, layers=[0])
    for one, other in zip(found, fields(expected), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    assert not torch.allclose(found[1], WHOLE.cls[:, :4], atol=1e-2)


@pytest.mark.parametrize(("window", "sink"), [(4, 0), (1, 0), (3, 2), (5, 1), (2, 6)])
@pytest.mark.parametrize("chunk", [1, 3, 17])
def test_window_and_sink_equal_a_dense_mask_with_true_times(window: int, sink: int, chunk: int) -> None:
    length = 17
    frame = torch.arange(length)
    sees = (frame[:, None] >= frame) & ((frame[:, None] - frame < window) | (frame < sink))
    clip = CLIP[:, :length]
    expected, _ = naive(BACKBONE, clip, sees=sees)
    chunks = [chunk] * (length // chunk) + [length % chunk] * bool(length % chunk)
    with BACKBONE.stream(2, 16, 32, window=window, sink=sink) as stream:
        found = run(stream, clip, chunks)
    prefix = BACKBONE.config.prefix_tokens
    torch.testing.assert_close(found[0].flatten(2, 3).double(), expected[:, :, prefix:], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1].double(), expected[:, :, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[2].double(), expected[:, :, 1], atol=1e-4, rtol=0)


def test_a_window_sees_its_frames_at_their_own_times() -> None:
    """Frozen or restarted times, as in a cache that counts its slots, would give other features."""
    clip = CLIP[:, :9]
    frame = torch.arange(9)
    sees = (frame[:, None] >= frame) & ((frame[:, None] - frame < 3) | (frame < 1))
    frozen, _ = naive(BACKBONE, clip, times=frame.clamp(max=3).expand(2, -1), sees=sees)
    with BACKBONE.stream(2, 16, 32, window=3, sink=1) as stream:
        found = run(stream, clip, [1] * 9)
    assert (found[1].double() - frozen[:, :, 0])[:, -1].abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("capacity", "kept"), [({"max_frames": 7}, 7), ({"window": 4, "sink": 2}, 6)])
def test_bytes(capacity: dict[str, int], kept: int, dtype: torch.dtype) -> None:
    config = tiny(depth=3)
    tokens = config.prefix_tokens + 2 * 3
    with Backbone(config).stream(2, 32, 48, dtype=dtype, **capacity) as stream:
        assert stream.cache_bytes == 2 * (3 * kept * tokens * 2 * 32 * dtype.itemsize)
        held = stream._cache.held()
        assert sum(tensor.untyped_storage().nbytes() for tensor in held) == stream.cache_bytes
        stream(frames(2, 3))
        stream(frames(2, 3))
        assert [tensor.data_ptr() for tensor in held] == [tensor.data_ptr() for tensor in stream._cache.held()]


def test_the_published_bytes_of_a_frame() -> None:
    """ViT-L at 224 pixels without a camera token: 201 tokens, 19.8 MB a frame in bfloat16."""
    with torch.device("meta"):
        large = Backbone(dataclasses.replace(PRESETS["dinov3_vitl16"], camera_token=False))
    with large.stream(1, 224, 224, max_frames=10, dtype=torch.bfloat16) as stream:
        assert stream.cache_bytes / 10 == pytest.approx(19.8e6, rel=0.01)


@pytest.mark.parametrize(("autocast", "dtype"), [(False, None), (True, None), (False, torch.int8), (True, torch.int8)])
def test_a_late_frame_makes_what_an_early_frame_made(autocast: bool, dtype: torch.dtype | None) -> None:
    """Of what a frame allocates, nothing grows with the stream; only attention reads more."""
    made = {}
    with BACKBONE.stream(2, 16, 32, max_frames=LENGTH, dtype=dtype) as stream:
        cache = {tensor.untyped_storage().data_ptr() for tensor in stream._cache.held()}
        for index in range(LENGTH):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), NewTensors(cache) as watcher:
                stream(CLIP[:, index : index + 1])
            made[index] = watcher.made
    assert made[LENGTH - 1] == made[1]
    assert len(made[1]) > 50


class NewTensors(Watcher):
    """Operators and the shapes they return, views of the cache left out."""

    def __init__(self, cache: set[int]) -> None:
        super().__init__()
        self.cache = cache
        self.made: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in self.cache:
                self.made.append((str(func), tuple(leaf.shape)))
        return result


def test_a_bfloat16_cache_is_close_and_gives_back_the_weights_dtype() -> None:
    with BACKBONE.stream(2, 16, 32, max_frames=8, dtype=torch.bfloat16) as stream:
        found = run(stream, CLIP[:, :8], [1] * 8)
    assert found[0].dtype == torch.float32
    error = (found[0] - WHOLE.patches[:, :8]).norm() / WHOLE.patches[:, :8].norm()
    assert 1e-5 < error < 0.03


def test_streaming_makes_no_graph() -> None:
    with BACKBONE.stream(2, 16, 32, window=2) as stream:
        features = stream(CLIP[:, :1])
    assert not features.cls.requires_grad
    torch.nn.Linear(32, 1)(features.cls).sum().backward()  # a head may train on what was streamed


def test_past_its_capacity_a_stream_says_so_and_goes_on() -> None:
    with BACKBONE.stream(2, 16, 32, max_frames=3) as stream:
        stream(CLIP[:, :2])
        with pytest.raises(
            ValueError, match=r"row 0: 2 frames seen and 2 more would exceed max_frames = 3; open the stream"
        ):
            stream(CLIP[:, 2:4])
        found = stream(CLIP[:, 2:3])
    torch.testing.assert_close(found.cls, WHOLE.cls[:, 2:3], atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="this stream is closed"):
        stream(CLIP[:, 3:4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either max_frames or window"),
        ({"max_frames": 3, "window": 2}, "either max_frames or window"),
        ({"max_frames": 0}, "at least 1"),
        ({"window": 0}, "at least 1"),
        ({"batch": 0, "max_frames": 3}, "at least 1"),
        ({"max_frames": 3, "sink": 1}, "sink must be at least 0, and needs a window"),
        ({"window": 3, "sink": -1}, "sink must be at least 0"),
        ({"max_frames": 3, "height": 20}, "20 x 32 pixels"),
        ({"max_frames": 3, "dtype": torch.int64}, "neither a floating-point type nor torch.int8"),
    ],
)
def test_a_stream_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with (
        pytest.raises(ValueError, match=message),
        BACKBONE.stream(**{"batch": 2, "height": 16, "width": 32, **arguments}),
    ):
        pass


@pytest.mark.parametrize("shape", [(1, 1, 3, 16, 32), (2, 1, 3, 32, 32), (2, 3, 16, 32)])
def test_frames_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with (
        BACKBONE.stream(2, 16, 32, window=2) as stream,
        pytest.raises(ValueError, match=r"opened for frames \[2, 't', 3, 16, 32\]"),
    ):
        stream(torch.zeros(shape))


def test_a_bidirectional_backbone_does_not_stream() -> None:
    with (
        pytest.raises(ValueError, match="cannot stream"),
        Backbone(tiny(attention="bidirectional")).stream(1, 16, 16, max_frames=2),
    ):
        pass
