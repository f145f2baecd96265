"""The page about data: it holds what it promises, and its reprojection notices wrong geometry."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interlace.data_recipes.inspect import _colour, inspect, throw
from interlace.data_recipes.media import DataError
from interlace.data_recipes.sample import Sample
from interlace.data_recipes.shards import ShardReader


def test_a_page_of_rooms_stands_alone(demo: Path, tmp_path: Path) -> None:
    page = inspect(demo / "rooms_train", tmp_path / "deep" / "page.html")
    text = page.read_text()
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)", text)  # nothing is fetched
    assert "<script" not in text
    reader = ShardReader(demo / "rooms_train")
    sample = reader.read(0)
    assert sample.key in text
    last = [text_ for text_ in sample.texts if text_.frame == len(sample.frames) - 1]
    assert last[0].prompt in text
    assert last[0].answer in text
    for words in ("thrown into the last", "depth 5%, 50%, 95%", "labels: floor "):
        assert words in text
    # Three samples: frames, depth, one path and three pictures each; and the charts.
    assert text.count("<h3>") == 3
    assert text.count("data:image/png") == 3 * (4 + 4 + 3)


@pytest.mark.parametrize("name", ["photographs_held_out", "clips_held_out", "motorcycle"])
def test_every_kind_of_dataset_has_a_page(name: str, demo: Path, tmp_path: Path) -> None:
    text = inspect(demo / name, tmp_path / "page.html").read_text()
    assert ShardReader(demo / name).read(0).key in text


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        inspect(tmp_path, tmp_path / "page.html")


def test_broken_samples_are_listed_and_left_out(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo / "photographs_held_out", tmp_path / "photographs")
    count = len(ShardReader(tmp_path / "photographs"))
    for shard in (tmp_path / "photographs").glob("*.mds"):
        shard.write_bytes(shard.read_bytes().replace(b"\xff\xd8\xff", bytes(3), 1))  # where the first picture begins
    text = inspect(tmp_path / "photographs", tmp_path / "page.html").read_text()
    assert "broken, left out" in text
    assert "not an image that Pillow knows" in text
    assert f"{count - text.count('broken, left out')} samples</td>" in text
    for shard in (tmp_path / "photographs").glob("*.mds"):
        shard.write_bytes(shard.read_bytes().replace(b"\xff\xd8\xff", bytes(3)))
    with pytest.raises(DataError, match=rf"none of {count} samples can be read: "):
        inspect(tmp_path / "photographs", tmp_path / "page.html")


def _flat_world() -> Sample:
    """A wall 2 m away with a bright square, seen twice; the second camera stands 0.5 m to the right."""
    frames = np.full((2, 32, 32, 3), 40, np.uint8)
    frames[0, 8:16, 12:20] = 200
    frames[1, 8:16, 4:12] = 200  # 0.5 m at 2 m with a focal length of 32 px: 8 px to the left
    K = np.tile(np.array([[32, 0, 16], [0, 32, 16], [0, 0, 1]], np.float32), (2, 1, 1))
    c2w = np.tile(np.eye(4), (2, 1, 1))
    c2w[1, 0, 3] = 0.5
    depth = np.full((2, 32, 32), 2.0, np.float32)
    return Sample(key="k", source="s", frames=frames, times=np.arange(2.0), depth=depth, K=K, c2w=c2w)


def test_thrown_points_land_where_they_are_seen() -> None:
    thrown = throw(_flat_world(), 0, 1)
    assert np.array_equal(thrown.image[:, :24], _flat_world().frames[1][:, :24])
    assert not thrown.image[:, 24:].any()  # the first camera did not see that far
    assert (thrown.landed, thrown.agree, thrown.error) == (0.75, 1.0, 0.0)


def test_thrown_points_are_pixel_centres() -> None:
    """From half the distance everything is twice as far from the middle: the centre 17.5 goes to 16 + 2 * 1.5."""
    sample = _flat_world()
    assert sample.c2w is not None
    sample.c2w[1, :3, 3] = (0, 0, 1)
    sample.frames[0] = 0
    sample.frames[0, 16, 17] = 255
    assert np.argwhere(throw(sample, 0, 1).image[..., 0]).tolist() == [[17, 19]]


def test_a_wrong_pose_shows() -> None:
    sample = _flat_world()
    assert sample.c2w is not None
    wrong = replace(sample, c2w=np.linalg.inv(sample.c2w))  # world-to-camera, the usual mistake
    assert not np.array_equal(throw(wrong, 0, 1).image[:, :24], sample.frames[1][:, :24])
    assert sample.depth is not None
    deep = replace(sample, depth=sample.depth * np.array([1, 1.2], np.float32)[:, None, None])
    assert throw(deep, 0, 1).agree == 0


def test_the_nearest_point_hides_the_others() -> None:
    sample = _flat_world()
    assert sample.depth is not None
    sample.depth[0, :, 16:] = 1.0  # moves 16 px to the left, before what moves 8 px
    thrown = throw(sample, 0, 1)
    assert np.array_equal(thrown.image[20, :8], sample.frames[0][20, 16:24])
    sample.frames[0, :, 16:] = 99
    assert (throw(sample, 0, 1).image[:, :16] == 99).all()


def test_invalid_depth_throws_nothing() -> None:
    sample = _flat_world()
    assert sample.depth is not None
    sample.depth[0] = 0
    thrown = throw(sample, 0, 1)
    assert not thrown.image.any()
    assert (thrown.landed, thrown.agree) == (0.0, 0.0)
    assert np.isnan(thrown.error)


def test_near_is_blue_and_far_is_red_as_in_a_run_s_pictures() -> None:
    near, far, unknown = _colour(np.array([[0.1, 0.95, 0.5]]), np.array([[True, True, False]]))[0].astype(int)
    assert near[2] > 2 * near[0]
    assert far[0] > 2 * far[2]
    assert not unknown.any()
