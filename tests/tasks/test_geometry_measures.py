from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from geometry_scenes import plane_scene
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from interlace.tasks.geometry import GeometryOptions
from interlace.tasks.geometry.clips import Clip, prepare_clip
from interlace.tasks.geometry.measures import (
    MEASURES,
    Guess,
    fit_blind,
    geometric_median,
    measure,
    rotation_degrees,
    weighted_median,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "cut3r_video_depth.npz"
OPTIONS = GeometryOptions(size=(24, 32), frames=4)


def a_clip(seed: int = 0, **change: object) -> Clip:
    sample, _ = plane_scene(seed)
    for name, value in change.items():
        setattr(sample, name, value)
    return prepare_clip(sample, OPTIONS)


def truth_of(clip: Clip) -> Guess:
    return Guess(np.where(clip.depth > 0, clip.depth, 1.0), clip.targets().poses()[0].numpy())


def test_depth_measures_are_cut3rs_with_median_alignment() -> None:
    """CUT3R's own numbers; it leaves out depths beyond 70 m and clips the aligned prediction there."""
    golden = np.load(GOLDEN)
    depth = torch.from_numpy(np.where(golden["gt"] < 70, golden["gt"], 0))
    count = len(depth)
    clip = Clip(
        frames=torch.zeros(count, 3, *depth.shape[1:], dtype=torch.uint8),
        depth=depth,
        intrinsics=torch.eye(3).repeat(count, 1, 1),
        camera=torch.eye(4).repeat(count, 1, 1),
        scale=1.0,
        scaled=True,
        metric=True,
    )
    guess = Guess(golden["pred"], np.zeros((count, 9)))
    assert measure("abs_rel", guess, clip) == pytest.approx(golden["median"][0], rel=1e-4)
    assert measure("delta_1.25", guess, clip) == pytest.approx(golden["median"][4], abs=1e-6)


@pytest.mark.parametrize("name", ["abs_rel", "delta_1.25"])
def test_depth_measures_do_not_see_scale_or_invalid_pixels(name: str) -> None:
    clip = a_clip()
    rng = np.random.default_rng(0)
    depth = clip.depth.numpy() * np.exp(0.3 * rng.normal(size=clip.depth.shape))
    poses = np.zeros((4, 9))
    value = measure(name, Guess(depth, poses), clip)
    assert measure(name, Guess(7.3 * depth, poses), clip) == pytest.approx(value, rel=1e-12)
    clip.depth[:, :5] = 0
    cut = measure(name, Guess(depth, poses), clip)
    depth[:, :5] = 1e6
    assert measure(name, Guess(depth, poses), clip) == cut != value


def test_the_truth_is_perfect() -> None:
    clip = a_clip(1)
    values = {name: measure(name, truth_of(clip), clip) for name in MEASURES}
    assert values == pytest.approx(
        {"abs_rel": 0, "delta_1.25": 1, "rotation_degrees": 0, "translation_error": 0}, abs=1e-6
    )


def test_rotation_degrees_are_scipys_angle() -> None:
    a, b = Rotation.random(200, random_state=0), Rotation.random(200, random_state=1)
    want = np.degrees((a.inv() * b).magnitude())
    got = rotation_degrees(3 * a.as_quat(), -b.as_quat())
    np.testing.assert_allclose(got, want, atol=1e-6)
    small = Rotation.from_rotvec([[1e-7, 0, 0], [0, math.pi, 0]]).as_quat()
    np.testing.assert_allclose(
        rotation_degrees(small, np.array([[0, 0, 0, 1.0]] * 2)), np.degrees([1e-7, math.pi]), rtol=1e-6
    )


def test_rotation_and_translation_of_a_known_guess() -> None:
    clip = a_clip(2)
    guess = truth_of(clip)
    guess.poses[1:, 4:7] += np.array([0.3, 0, 0.4])
    assert measure("translation_error", guess, clip) == pytest.approx(0.5, rel=1e-5)
    turned = Rotation.from_quat(guess.poses[1:, :4]) * Rotation.from_rotvec([0, math.radians(20), 0])
    guess.poses[1:, :4] = turned.as_quat()
    assert measure("rotation_degrees", guess, clip) == pytest.approx(20, abs=1e-4)
    guess.poses[0] = 99  # the first camera is the world: nothing to measure
    assert measure("rotation_degrees", guess, clip) == pytest.approx(20, abs=1e-4)


def test_measures_without_ground_truth_are_nan() -> None:
    blank = a_clip(3, depth=np.zeros((4, 24, 32)))
    guess = Guess(np.ones((4, 24, 32)), np.tile([0, 0, 0, 1.0, 0, 0, 0, 1, 1], (4, 1)))
    values = {name: measure(name, guess, blank) for name in MEASURES}
    assert [name for name, value in values.items() if math.isnan(value)] == [
        "abs_rel",
        "delta_1.25",
        "translation_error",
    ]
    assert math.isfinite(values["rotation_degrees"])
    sample, _ = plane_scene(3)
    photograph = prepare_clip(sample, GeometryOptions(size=(24, 32), frames=1))
    one = Guess(guess.depth[:1], guess.poses[:1])
    assert math.isnan(measure("rotation_degrees", one, photograph))
    assert math.isnan(measure("translation_error", one, photograph))
    assert math.isfinite(measure("abs_rel", one, photograph))


def test_weighted_median_has_the_least_relative_error() -> None:
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=(31, 5)))
    values[rng.random((31, 5)) < 0.2] = np.nan
    got = weighted_median(values, 1 / values)
    for column in range(5):
        v = values[:, column][~np.isnan(values[:, column])]
        costs = [np.abs(c / v - 1).sum() for c in v]
        assert np.abs(got[column] / v - 1).sum() == pytest.approx(min(costs), rel=1e-12)
    odd = rng.normal(size=(11, 4))
    np.testing.assert_array_equal(weighted_median(odd, np.ones_like(odd)), np.median(odd, 0))
    assert np.isnan(weighted_median(np.full((3, 1), np.nan), np.full((3, 1), np.nan))).all()


