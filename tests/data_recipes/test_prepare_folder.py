"""Anybody's folder becomes shards: what is good is in them, upright and shrunk; what is not is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clips import make_video, numbers, turned_by_phone
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from interlace.data_recipes import DataError, Sample, ShardReader
from interlace.data_recipes.prepare_folder import clip_indices, prepare_folder


def photograph(path: Path, size: tuple[int, int] = (16, 12), orientation: int = 1) -> None:
    """Left half red, right half blue, before any rotation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2, 0] = pixels[:, size[0] // 2 :, 2] = 250
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, quality=100, subsampling=0, exif=exif)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photograph(tmp_path / "mine" / "a.JPG")
    photograph(tmp_path / "mine" / "trips" / "b c.png")
    photograph(tmp_path / "mine" / "trips" / "upright.jpeg", orientation=6)
    (tmp_path / "mine" / "clip.mp4").write_bytes(make_video(24, fps=12))
    (tmp_path / "mine" / "notes.txt").write_text("no picture")
    return tmp_path / "mine"


def samples(to: Path) -> dict[str, Sample]:
    reader = ShardReader(to)
    return {sample.key: sample for sample in (reader.read(number) for number in range(len(reader)))}


def test_images_and_clips(folder: Path, tmp_path: Path) -> None:
    report = prepare_folder(folder, tmp_path / "shards", frames=4, fps=6)
    assert (report.images, report.videos, report.clips, report.broken, report.short) == (3, 1, 3, {}, {})
    found = samples(tmp_path / "shards")
    assert set(found) == {
        *("a.JPG", "trips/b c.png", "trips/upright.jpeg"),
        *("clip.mp4@0.000s", "clip.mp4@0.667s", "clip.mp4@1.333s"),
    }
    clip = found["clip.mp4@0.667s"]
    assert numbers(clip.frames) == [8, 10, 12, 14]
    np.testing.assert_allclose(clip.times, np.arange(4) / 6, atol=1e-3)
    assert found["a.JPG"].frames.shape == (1, 12, 16, 3)
    manifest = ShardReader(tmp_path / "shards").manifest
    assert manifest["fields"] == ["frames"]
    assert (manifest["name"], manifest["fps"], manifest["frames"]) == ("shards", 6, 3 + 12)


SIDES = ["left", "right", "right", "left", "top", "top", "bottom", "bottom"]  # where the red half belongs


@pytest.mark.parametrize(("orientation", "red"), list(enumerate(SIDES, 1)))
def test_photographs_are_turned_upright(tmp_path: Path, orientation: int, red: str) -> None:
    photograph(tmp_path / "mine" / "a.jpg", orientation=orientation)
    prepare_folder(tmp_path / "mine", tmp_path / "shards")
    picture = samples(tmp_path / "shards")["a.jpg"].frames[0]
    height, width = picture.shape[:2]
    assert (height, width) == ((12, 16) if orientation < 5 else (16, 12))
    side = {"left": picture[:, :4], "right": picture[:, -4:], "top": picture[:4], "bottom": picture[-4:]}[red]
    assert side[..., 0].mean() > 200 > 50 > side[..., 2].mean()


def test_videos_are_turned_upright(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "phone.mp4").write_bytes(turned_by_phone(make_video(size=(48, 64))))
    prepare_folder(tmp_path / "mine", tmp_path / "shards", frames=4, fps=12)
    assert {sample.frames.shape for sample in samples(tmp_path / "shards").values()} == {(4, 64, 48, 3)}


def test_large_pictures_shrink_and_small_ones_stay(tmp_path: Path) -> None:
    photograph(tmp_path / "mine" / "large.jpg", (301, 90))
    photograph(tmp_path / "mine" / "small.jpg", (20, 60))
    prepare_folder(tmp_path / "mine", tmp_path / "shards", short_side=30)
    found = samples(tmp_path / "shards")
    assert found["large.jpg"].frames.shape == (1, 30, 100, 3)
    assert found["small.jpg"].frames.shape == (1, 60, 20, 3)


