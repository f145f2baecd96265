"""What benchmarks/long_streams.py measures, on clips whose truth is known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from interlace.backbone import Backbone, BackboneConfig
from interlace.tasks.geometry.clips import Clip
from interlace.tasks.geometry.heads import GeometryHeads

FILE = Path(__file__).parents[2] / "benchmarks" / "long_streams.py"
CONFIG = BackboneConfig(hidden_size=32, depth=2, heads=2, mlp_size=64, patch_size=8, layer_scale=0.5)
SIDE, FRAMES = 32, 4


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_long_streams", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass asks for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def clip() -> Clip:
    """A wall two units away; the camera slides to the right by one patch a frame."""
    camera = torch.eye(4).repeat(FRAMES, 1, 1)
    camera[:, 0, 3] = torch.arange(FRAMES) * 8 * 2 / SIDE
    intrinsics = torch.tensor([[SIDE, 0, SIDE / 2], [0, SIDE, SIDE / 2], [0, 0, 1.0]]).repeat(FRAMES, 1, 1)
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (FRAMES, 3, SIDE, SIDE), dtype=np.uint8))
    return Clip(frames, torch.full((FRAMES, SIDE, SIDE), 2.0), intrinsics, camera, 1.0, True, True)


@pytest.fixture(scope="module")
def heads() -> GeometryHeads:
    torch.manual_seed(0)
    options = {"layers": (0, 1, 1, 1), "widths": (8, 8, 8, 8), "features": 8, "ray_neck": 1}
    return GeometryHeads.from_options(options, CONFIG).eval()


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone(CONFIG).eval()


def test_patches_are_found_where_depth_and_cameras_put_them(benchmark: ModuleType, clip: Clip) -> None:
    places, seen = benchmark.in_first_frame(clip, 1, 8)
    rows, columns = np.divmod(np.arange(16), 4)
    np.testing.assert_allclose(places, np.stack((rows + 0.5, columns + 1.5), 1), atol=1e-6)
    np.testing.assert_array_equal(seen, columns < 3)  # the last column has left the first frame
    clip.depth[0, :, 16:24] = 1.0  # something stands in front there
    _, seen = benchmark.in_first_frame(clip, 1, 8)
    clip.depth[0, :, 16:24] = 2.0
    np.testing.assert_array_equal(seen, (columns < 3) & (columns != 1))


def test_matches_are_wrong_that_are_more_than_a_patch_away(benchmark: ModuleType, clip: Clip) -> None:
    first = torch.eye(16).reshape(4, 4, 16)
    slid = torch.roll(first, -1, 1)
    assert benchmark.propagation(clip, 1, slid, first, 8) == 0
    assert benchmark.propagation(clip, 1, torch.roll(slid, 2, 0), first, 8) == 1
    hidden = Clip(**{**vars(clip), "depth": torch.zeros_like(clip.depth)})
    assert np.isnan(benchmark.propagation(hidden, 1, slid, first, 8))


def test_laps_are_near_the_lengths_and_the_last_is_the_one_asked_for(benchmark: ModuleType) -> None:
    laps = benchmark.measured_laps(1000, 14, 8)
    assert list(laps.values()) == [22, 36, 64, 134, 260, 512, 988]
    assert all(start % 14 == 0 and seen == start + 8 for start, seen in laps.items())
    assert benchmark.schedule(1000, 8, None).numbers == list(range(988))


def test_behind_a_million_the_ring_and_the_lap_stand_where_they_stood(benchmark: ModuleType) -> None:
    plan = benchmark.schedule(50, 8, 16)
    gap = next(place for place, number in enumerate(plan.numbers) if number != place)
    jump = plan.numbers[gap] - gap
    assert jump >= 1_000_000
    assert jump % 16 == jump % 14 == 0
    start = max(plan.laps)
    assert start >= plan.numbers[gap] + 16  # nothing in the window is from before
    assert plan.numbers[-8:] == list(range(start, start + 8))
    assert plan.views[-8:] == list(range(8))


def test_streams_are_followed_with_and_without_window(
    benchmark: ModuleType, clip: Clip, backbone: Backbone, heads: GeometryHeads, tmp_path: Path
) -> None:
    modes = {"all frames": None, "window": 3}
    found = {mode: benchmark.follow(backbone, heads, [clip, clip], 20, window) for mode, window in modes.items()}
    *near, far = found["window"]
    assert list(found["all frames"]) == near == [16]
    assert far > 1_000_000
    for laps in found.values():
        for values in laps.values():
            assert list(values) == list(benchmark.MEASURES)
            assert all(value.shape == (2,) and np.isfinite(value).all() for value in values.values())
            for value in values.values():  # the same clip twice; a row's place may change its last bits
                assert value[0] == pytest.approx(value[1], rel=1e-3)
    benchmark.draw(tmp_path / "picture.png", found)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_stream_that_is_put_forward_tells_the_time(benchmark: ModuleType, clip: Clip, backbone: Backbone) -> None:
    frames = clip.frames[None].float() / 255
    with (
        backbone.stream(1, SIDE, SIDE, window=2, sink=1) as stream,
        backbone.stream(1, SIDE, SIDE, window=2, sink=1) as told,
    ):
        stream(frames[:, :3])
        told(frames[:, :3])
        benchmark.put_forward(stream, 1_000_000)
        assert stream.frames_seen == 1_000_003
        later = stream(frames[:, 3:])
        torch.testing.assert_close(later.patches, told(frames[:, 3:], torch.tensor([[1_000_003.0]])).patches)


def test_what_is_not_finite_stops_the_measurement(
    benchmark: ModuleType, clip: Clip, backbone: Backbone, heads: GeometryHeads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads.camera, "forward", lambda *given: torch.full((1, 1, 9), torch.nan))
    with pytest.raises(ValueError, match="frame 0: what the stream says is not finite"):
        benchmark.follow(backbone, heads, [clip], 8, None)
