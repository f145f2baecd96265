from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from geometry_scenes import back_project, plane_scene
from scipy.spatial.transform import Rotation

from interlace.tasks.geometry import GeometryOptions
from interlace.tasks.geometry.clips import prepare_clip
from interlace.tasks.geometry.targets import (
    Targets,
    clip_scale,
    field_of_view,
    pixel_rays,
    quaternions,
    relative_to_first,
    resample_rays,
    rotation_matrices,
)

OPTIONS = GeometryOptions(size=(24, 32), frames=4)


def double(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array, np.float64))


def test_quaternions_are_scipys_with_positive_w() -> None:
    turns = [*Rotation.random(500, random_state=0).as_rotvec(), np.zeros(3)]
    turns += [np.pi * axis for axis in np.eye(3)]  # half turns, where w is 0
    turns += [np.pi * np.array([0.6, 0.8, 0.0]), np.array([1e-9, 0, 0]), np.array([3.1415, 0.01, 0])]
    rotations = Rotation.from_rotvec(np.stack(turns))
    got = quaternions(double(rotations.as_matrix())).numpy()
    want = rotations.as_quat()
    assert (got[:, 3] >= 0).all()
    same = np.sign((got * want).sum(-1, keepdims=True))
    np.testing.assert_allclose(got, same * want, atol=1e-12)
    settled = want[:, 3] > 1e-6
    np.testing.assert_allclose(got[settled], want[settled], atol=1e-12)


def test_rotation_matrices_are_scipys_at_any_length() -> None:
    quaternion = np.random.default_rng(0).normal(size=(50, 4)) * 7
    want = Rotation.from_quat(quaternion).as_matrix()
    np.testing.assert_allclose(rotation_matrices(double(quaternion)).numpy(), want, atol=1e-12)


@pytest.mark.parametrize("skew", [0.0, 0.7])
def test_points_on_rays_are_the_back_projection(skew: float) -> None:
    sample, _ = plane_scene(0, count=3, height=6, width=7, skew=skew)
    relative = relative_to_first(double(sample.c2w))
    yes = torch.tensor([True])
    targets = Targets(double(sample.depth)[None], double(sample.K)[None], relative[None], yes, yes)
    for t in range(3):
        want = back_project(sample.depth[t], sample.K[t], np.linalg.inv(sample.c2w[0]) @ sample.c2w[t])
        np.testing.assert_allclose(targets.points()[0, t].numpy(), want, atol=1e-12)


@pytest.mark.parametrize("grid", [(3, 4), (12, 16), (8, 8), (6, 14)])
def test_rays_of_any_camera_survive_another_grid(grid: tuple[int, int]) -> None:
    sample, _ = plane_scene(1, count=2, height=6, width=8)
    K, camera = double(sample.K), double(sample.c2w)
    full, other = pixel_rays(K, camera, (6, 8)), pixel_rays(K, camera, (6, 8), grid)
    assert other.shape == (2, *grid, 6)
    np.testing.assert_allclose(resample_rays(other, 6, 8).numpy(), full.numpy(), atol=1e-12)


def test_a_ray_map_of_one_cell_is_spread_over_the_frame() -> None:
    one = torch.arange(6.0).view(1, 1, 6)
    assert torch.equal(resample_rays(one, 3, 2), one.expand(3, 2, 6))


def test_scale_is_the_mean_distance_of_valid_points_from_the_first_camera() -> None:
    sample, _ = plane_scene(2, count=3, height=5, width=6)
    depth = sample.depth.copy()
    depth[0, :, :2] = 0
    depth[2] = 0
    distances = []
    for t in range(3):
        points = back_project(depth[t], sample.K[t], sample.c2w[t])
        distances += [np.linalg.norm(point - sample.c2w[0, :3, 3]) for point in points[depth[t] > 0]]
    got = clip_scale(double(depth), double(sample.K), double(sample.c2w))
    np.testing.assert_allclose(float(got), np.mean(distances), rtol=1e-12)


def test_a_normalised_clip_has_mean_distance_one() -> None:
    sample, _ = plane_scene(3)
    clip = prepare_clip(sample, OPTIONS)
    assert float(clip_scale(clip.depth, clip.intrinsics, clip.camera)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("change", ["moved", "scaled"])
def test_the_worlds_frame_and_unit_do_not_matter(change: str) -> None:
    sample, _ = plane_scene(4)
    other = copy.deepcopy(sample)
    factor = 1.0
    if change == "moved":
        motion = np.eye(4)
        motion[:3, :3] = Rotation.random(random_state=9).as_matrix()
        motion[:3, 3] = (5e5, -3e5, 100)  # as large as map coordinates
        other.c2w = motion @ sample.c2w
    else:
        factor = 37.5
        other.depth, other.metric = sample.depth * factor, False
        other.c2w[:, :3, 3] *= factor
    one, two = prepare_clip(sample, OPTIONS), prepare_clip(other, OPTIONS)
    torch.testing.assert_close(two.depth, one.depth, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(two.camera, one.camera, rtol=0, atol=1e-6)
    torch.testing.assert_close(two.targets().poses(), one.targets().poses(), rtol=0, atol=1e-6)
    torch.testing.assert_close(two.targets().rays(9, 7), one.targets().rays(9, 7), rtol=0, atol=1e-6)
    assert two.scale == pytest.approx(one.scale * factor, rel=1e-6)
    assert (one.metric, two.metric) == (True, change == "moved")


def test_poses_are_quaternion_translation_and_field_of_view() -> None:
    sample, _ = plane_scene(5)
    clip = prepare_clip(sample, OPTIONS)
    poses = clip.targets().poses()[0].numpy()
    np.testing.assert_allclose(poses[0, :7], [0, 0, 0, 1, 0, 0, 0], atol=1e-6)
    relative = np.linalg.inv(sample.c2w[0]) @ sample.c2w[3]
    np.testing.assert_allclose(poses[3, 4:7], relative[:3, 3] / clip.scale, atol=1e-6)
    np.testing.assert_allclose(Rotation.from_quat(poses[3, :4]).as_matrix(), relative[:3, :3], atol=1e-6)
    centred = torch.tensor([[20.0, 0, 16], [0, 30, 12], [0, 0, 1]])
    edge = torch.tensor([[0, 12, 1.0], [32, 12, 1], [16, 0, 1], [16, 24, 1]]) @ torch.linalg.inv(centred).T
    vertical = torch.arccos(torch.nn.functional.cosine_similarity(edge[2], edge[3], dim=0))
    horizontal = torch.arccos(torch.nn.functional.cosine_similarity(edge[0], edge[1], dim=0))
    torch.testing.assert_close(field_of_view(centred, (24, 32)), torch.stack((vertical, horizontal)))
