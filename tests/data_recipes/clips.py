"""Small video files for tests: frame t is of grey level 20 + 6 * t."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np


def make_video(
    count: int = 24,
    *,
    fps: int = 12,
    size: tuple[int, int] = (48, 64),
    format: str = "mp4",
    codec: str = "libx264",
    stamps: list[int] | None = None,
) -> bytes:
    """A file with B-frames and a key frame every 8. ``stamps``: each frame's time in 1 / ``fps``, if not 0, 1, 2 ..."""
    stream, (height, width) = io.BytesIO(), size
    with av.open(stream, "w", format=format) as container:
        video = container.add_stream(codec, rate=fps)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"g": "8", "bf": "2", "crf": "4"}
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 20 + 6 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = (number if stamps is None else stamps[number]), Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return stream.getvalue()


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames of such a video these are."""
    return [round((float(frame.mean()) - 20) / 6) for frame in frames]


def turned_by_phone(video: bytes) -> bytes:
    """The file with "show me turned a quarter clockwise" in its track header, as phones held upright write."""
    unit = (1 << 16).to_bytes(4, "big")
    none, minus = bytes(4), ((1 << 32) - (1 << 16)).to_bytes(4, "big")
    tail = none + none + (1 << 30).to_bytes(4, "big")
    straight = unit + none + none + none + unit + none + tail
    at = video.index(straight, video.index(b"tkhd"))
    return video[:at] + none + unit + none + minus + none + none + tail + video[at + len(straight) :]
