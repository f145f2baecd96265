"""Photographs, clips, the stereo pair, the encoder and its clusters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from interlace.data_recipes.worlds import clusters, encoder, real
from interlace.data_recipes.worlds.assets import MissingPackage, package_folder, photographs


def test_the_stereo_pair_agrees_with_its_depth() -> None:
    """Left points, carried by depth and cameras into the right picture, find their colour and their depth there."""
    sample = real.motorcycle_sample(128, "motorcycle")
    assert sample.depth is not None
    assert sample.K is not None
    assert sample.c2w is not None
    height, width = sample.depth.shape[1:]
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(sample.K[0]).T
    points = rays * sample.depth[0][..., None] - sample.c2w[1][:3, 3]
    flat = points @ sample.K[1].T
    valid = sample.depth[0] > 0
    place = np.where(valid[..., None], flat[..., :2] / np.maximum(flat[..., 2:], 1e-6), -1)
    inside = valid & (place >= 0).all(-1) & (place[..., 0] < width) & (place[..., 1] < height)
    across, down = place[inside].astype(int).T
    left, right = sample.frames.astype(int)
    moved = np.abs(left[inside] - right[down, across]).mean(-1)
    assert np.median(moved) < 5
    assert np.median(np.abs(left - right).mean(-1)) > 15  # the pictures differ without the depth
    other = sample.depth[1][down, across]
    agree = np.abs(other - points[inside][:, 2]) < 0.03 * points[inside][:, 2]
    assert agree[other > 0].mean() > 0.9
    assert 2.0 < sample.depth[valid[None].repeat(2, 0) & (sample.depth > 0)].min() < sample.depth.max() < 5.1


def test_cuts_are_found() -> None:
    frames = np.zeros((10, 16, 16, 3), np.uint8)
    frames[4:] = 200
    frames[7:] = 100
    assert real.shots(frames) == [(0, 4), (4, 7), (7, 10)]


def test_windows_cross_no_cut() -> None:
    video = next(video for video in real.video_files() if video.name == "bikes")
    samples = real.clip_samples(video, 32, 8, 1, 0, "clips_train")
    assert len(samples) > 40
    for sample in samples:
        assert sample.frames.shape == (8, 32, 32, 3)
        assert np.allclose(np.diff(sample.times), 2 / 25)
        steps = np.abs(np.diff(sample.frames.astype(int), axis=0)).mean((1, 2, 3))
        assert steps.max() < 45


def test_a_whole_video_file_is_on_one_side() -> None:
    sides = {video.name: video.held_out for video in real.video_files()}
    assert sides == {"bikes": False, "bigbuckbunny": False, "carphone_pristine": True}


def test_crops_come_from_the_photograph_alone() -> None:
    photograph = next(photograph for photograph in photographs() if photograph.name == "coffee")
    first, again = (real.photograph_samples(photograph, 24, 2, 0, "photographs_train") for _ in range(2))
    assert [sample.key for sample in first] == [sample.key for sample in again]
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].frames, first[1].frames)
    assert photograph.digest[:8] in first[0].key


@pytest.fixture
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(("file", "classes"), [("chelsea.png", {281, 282, 285}), ("coffee.png", {967})])
def test_the_encoder_is_really_pretrained(file: str, classes: set[int]) -> None:
    """A tabby cat and an espresso, by ImageNet's numbers."""
    import torch

    with Image.open(package_folder("skimage") / "data" / file) as image:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.convert("RGB").crop((left, top, left + side, top + side)).resize((224, 224))
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        logits = encoder.load_encoder()((pixels - 127) / 128)
    assert int(logits.argmax()) in classes


@pytest.mark.usefixtures("_one_thread")
def test_features_have_length_one_and_do_not_depend_on_the_batch() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 40, 40, 3), np.uint8)
    together = encoder.encode(frames)
    assert together.shape == (3, encoder.FEATURES)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(encoder.encode(frames[1:2])[0], together[1], atol=1e-5)


def test_a_missing_package_is_named() -> None:
    with pytest.raises(MissingPackage, match=r"need the package no_such_package: pip install 'interlace\[demo\]'"):
        package_folder("no_such_package")


def test_nearest_centres() -> None:
    rng = np.random.default_rng(1)
    centres, feature = rng.normal(size=(30, 8)), rng.normal(size=8)
    expected = np.argsort([np.linalg.norm(feature - centre) for centre in centres])[: clusters.POSITIVES]
    assert clusters.nearest(feature, centres).tolist() == expected.tolist()


def test_motion_features_know_the_order() -> None:
    features = np.abs(np.random.default_rng(2).normal(size=(4, 1280))) * [[1], [2], [3], [4]]
    motion = clusters.motion_feature(features)
    assert motion.shape == (4 * 1280,)
    assert np.isclose(np.linalg.norm(motion), 1)
    # Every frame weighs the same: each was brought to length 1 before they were joined.
    assert np.allclose(np.linalg.norm(motion.reshape(4, -1), axis=1), 0.5)
    assert np.allclose(clusters.motion_feature(features[::-1]).reshape(4, -1), motion.reshape(4, -1)[::-1])
    assert np.isclose(np.linalg.norm(clusters.object_feature(features)), 1)


def test_images_have_no_motion() -> None:
    rng = np.random.default_rng(3)
    clips = [rng.random((4, 1280)).astype(np.float32) for _ in range(24)]
    banks = clusters.fit_banks([*clips, rng.random((1, 1280)).astype(np.float32)], 16, 12, 0)
    assert {name: centres.shape for name, centres in banks.items()} == {"object": (16, 1280), "motion": (12, 5120)}
    assert set(clusters.positives(clips[0], banks)) == {"object", "motion"}
    assert set(clusters.positives(clips[0][:1], banks)) == {"object"}


def test_banks_are_read_as_written(tmp_path: Path) -> None:
    banks = {"object": np.ones((2, 1280), np.float32), "motion": np.zeros((3, 5120), np.float32)}
    clusters.save_banks(tmp_path / "banks.npz", banks)
    read = clusters.load_banks(tmp_path / "banks.npz")
    assert all(np.array_equal(read[name], banks[name]) for name in banks)
    assert [file.name for file in tmp_path.iterdir()] == ["banks.npz"]


def test_encoded_frames_are_spread_over_the_clip() -> None:
    assert clusters.chosen_frames(8).tolist() == [1, 3, 5, 7]
    assert clusters.chosen_frames(4).tolist() == [0, 1, 2, 3]
    assert clusters.chosen_frames(1).tolist() == [0]
