"""Anybody's own folder of photographs and videos -> shards to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from .media import DataError, decode_image
from .randomness import generator
from .sample import Sample
from .shards import SampleWriter
from .video import Video

IMAGES = (".jpg", ".jpeg", ".png")
VIDEOS = (".mp4",)


@dataclass
class PrepareReport:
    """What became of a folder's files. ``broken`` and ``short``: file -> why nothing, or not all, of it was used."""

    folder: Path
    images: int = 0
    videos: int = 0
    clips: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    short: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.images} images, {self.clips} clips of {self.videos} videos"]
        lines += [f"broken: {file}: {why}" for file, why in self.broken.items()]
        lines += [f"too short: {file}: {why}" for file, why in self.short.items()]
        return "\n".join(lines)


def prepare_folder(
    folder: str | Path,
    to: str | Path,
    *,
    frames: int = 16,
    fps: float = 8.0,
    short_side: int = 512,
    split: str = "train",
    licence: str = "user's own",
    progress: Callable[[int, int], None] = lambda done, files: None,
) -> PrepareReport:
    """Write every jpg, png and mp4 under ``folder`` as samples of a new dataset ``to``, with the field "frames".

    A photograph is a sample of one frame. A video is cut into clips of ``frames`` frames, the nearest to every
    1 / ``fps`` seconds (all its frames, where it has fewer a second); what remains at its end is left out. Everything
    is turned upright and shrunk until its shorter side is at most ``short_side`` pixels. Files come in a shuffled
    order, the same every time: a shard holds pictures of many folders. ``progress`` is told (files done, files).

    Broken files, and videos too short for a clip, are listed in the report and harm nothing else; a video that breaks
    off gives the clips before. Raises :class:`DataError` if there is no such folder, nothing usable in it, or something
    in ``to``.
    """
    folder, to = Path(folder), Path(to)
    files = _find(folder)
    report = PrepareReport(to)
    with SampleWriter(to, name=to.name, fields=("frames",), split=split, licence=licence, fps=fps) as writer:
        for done, file in enumerate(files):
            progress(done, len(files))
            name = file.relative_to(folder).as_posix()
            try:
                if file.suffix.lower() in IMAGES:
                    writer.write(_photograph(file, name, short_side))
                    report.images += 1
                else:
                    _write_clips(file, name, writer, report, frames, fps, short_side)
            except DataError as error:
                report.broken[name] = str(error).removeprefix(f"{name}: ")
        if not report.images and not report.clips:
            name, why = next(iter((report.broken | report.short).items()))
            raise DataError(f"{folder}: none of its {len(files)} files can be used; {name}: {why}")
    progress(len(files), len(files))
    return report


def clip_indices(times: np.ndarray, frames: int, fps: float) -> list[np.ndarray]:
    """Frames of a video with these ``times`` [n] (seconds, from 0) that make its clips: [clips] of [frames] int64."""
    wanted = np.arange(int(times[-1] * fps + 1e-6) + 1) / fps
    after = np.clip(np.searchsorted(times, wanted), 1, max(len(times) - 1, 1))
    before_is_nearer = wanted - times[after - 1] <= times[np.minimum(after, len(times) - 1)] - wanted
    nearest = np.unique(np.minimum(after - before_is_nearer, len(times) - 1))
    return [nearest[start : start + frames] for start in range(0, len(nearest) - frames + 1, frames)]


def _find(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGES + VIDEOS and file.is_file())
    if not files:
        raise DataError(f"{folder}: no {', '.join(ending[1:] for ending in IMAGES + VIDEOS)} in it")
    return [files[place] for place in generator(0, "prepare folder").permutation(len(files))]


def _photograph(file: Path, name: str, short_side: int) -> Sample:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror})") from error
    image = decode_image(data, name, upright=True)
    return Sample(key=name, source="", frames=_shrunk(image, short_side)[None], times=np.zeros(1))


def _write_clips(
    file: Path, name: str, writer: SampleWriter, report: PrepareReport, frames: int, fps: float, short_side: int
) -> None:
    video = Video(file, name, threads=0)
    clips = clip_indices(video.times, frames, fps)
    if not clips:
        report.short[name] = f"{video.times[-1]:.2f} s, {len(video.times)} frames; a clip takes {frames / fps:.2f} s"
        return
    decoded = video.frames(np.concatenate(clips))
    used = 0
    try:
        for clip, images in zip(clips, _groups(decoded, frames, short_side), strict=True):
            start = video.times[clip[0]]
            key, times = f"{name}@{start:.3f}s", video.times[clip] - start
            writer.write(Sample(key=key, source="", frames=images, times=times))
            used += 1
    except DataError as error:
        raise DataError(f"{error}; {used} of {len(clips)} clips were used") from error
    finally:
        report.clips += used
        report.videos += used > 0


def _groups(decoded: Iterator[tuple[int, np.ndarray]], size: int, short_side: int) -> Iterator[np.ndarray]:
    held: list[np.ndarray] = []
    for _, image in decoded:
        held.append(_shrunk(image, short_side))
        if len(held) == size:
            yield np.stack(held)
            held = []


def _shrunk(image: np.ndarray, short_side: int) -> np.ndarray:
    height, width = image.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return image
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))
