"""Videos by index: the right frames from anywhere, times that are the file's, and broken files that say so."""

from __future__ import annotations

import numpy as np
import pytest
from clips import make_video, numbers, turned_by_phone
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace.data_recipes import DataError
from interlace.data_recipes.video import Video

FILES = {
    "mp4": make_video(),
    "matroska": make_video(format="matroska"),
    "webm": make_video(format="webm", codec="libvpx-vp9"),
}


@settings(max_examples=40, deadline=None)
@given(format=st.sampled_from(sorted(FILES)), indices=st.lists(st.integers(0, 23), min_size=1, max_size=6).map(sorted))
def test_any_frames(format: str, indices: list[int]) -> None:
    assert numbers(Video(FILES[format], "a").read(indices)) == indices


@pytest.mark.parametrize("format", FILES)
def test_all_frames_and_times(format: str) -> None:
    video = Video(FILES[format], "a")
    frames = video.read()
    assert frames.shape == (24, 48, 64, 3)
    assert frames.dtype == np.uint8
    assert numbers(frames) == list(range(24))
    np.testing.assert_allclose(video.times, np.arange(24) / 12, atol=1e-3)


def test_varying_frame_rate() -> None:
    stamps = [0, 1, 2, 10, 11, 30]
    np.testing.assert_allclose(Video(make_video(6, stamps=stamps), "a").times, np.array(stamps) / 12, atol=1e-3)


def test_seeking_does_not_decode_what_comes_before() -> None:
    video = Video(FILES["mp4"], "a")
    assert next(iter(video._decoded(20)))[0] == 16


def test_phones_turn() -> None:
    plain, turned = Video(FILES["mp4"], "a"), Video(turned_by_phone(FILES["mp4"]), "a")
    assert turned.read([3]).shape == (1, 64, 48, 3)
    np.testing.assert_array_equal(turned.read([3])[0], np.rot90(plain.read([3])[0], -1))


@pytest.mark.parametrize("keep", [0, 10, 500, len(FILES["mp4"]) - 100])
def test_truncated_mp4(keep: int) -> None:
    with pytest.raises(DataError, match=r"^day/a\.mp4: (broken video|no video|a video without)"):
        Video(FILES["mp4"][:keep], "day/a.mp4").read()


def test_damaged_frames() -> None:
    data = FILES["mp4"]
    at = data.index(b"mdat") + 800
    with pytest.raises(DataError, match=r"^a: broken video"):
        Video(data[:at] + bytes(200) + data[at + 200 :], "a").read()


def test_no_video() -> None:
    with pytest.raises(DataError, match=r"^a: broken video"):
        Video(b"no video at all" * 99, "a")
