"""Streams that last, that start and end at different times, that are saved, forked and kept in eight bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from lively import frames, lively, naive, tiny
from safetensors.torch import load_file, save_file
from torch import Tensor

from interlace.backbone import Backbone, Features, Stream

BACKBONE = lively(tiny())
PREFIX = BACKBONE.config.prefix_tokens
CLIP = frames(3, 12, 16, 32)


def all_tokens(features: Features) -> Tensor:
    """[B, T, tokens, D]."""
    assert features.camera is not None
    prefix = [features.cls[:, :, None], features.camera[:, :, None], features.registers]
    return torch.cat([*prefix, features.patches.flatten(2, 3)], 2)


def one_by_one(stream: Stream, clip: Tensor, times: Tensor | None = None) -> Tensor:
    length = clip.shape[1]
    given = [None] * length if times is None else list(times.split(1, 1))
    return torch.cat([all_tokens(stream(clip[:, i : i + 1], given[i])) for i in range(length)], 1)


def seen_by(length: int, window: int, sink: int) -> Tensor:
    """[T, T] bool: may frame (row) see frame (column)."""
    frame = torch.arange(length)
    return (frame[:, None] >= frame) & ((frame[:, None] - frame < window) | (frame < sink))


@pytest.mark.parametrize(("kind", "sees"), [({"max_frames": 200}, None), ({"window": 7, "sink": 2}, (7, 2))])
def test_200_frames_equal_a_naive_pass(kind: dict[str, int], sees: tuple[int, int] | None) -> None:
    """Every token of every frame against one dense masked softmax in float64; times drop, repeat and fall behind."""
    clip, times = frames(1, 200, 16, 32, seed=3), torch.arange(200.0, dtype=torch.float64)[None] * 1.25
    times[0, 50:] += 30  # frames that were dropped
    times[0, 77] -= 2.5  # a late one
    expected, _ = naive(BACKBONE, clip, times, None if sees is None else seen_by(200, *sees))
    with BACKBONE.stream(1, 16, 32, **kind) as stream:
        found = one_by_one(stream, clip, times)
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=0)


def test_the_200_frames_need_positions_first_slots_and_true_times() -> None:
    """What the test above compares with would be another without any of these."""
    clip = frames(1, 12, 16, 32, seed=3)
    expected, _ = naive(BACKBONE, clip, sees=seen_by(12, 7, 2))
    restarted, _ = naive(BACKBONE, clip, torch.arange(12).clamp(max=8)[None], seen_by(12, 7, 2))
    flat = Backbone(dataclasses.replace(BACKBONE.config, rope_base=1e30))
    flat.load_state_dict(BACKBONE.state_dict())
    unplaced, _ = naive(flat, clip, sees=seen_by(12, 7, 2))
    slotless = lively(tiny())
    with torch.no_grad():
        for tokens in (slotless.embedding.register_tokens, slotless.embedding.camera_token):
            assert tokens is not None
            tokens[0] = tokens[1]
    others = {"times": restarted, "positions": unplaced, "slots": naive(slotless, clip, sees=seen_by(12, 7, 2))[0]}
    for what, other in others.items():
        assert (other - expected).abs().amax() > 1e-2, what


@pytest.mark.parametrize("kind", [{"max_frames": 12}, {"window": 3, "sink": 1}])
def test_rows_that_start_and_end_at_different_times_equal_single_streams(kind: dict[str, int]) -> None:
    """Row 0 runs 12 frames; row 1 starts at tick 3 and ends at 9; row 2 ends at 4 and starts anew at 6."""
    expected = []
    for row, length in ((0, 12), (1, 6), (2, 4), (2, 6)):
        with BACKBONE.stream(1, 16, 32, **kind) as alone:
            expected.append(one_by_one(alone, CLIP[row : row + 1, :length]))
    found: list[list[Tensor]] = [[], [], [], []]
    with BACKBONE.stream(3, 16, 32, **kind) as stream:
        for tick in range(12):
            if tick == 6:
                stream.reset([2])
            given = {0: (0, tick)}
            if 3 <= tick < 9:
                given[1] = (1, tick - 3)
            if tick < 4 or tick >= 6:
                given[2] = (2, tick) if tick < 4 else (3, tick - 6)
            batch = torch.stack([CLIP[row, place : place + 1] for row, (_, place) in given.items()])
            tokens = all_tokens(stream(batch, rows=list(given)))
            for index, (clip, _) in enumerate(given.values()):
                found[clip].append(tokens[index : index + 1])
        assert stream.seen == (12, 6, 6)
        assert stream.frames_seen == 12
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.cat(one, 1), other, atol=2e-5, rtol=0)


def test_rows_may_come_in_any_order_and_in_chunks() -> None:
    with BACKBONE.stream(3, 16, 32, max_frames=12) as stream:
        stream(CLIP[1:2, :2], rows=[1])
        found = all_tokens(stream(torch.stack((CLIP[2, :3], CLIP[0, :3], CLIP[1, 2:5])), rows=[2, 0, 1]))
    expected = all_tokens(BACKBONE(CLIP))
    for index, (row, start) in enumerate(((2, 0), (0, 0), (1, 2))):
        torch.testing.assert_close(found[index], expected[row, start : start + 3], atol=2e-5, rtol=0)


def test_rows_have_times_of_their_own() -> None:
    times = torch.tensor([[0.0, 3, 4], [100.0, 101, 107.5]])
    with BACKBONE.stream(3, 16, 32, max_frames=12) as stream:
        found = all_tokens(stream(CLIP[:2, :3], times, rows=[2, 0]))
    torch.testing.assert_close(found.double(), naive(BACKBONE, CLIP[:2, :3], times)[0], atol=2e-5, rtol=0)


def test_all_rows_reset_is_a_new_stream_in_the_same_memory() -> None:
    with BACKBONE.stream(3, 16, 32, window=2, sink=1) as stream:
        first = one_by_one(stream, CLIP[:, :5])
        held = [tensor.data_ptr() for tensor in stream._cache.held()]
        stream.reset()
        assert torch.equal(one_by_one(stream, CLIP[:, :5]), first)
        assert [tensor.data_ptr() for tensor in stream._cache.held()] == held


KINDS: list[dict[str, Any]] = [
    {"max_frames": 12},
    {"window": 3, "sink": 1},
    {"max_frames": 12, "dtype": torch.bfloat16},
    {"window": 3, "dtype": torch.int8},
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_stream_goes_on_exactly(kind: dict[str, Any], tmp_path: Path) -> None:
    with BACKBONE.stream(3, 16, 32, **kind) as stream:
        one_by_one(stream, CLIP[:, :5])
        stream(CLIP[1:2, 5:6], rows=[1])
        save_file(stream.state(), tmp_path / "stream.safetensors")
        expected = one_by_one(stream, CLIP[:, 6:])
    with BACKBONE.stream(3, 16, 32, **kind) as other:
        other.restore(load_file(tmp_path / "stream.safetensors"))
        assert other.seen == (5, 6, 5)
        assert torch.equal(one_by_one(other, CLIP[:, 6:]), expected)


def test_a_state_is_a_copy_and_no_larger_than_what_was_seen() -> None:
    with BACKBONE.stream(1, 16, 32, max_frames=12) as stream:
        stream(CLIP[:1, :3])
        state = stream.state()
        kept = state["keys"].clone()
        assert state["keys"].nbytes + state["values"].nbytes == stream.cache_bytes * 3 / 12
        stream.reset()
        stream(CLIP[1:2, :3])
        assert torch.equal(state["keys"], kept)
        stream.restore(state)
        found = stream(CLIP[:1, 3:4])
    torch.testing.assert_close(all_tokens(found), all_tokens(BACKBONE(CLIP[:1, :4]))[:, 3:], atol=2e-5, rtol=0)


def test_a_state_may_be_restored_with_more_room() -> None:
    with BACKBONE.stream(1, 16, 32, max_frames=3) as small, BACKBONE.stream(1, 16, 32, max_frames=12) as large:
        small(CLIP[:1, :3])
        large.restore(small.state())
        found = all_tokens(large(CLIP[:1, 3:]))
    torch.testing.assert_close(found, all_tokens(BACKBONE(CLIP[:1]))[:, 3:], atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 4}, r"\(height, width, window, sink\) = \(16, 32, 3, 1\), this one is \(16, 32, 4, 1\)"),
        ({"width": 16}, r"this one is \(16, 16, 3, 1\)"),
        ({"batch": 2}, r"rows have seen \[5, 5, 5\] frames; this stream has 2 rows"),
        ({"dtype": torch.bfloat16}, r"keys: expected torch.bfloat16 .* found torch.float32"),
        ({"dtype": torch.int8}, r"expected a state with \['keys', 'keys.factor', 'opened'"),
        ({"window": None, "sink": 0, "max_frames": 4}, "this one is"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    kind = {"batch": 3, "height": 16, "width": 32, "window": 3, "sink": 1}
    with BACKBONE.stream(**kind) as stream:
        stream(CLIP[:, :5])
        state = stream.state()
    with BACKBONE.stream(**{**kind, **changes}) as other:
        with pytest.raises(ValueError, match=message):
            other.restore(state)
        assert other.frames_seen == 0


def test_a_state_with_too_many_frames_is_refused() -> None:
    with BACKBONE.stream(1, 16, 32, max_frames=5) as stream, BACKBONE.stream(1, 16, 32, max_frames=4) as other:
        stream(CLIP[:1, :5])
        with pytest.raises(ValueError, match=r"seen \[5\] frames; this stream has 1 rows and max_frames = 4"):
            other.restore(stream.state())


@pytest.mark.parametrize("kind", KINDS)
def test_forks_are_independent_futures(kind: dict[str, Any]) -> None:
    """Each branch goes on as its row would, and neither the stream nor another branch notices."""
    futures = frames(6, 3, 16, 32, seed=9)
    with BACKBONE.stream(3, 16, 32, **kind) as stream:
        one_by_one(stream, CLIP[:, :5])
        state = stream.state()
        with stream.fork(2) as branches:
            found = one_by_one(branches, futures)
        assert torch.equal(stream.state()["keys"], state["keys"])
        for copy in range(2):  # branches 0, 2, 4 are the first of rows 0, 1, 2
            stream.restore(state)
            torch.testing.assert_close(found[copy::2], one_by_one(stream, futures[copy::2]), atol=2e-5, rtol=0)
        with pytest.raises(ValueError, match="this stream is closed"):
            branches(futures[:, :1])


def test_a_fork_costs_what_its_formula_says() -> None:
    tokens = BACKBONE.config.tokens_per_frame(16, 32)
    with BACKBONE.stream(3, 16, 32, max_frames=12) as stream:
        stream(CLIP[:, :5])
        with stream.fork(4, max_frames=7) as branches:
            assert stream.fork(4).cache_bytes == 4 * stream.cache_bytes
            held = sum(tensor.untyped_storage().nbytes() for tensor in branches._cache.held())
            assert held == branches.cache_bytes == (3 * 4) * 2 * 7 * tokens * 2 * 32 * 4
            assert branches.seen == (5,) * 12
            branches(CLIP[:1, 5:7].expand(12, -1, -1, -1, -1))
            with pytest.raises(ValueError, match="max_frames = 7"):
                branches(CLIP[:1, :1].expand(12, -1, -1, -1, -1))
        with pytest.raises(ValueError, match="need room for the 5 frames"):
            stream.fork(2, max_frames=4)
        with pytest.raises(ValueError, match="0 copies: allowed is 1 or more"):
            stream.fork(0)
    with BACKBONE.stream(1, 16, 32, window=2) as stream, pytest.raises(ValueError, match="window keeps its own"):
        stream.fork(2, max_frames=4)


def test_frame_one_million_is_finite_and_at_its_own_time() -> None:
    """A state whose counter is set forward is what a million frames leave: sink and ring, each at true times."""
    window, sink, before = 4, 2, 10
    jump = 1_000_000  # a multiple of the window, so that the ring stands where it stood
    times = torch.arange(14)
    times[before:] += jump
    expected, _ = naive(BACKBONE, CLIP[:1].repeat(1, 2, 1, 1, 1)[:, :14], times[None], seen_by(14, window, sink))
    with BACKBONE.stream(1, 16, 32, window=window, sink=sink) as stream:
        clip = CLIP[:1].repeat(1, 2, 1, 1, 1)
        one_by_one(stream, clip[:, :before])
        state = stream.state()
        state["seen"] += jump
        stream.restore(state)
        found = one_by_one(stream, clip[:, before:14])
        assert stream.frames_seen == jump + 14
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), expected[:, before:], atol=2e-5, rtol=0)


def test_eight_bits_are_within_half_a_step_and_cost_what_the_formula_says() -> None:
    config, slots = BACKBONE.config, 12
    tokens = config.tokens_per_frame(16, 32)
    with BACKBONE.stream(3, 16, 32, max_frames=slots) as exact:
        expected = one_by_one(exact, CLIP)
        keys = exact.state()["keys"][0]
    with BACKBONE.stream(3, 16, 32, max_frames=slots, dtype=torch.int8) as stream:
        found = one_by_one(stream, CLIP)
        state = stream.state()
        width, heads = config.hidden_size, config.heads
        formula = 2 * slots * tokens * (3 * config.depth * (width + 4 * heads) + width * 4)
        assert stream.cache_bytes == formula
        assert sum(tensor.untyped_storage().nbytes() for tensor in stream._cache.held()) == formula
    step = keys.abs().amax(-1, keepdim=True) / 127
    restored = state["keys"][0].float() * state["keys.factor"][0]
    # The first block's keys come from the frames alone, so both streams gave it the same.
    assert ((restored - keys).abs() <= step / 2 * 1.001).all()
    assert (restored - keys).abs().max() > step.min() / 4
    error = (found - expected).norm() / expected.norm()
    assert 1e-4 < error < 0.02


def test_a_token_of_zeros_stays_zero_in_eight_bits() -> None:
    backbone = lively(tiny())
    with torch.no_grad():
        backbone.blocks[0].attention.key.weight.zero_()
    with backbone.stream(1, 16, 32, max_frames=2, dtype=torch.int8) as stream:
        assert all_tokens(stream(CLIP[:1, :2])).isfinite().all()
        assert not stream.state()["keys"][0].any()


def test_camera_bytes_are_normalised_here() -> None:
    from interlace.backbone import normalise

    pictures = torch.randint(0, 256, (1, 2, 3, 16, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with BACKBONE.stream(1, 16, 32, max_frames=4) as stream:
        found = all_tokens(stream(pictures))
        stream.reset()
        assert torch.equal(found, all_tokens(stream(normalise(pictures))))


def test_fps_is_stated_by_the_model() -> None:
    config = tiny(fps=4.0)
    with Backbone(config).stream(1, 16, 32, window=1) as stream:
        assert stream.fps == 4.0
    assert type(config)(**config.to_json()) == config
    for wrong in (0, -1.0, float("nan"), True, "4"):
        with pytest.raises(ValueError, match=r"fps: found .*, allowed is a number > 0, or nothing"):
            tiny(fps=wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": [0, 0, 1]}, r"rows \[0, 0, 1\]: allowed are different rows from 0 to 2"),
        ({"rows": [0, 1, 3]}, "different rows from 0 to 2"),
        ({"rows": []}, "different rows from 0 to 2"),
        ({"rows": [0, 1]}, r"opened for frames \[2, 't', 3, 16, 32\], found \[3, 1, 3, 16, 32\]"),
        ({"times": torch.tensor([[0.0], [float("nan")], [1.0]])}, "a time that is not finite"),
        ({"times": torch.zeros(3)}, r"times: expected \[B, T\] = \[3, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(arguments: dict[str, Any], message: str) -> None:
    with BACKBONE.stream(3, 16, 32, max_frames=4) as stream:
        with pytest.raises(ValueError, match=message):
            stream(CLIP[:, :1], **arguments)
        assert stream.seen == (0, 0, 0)
        stream(CLIP[:, :1])
        with pytest.raises(ValueError, match="row 3: allowed are rows from 0 to 2"):
            stream.reset([0, 3])
        assert stream.seen == (1, 1, 1)


def test_a_stream_may_be_closed_twice() -> None:
    with BACKBONE.stream(3, 16, 32, max_frames=1) as stream:
        stream.close()
        stream.close()
        with pytest.raises(ValueError, match="this stream is closed; open another"):
            stream(CLIP[:, :1])