def test_broken_files_are_listed_and_harm_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "cut.jpg").write_bytes((folder / "a.JPG").read_bytes()[:400])
    (folder / "empty.png").write_bytes(b"")
    (folder / "words.jpg").write_text("not a picture")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "depth.png")
    video = (folder / "clip.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(video[:-200])
    (folder / "blink.mp4").write_bytes(make_video(3))
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    report = prepare_folder(folder, tmp_path / "shards", frames=4, fps=6)
    assert set(report.broken) == {"cut.jpg", "empty.png", "words.jpg", "depth.png", "cut.mp4"}
    assert report.broken["words.jpg"] == "not an image that Pillow knows"
    assert report.broken["cut.jpg"].startswith("broken image")
    assert report.broken["cut.mp4"].startswith("broken video")
    assert set(report.short) == {"blink.mp4"}
    assert (report.images, report.clips) == (3, 3)
    assert len(samples(tmp_path / "shards")) == 6
    lines = str(report).splitlines()
    assert lines[0].endswith("shards: 3 images, 3 clips of 1 videos")
    assert sum(line.startswith("broken: ") for line in lines) == 5
    assert any(line.startswith("too short: blink.mp4: 0.17 s, 3 frames; a clip takes 0.67 s") for line in lines)


def test_a_video_that_breaks_off_gives_the_clips_before(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    video = make_video(24, fps=12)
    frames, index = video.index(b"mdat"), video.index(b"moov")
    late = frames + (index - frames) * 9 // 10
    (tmp_path / "mine" / "a.mp4").write_bytes(video[:late] + b"\xff" * 40 + video[late + 40 :])
    report = prepare_folder(tmp_path / "mine", tmp_path / "shards", frames=4, fps=12)
    assert 0 < report.clips < 6
    assert f"{report.clips} of 6 clips were used" in report.broken["a.mp4"]
    assert len(samples(tmp_path / "shards")) == report.clips


def test_progress_is_told(folder: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    prepare_folder(folder, tmp_path / "shards", progress=lambda done, files: told.append((done, files)))
    assert told == [(done, 4) for done in range(5)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "mine: no such folder"),
        ({"a.txt": b"x"}, "mine: no jpg, jpeg, png, mp4 in it"),
        ({"a.jpg": b"x", "b.jpg": b"x"}, r"mine: none of its 2 files can be used; [ab]\.jpg: not an image"),
    ],
)
def test_nothing_to_use(tmp_path: Path, files: dict[str, bytes] | None, message: str) -> None:
    if files is not None:
        (tmp_path / "mine").mkdir()
        for name, data in files.items():
            (tmp_path / "mine" / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        prepare_folder(tmp_path / "mine", tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_an_existing_dataset_is_not_touched(folder: Path, tmp_path: Path) -> None:
    prepare_folder(folder, tmp_path / "shards")
    before = (tmp_path / "shards" / "dataset.json").read_bytes()
    with pytest.raises(DataError, match="already there and not empty"):
        prepare_folder(folder, tmp_path / "shards")
    assert (tmp_path / "shards" / "dataset.json").read_bytes() == before


@given(gaps=st.lists(st.floats(0.01, 0.5), min_size=0, max_size=60), frames=st.integers(1, 8), fps=st.floats(1, 40))
def test_clips_follow_the_clock(gaps: list[float], frames: int, fps: float) -> None:
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    clips = clip_indices(times, frames, fps)
    used = np.concatenate([np.zeros(0, int), *clips])
    assert all(len(clip) == frames for clip in clips)
    assert (np.diff(used) > 0).all()
    # independently: the nearest frame of every tick of the clock, earlier ones first on a tie
    ticks = np.arange(int(times[-1] * fps + 1e-6) + 1) / fps
    nearest = sorted({int(np.argmin(np.abs(times - tick))) for tick in ticks})
    assert len(nearest) - frames < len(used) <= len(nearest)
    assert used.tolist() == nearest[: len(used)]
