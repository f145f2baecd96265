"""Videos by index: the right frames from anywhere, times that are the file's, and broken files that say so."""

from __future__ import annotations

import io
import random

import av
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


def test_frames_that_the_decoder_calls_damaged_are_refused() -> None:
    """FFmpeg hands them out all the same, filled with something near."""
    rng, found = random.Random(0), 0
    whole = make_noise()
    start = whole.index(b"mdat")
    end = start - 4 + int.from_bytes(whole[start - 4 : start], "big")
    for _ in range(20):
        at = rng.randrange(start + 700, end - 3)
        data = whole[:at] + rng.randbytes(3) + whole[at + 3 :]
        try:
            with av.open(io.BytesIO(data)) as container:
                damaged = [index for index, frame in enumerate(container.decode(video=0)) if frame.is_corrupt]
        except av.FFmpegError:
            continue
        if damaged:
            found += 1
            told = rf"^a: broken video \(frame {damaged[0]}, at {damaged[0] / 12:.2f} s, is damaged\)$"
            with pytest.raises(DataError, match=told):
                Video(data, "a").read()
            assert damaged[0] == 0 or len(Video(data, "a").read(range(damaged[0]))) == damaged[0]
    assert found


def make_noise() -> bytes:
    """24 frames in which every byte says something, without B-frames."""
    stream, images = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (24, 96, 128, 3), dtype=np.uint8)
    with av.open(stream, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=12)
        video.width, video.height, video.pix_fmt, video.options = 128, 96, "yuv420p", {"g": "8", "bf": "0"}
        for image in images:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
    return stream.getvalue()


def test_no_video() -> None:
    with pytest.raises(DataError, match=r"^a: broken video"):
        Video(b"no video at all" * 99, "a")
