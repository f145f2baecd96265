"""Frames with the time at which each was taken: of a video, a folder of pictures or a camera."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from interlace.data_recipes.media import DataError, decode_image, read_bytes
from interlace.data_recipes.video import Video

PICTURES = (".jpg", ".jpeg", ".png")
#: Pictures a second in a folder, where neither the user nor the model says.
FOLDER_FPS = 10.0


class CameraStopped(DataError):
    """A camera that was open gives no more frames. Those before are whole."""


@dataclass(frozen=True)
class Footage:
    """``frames``: (seconds, [H, W, 3] uint8 RGB) in order, to be read once, all of ``height`` x ``width``.

    ``fps``: frames a second, roughly; single frames may be late or missing. ``count``: frames at most, None of a
    camera. ``left_out``: name -> why of a folder's pictures that are broken, as they are come upon. ``timed``: whether
    the frames have times of their own; else they are 1 / ``fps`` apart.
    """

    name: str
    fps: float
    count: int | None
    height: int
    width: int
    frames: Iterator[tuple[float, np.ndarray]]
    left_out: Mapping[str, str] = field(default_factory=dict)
    timed: bool = True


def open_footage(source: str, fps: float | None) -> Footage:
    """A video file, a folder of jpg and png pictures, or a camera: its number, or /dev/videoN.

    ``fps``: frames a second of a folder's pictures, which have no times of their own. A broken one is left out by name
    and its time stays empty. Raises :class:`DataError`, one line, for what is none of these, is broken or has no
    frames; the later frames of a broken video, and pictures of another size, raise as they come, and
    :class:`CameraStopped` where a camera fails or is unplugged.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path, fps or FOLDER_FPS)
    if is_camera(source):
        return _camera(f"/dev/video{source}" if source.isdecimal() else source)
    if not path.is_file():
        raise DataError(f"{source}: no such file; give a video, a folder of pictures, or a camera (0, or /dev/video0)")
    video = Video(path, source, threads=0)
    indexed = video.frames(range(len(video.times)))
    frames = ((float(video.times[index]), image) for index, image in indexed)
    return _opened(source, frame_rate(video.times, source), len(video.times), frames)


def is_camera(source: str) -> bool:
    """Whether a source is a camera's number or device."""
    return source.isdecimal() or source.startswith("/dev/video")


def frame_rate(times: np.ndarray, name: str) -> float:
    """Frames a second of ascending times [n] in seconds, by their median distance; 1 for a single frame.

    Raises :class:`DataError` that begins with ``name`` when time stands still.
    """
    if len(times) < 2:
        return 1.0
    distance = float(np.median(np.diff(times)))
    if not distance > 0:
        raise DataError(f"{name}: 0 frames a second (its time stamps stand still); write it again with a frame rate")
    return 1 / distance


def _opened(
    name: str,
    fps: float,
    count: int | None,
    frames: Iterator[tuple[float, np.ndarray]],
    left_out: Mapping[str, str] | None = None,
    timed: bool = True,
) -> Footage:
    left_out = {} if left_out is None else left_out
    first = next(frames, None)
    if first is None and left_out:
        raise DataError(f"{name}: not one of its {len(left_out)} pictures can be read: {next(iter(left_out.values()))}")
    if first is None:
        raise DataError(f"{name}: no frame came from it")
    height, width = first[1].shape[:2]
    return Footage(name, fps, count, height, width, chain([first], frames), left_out, timed)


def _folder(folder: Path, fps: float) -> Footage:
    files = sorted((file for file in folder.iterdir() if file.suffix.lower() in PICTURES), key=_natural)
    if not files:
        raise DataError(f"{folder}: no jpg or png pictures in it")
    left_out: dict[str, str] = {}

    def frames() -> Iterator[tuple[float, np.ndarray]]:
        shape: tuple[int, ...] = ()
        for index, file in enumerate(files):
            try:
                image = decode_image(read_bytes(file), str(file), upright=True)
            except DataError as error:
                left_out[file.name] = str(error)
                continue
            shape = shape or image.shape
            if image.shape != shape:
                found, wanted = (f"{each[1]} x {each[0]}" for each in (image.shape, shape))
                raise DataError(f"{file}: {found} pixels, but the pictures before have {wanted}")
            yield index / fps, image

    return _opened(str(folder), fps, len(files), frames(), left_out, timed=False)


def _natural(file: Path) -> list[tuple[int, str]]:
    """frame2.png before frame10.png."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file.name)]


def _camera(device: str) -> Footage:
    """A camera through Video4Linux. While a frame is computed the driver drops the next ones: times tell which."""
    import av

    try:
        container = av.open(device, format="v4l2")
    except (av.FFmpegError, ValueError) as error:  # ValueError: this FFmpeg was built without v4l2
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{device}: this camera cannot be opened ({reason})") from None
    stream = container.streams.video[0]

    def frames() -> Iterator[tuple[float, np.ndarray]]:
        start: float | None = None
        try:
            for frame in container.decode(stream):
                if frame.time is None:
                    raise DataError(f"{device}: a frame without a time stamp")
                start = frame.time if start is None else start
                yield frame.time - start, frame.to_ndarray(format="rgb24")
        except av.FFmpegError as error:
            raise CameraStopped(f"{device}: the camera stopped ({error.strerror})") from None
        finally:
            container.close()

    return _opened(device, float(stream.average_rate or 30), None, frames())