def test_geometric_median_has_the_least_sum_of_distances() -> None:
    points = np.random.default_rng(1).normal(size=(40, 4)) ** 3
    total = lambda centre: np.linalg.norm(points - centre, axis=-1).sum()  # noqa: E731
    best = minimize(
        total, points.mean(0), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 9000}
    )
    assert total(geometric_median(points)) <= best.fun + 1e-6
    np.testing.assert_allclose(geometric_median(np.ones((5, 3))), 1)


def test_blind_guesses_beat_other_constants() -> None:
    clips = [a_clip(seed) for seed in range(9)]
    blind = fit_blind(clips)

    def mean(name: str, guess: Guess) -> float:
        return float(np.mean([measure(name, guess, clip) for clip in clips]))

    still = np.tile([0, 0, 0, 1.0, 0, 0, 0, 1, 1], (4, 1))
    flat = Guess(np.ones((4, 24, 32)), still)
    everyone = Guess(
        np.mean([clip.depth.numpy() for clip in clips], 0), np.mean([truth_of(clip).poses for clip in clips], 0)
    )
    for other in (flat, everyone, *(truth_of(clip) for clip in clips)):
        for name in ("abs_rel", "rotation_degrees", "translation_error"):
            assert mean(name, blind.guesses[name]) <= mean(name, other) + 1e-9
    assert mean("delta_1.25", blind.guesses["delta_1.25"]) > mean("delta_1.25", flat)


def test_blind_guesses_are_per_pixel_and_per_frame() -> None:
    clips = [a_clip(seed) for seed in range(5)]
    for clip in clips:
        clip.depth[2, 3:6, 4:9] = 0  # no training clip knows these pixels
    blank = a_clip(3, depth=np.zeros((4, 24, 32)))
    blind = fit_blind([*clips, blank])
    stack = np.stack([clip.depth / clip.depth[clip.depth > 0].median() for clip in clips])
    column = np.sort(stack[:, 1, 7, 8])
    least = column[np.argmin([np.abs(each / column - 1).sum() for each in column])]
    for guess in blind.guesses.values():
        assert np.isclose(guess.depth[1, 7, 8], [column[2], least], rtol=1e-6).any()
        np.testing.assert_allclose(guess.depth[2, 4, 5], np.median(stack[stack > 0]), rtol=1e-6)
    translations = np.stack([clip.camera[3, :3, 3].numpy() for clip in clips])  # the blank clip's unit is unknown
    best = blind.guesses["translation_error"].poses[3, 4:7]
    assert np.isclose(best, [geometric_median(translations), np.zeros(3)], atol=1e-6).all(1).any()
    with pytest.raises(ValueError, match="no training sample has a valid depth"):
        fit_blind([blank])


def test_the_blind_camera_stays_or_moves_as_training_clips_do() -> None:
    """Cameras that all turn the same way are guessed so; cameras that turn any way are guessed to stay."""
    clips = [a_clip(11) for _ in range(3)]
    turned = fit_blind(clips).guesses
    assert [
        measure(name, turned[name], clips[0]) for name in ("rotation_degrees", "translation_error")
    ] == pytest.approx([0, 0], abs=1e-5)
    there_and_back = [clips[0], a_clip(11)]
    there_and_back[1].camera[:] = torch.linalg.inv(there_and_back[1].camera)
    stays = fit_blind(there_and_back).guesses["rotation_degrees"].poses
    assert rotation_degrees(stays[:, :4], np.array([0, 0, 0, 1.0])).max() < 0.1
