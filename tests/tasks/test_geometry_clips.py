from __future__ import annotations

import copy

import numpy as np
import pytest
from geometry_scenes import plane_scene

from interlace.data_recipes import DataError
from interlace.tasks.geometry import GeometryOptions
from interlace.tasks.geometry.clips import check_clip, choose_clip, jitter_colours, prepare_clip, resample_depth

#: Ways to bring a clip to another size: grown, shrunk, another shape, zoomed, mirrored.
WAYS = [
    {"size": (24, 32)},
    {"size": (24, 32), "flip": 1.0},
    {"size": (12, 16), "flip": 1.0},
    {"size": (40, 40)},
    {"size": (16, 16), "zoom": 1.6, "flip": 1.0},
    {"size": (24, 32), "zoom": 1.4},
]


def options(**fields: object) -> GeometryOptions:
    return GeometryOptions(**{"size": (24, 32), "frames": 4, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_depth_and_cameras_stay_those_of_the_plane(way: dict[str, object]) -> None:
    """After crop, resize and mirror the clip is exactly what its new cameras see of the plane."""
    sample, plane = plane_scene(0)
    clip = prepare_clip(sample, options(**way), np.random.default_rng(1))
    points = clip.targets().points()[0].double().numpy() * clip.scale  # in the first camera's frame
    if way.get("flip"):
        points[..., 0] *= -1  # what was mirrored, mirrored back
    world = points @ sample.c2w[0, :3, :3].T + sample.c2w[0, :3, 3]
    np.testing.assert_allclose(world @ plane.normal, plane.offset, atol=2e-5)
    height, width = clip.depth.shape[-2:]
    for t in range(4):
        camera = clip.camera[t].double().numpy()
        camera[:3, 3] *= clip.scale
        if way.get("flip"):
            camera = np.diag([-1.0, 1, 1, 1]) @ camera  # a camera with a mirror
        want = plane.depth(clip.intrinsics[t].double().numpy(), sample.c2w[0] @ camera, height, width)
        np.testing.assert_allclose(clip.depth[t].numpy() * clip.scale, want, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_one_frame_reprojects_into_another(way: dict[str, object]) -> None:
    """A pixel of frame 0, thrown into frame 3 by depth and cameras, finds its own colour there."""
    sample, _ = plane_scene(0, height=48, width=64)
    clip = prepare_clip(sample, options(**way), np.random.default_rng(1))
    points = clip.targets().points()[0, 0].double().numpy().reshape(-1, 3)
    seen = points - clip.camera[3, :3, 3].double().numpy()
    pixel = seen @ clip.camera[3, :3, :3].double().numpy() @ clip.intrinsics[3].double().numpy().T
    u, v = pixel[:, 0] / pixel[:, 2] - 0.5, pixel[:, 1] / pixel[:, 2] - 0.5
    height, width = clip.depth.shape[-2:]
    inside = (u > 0) & (u < width - 1) & (v > 0) & (v < height - 1)
    assert inside.mean() > 0.3
    frames = clip.frames.double().numpy()

    def error(u: np.ndarray) -> float:
        x, y = np.floor(u[inside]).astype(int), np.floor(v[inside]).astype(int)
        a, b = u[inside] - x, v[inside] - y
        image = frames[3]
        top = (1 - a) * image[:, y, x] + a * image[:, y, np.minimum(x + 1, width - 1)]
        low = (1 - a) * image[:, y + 1, x] + a * image[:, y + 1, np.minimum(x + 1, width - 1)]
        return float(np.median(np.abs((1 - b) * top + b * low - frames[0].reshape(3, -1)[:, inside])))

    assert error(u) < 1.5
    assert error(np.clip(u + 1, 0, width - 1)) > 1.5 * error(u)  # a pixel beside it is seen to be wrong


def test_mirroring_twice_changes_nothing() -> None:
    sample, _ = plane_scene(2)
    sample.K[:, 0, 2], sample.K[:, 1, 2] = 16, 12
    other = copy.deepcopy(sample)
    mirrored = prepare_clip(sample, options(flip=1.0), np.random.default_rng(0))
    other.frames = mirrored.frames.numpy().transpose(0, 2, 3, 1)
    other.depth, other.K, other.c2w = (
        each.double().numpy() for each in (mirrored.depth, mirrored.intrinsics, mirrored.camera)
    )
    twice, plain = prepare_clip(other, options(flip=1.0), np.random.default_rng(0)), prepare_clip(sample, options())
    assert np.array_equal(twice.frames, plain.frames)
    np.testing.assert_allclose(twice.camera, plain.camera, atol=1e-6)
    np.testing.assert_allclose(twice.intrinsics, plain.intrinsics, rtol=1e-6)
    np.testing.assert_allclose(twice.depth, plain.depth, rtol=1e-5)


def test_the_crop_has_the_principal_point_in_its_middle() -> None:
    sample, _ = plane_scene(3)
    sample.K[:, 0, 2], sample.K[:, 1, 2] = 12, 13
    clip = prepare_clip(sample, options(size=(16, 16)))
    np.testing.assert_allclose(clip.intrinsics[:, :2, 2].numpy(), 8, atol=0.5)
    whole = prepare_clip(plane_scene(3)[0], options())
    assert abs(float(whole.intrinsics[0, 0, 2]) - 16) <= 0.5


def test_no_depth_is_made_between_two_surfaces_or_from_holes() -> None:
    depth = np.full((1, 20, 20), 2.0)
    depth[:, :, 7:] = 9.0
    depth[:, 5:9, :4] = 0
    for size in ((13, 13), (33, 47), (20, 20)):
        out = resample_depth(depth, size, (0, 0, 20, 20), False)
        assert out.shape == (1, *size)
        assert set(np.unique(np.round(out, 9))) == {0.0, 2.0, 9.0}
        assert (out == 0).mean() == pytest.approx((depth == 0).mean(), abs=0.02)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 0.0])
def test_invalid_depth_and_sky_are_not_supervised(bad: float) -> None:
    sample, _ = plane_scene(5)
    sample.depth[1, 3:5, 2:9] = bad
    sample.sky[2, :4] = True
    clip = prepare_clip(sample, options())
    valid = clip.depth.numpy() > 0
    want = np.ones_like(valid)
    want[1, 3:5, 2:9] = False
    want[2, :4] = False
    left, top = 32 - 30, 0  # the box around a principal point of (17, 11.5)
    assert clip.scaled
    assert np.isfinite(clip.depth.numpy()).all()
    assert valid.mean() == pytest.approx(want[:, top:, left:].mean(), abs=0.03)
    assert not valid[2, :2].any()


def test_a_clip_without_depth_keeps_its_units() -> None:
    sample, _ = plane_scene(6)
    sample.depth[:] = 0
    clip = prepare_clip(sample, options())
    assert (clip.scaled, clip.scale) == (False, 1.0)
    relative = np.linalg.inv(sample.c2w[0]) @ sample.c2w
    np.testing.assert_allclose(clip.camera.numpy(), relative, atol=1e-6)
    assert not clip.targets().valid.any()


def test_clips_are_equally_spaced_inside_the_sample() -> None:
    rng, wanted = np.random.default_rng(0), options(frames=4, stride=(2, 5))
    seen = set()
    for _ in range(300):
        chosen = choose_clip(12, wanted, rng)
        gaps = np.diff(chosen)
        assert (gaps == gaps[0]).all()
        assert 0 <= chosen[0] <= chosen[-1] < 12
        seen.add((int(chosen[0]), int(gaps[0])))
    assert seen == {(start, stride) for stride in (2, 3) for start in range(12 - 3 * stride)}
    assert choose_clip(12, wanted, None).tolist() == [0, 2, 4, 6]
    assert choose_clip(100, wanted, None).tolist() == [0, 3, 6, 9]
    assert choose_clip(4, wanted, rng).tolist() == [0, 1, 2, 3]
    assert choose_clip(9, options(frames=1), rng).shape == (1,)


def test_short_clips_repeat_frames_in_order() -> None:
    chosen = choose_clip(2, options(frames=4), np.random.default_rng(0))
    assert chosen.tolist() == [0, 0, 1, 1]
    clip = prepare_clip(plane_scene(7, count=2)[0], options(), np.random.default_rng(0))
    assert clip.frames.shape == (4, 3, 24, 32)


def test_the_same_generator_gives_the_same_clip() -> None:
    sample, _ = plane_scene(8, count=9)
    wanted = options(size=(16, 16), flip=0.5, zoom=1.5, colour_jitter=0.3, stride=(1, 2))
    draw = lambda seed: prepare_clip(sample, wanted, np.random.default_rng(seed))  # noqa: E731
    assert all(
        np.array_equal(getattr(draw(3), name), getattr(draw(3), name))
        for name in ("frames", "depth", "intrinsics", "camera")
    )
    assert len({draw(seed).frames.numpy().tobytes() for seed in range(8)}) == 8


def test_colour_jitter_changes_colours_only() -> None:
    sample, _ = plane_scene(9)
    plain = prepare_clip(sample, options(), np.random.default_rng(0))
    changed = prepare_clip(sample, options(colour_jitter=0.4), np.random.default_rng(0))
    assert np.array_equal(plain.depth, changed.depth)
    assert not np.array_equal(plain.frames, changed.frames)
    grey = np.full((2, 3, 4, 4), 100, np.uint8)
    assert {int(jitter_colours(grey, 0.2, np.random.default_rng(s))[0, 0, 0, 0]) for s in range(50)} <= set(
        range(80, 121)
    )
    assert np.array_equal(jitter_colours(plain.frames.numpy(), 0.0, np.random.default_rng(0)), plain.frames)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"depth": None}, "needs depth and cameras"),
        ({"c2w": None}, "needs depth and cameras"),
        ({"depth": np.ones((4, 3, 3))}, "does not fit frames"),
        ({"c2w": np.full((4, 4, 4), np.inf)}, "not finite"),
        ({"c2w": np.full((4, 4, 4), np.nan)}, "not finite"),
        ({"c2w": np.tile(np.eye(4), (3, 1, 1))}, "are not of its 4 frames"),
        ({"c2w": np.zeros((4, 4, 4))}, "a camera is none"),
        ({"c2w": np.tile(np.diag([1.0, 1, -1, 1]), (4, 1, 1))}, "a camera is none"),  # a reflection
        ({"c2w": np.tile(np.diag([1.1, 1.1, 1.1, 1]), (4, 1, 1))}, "a camera is none"),  # with a scale
        ({"K": np.tile(np.array([[0, 0, 16.0], [0, 0, 12], [0, 0, 1]]), (4, 1, 1))}, "a camera is none"),
        ({"K": np.tile(np.array([[20, 0, 16.0], [0, -20, 12], [0, 0, 1]]), (4, 1, 1))}, "a camera is none"),
        ({"sky": np.zeros((4, 3, 3), bool)}, "does not fit frames"),
        ({"frames": np.zeros((0, 24, 32, 3), np.uint8)}, "does not fit frames"),
        (
            {"K": np.tile(np.diag([800.0, 800, 1]) + np.array([[0, 0, 320.0], [0, 0, 240], [0, 0, 0]]), (4, 1, 1))},
            "principal point",
        ),
    ],
)
def test_what_is_wrong_with_a_sample_is_said_with_its_key(change: dict[str, object], said: str) -> None:
    sample, _ = plane_scene(10)
    for name, value in change.items():
        setattr(sample, name, value)
    check_clip(plane_scene(10)[0], options())
    with pytest.raises(DataError, match=f"planes/000010.*{said}"):
        check_clip(sample, options())
    with pytest.raises(DataError, match=f"planes/000010.*{said}"):
        prepare_clip(sample, options())
