"""One image or one video out of files, and what a trained model sees of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from interlace.backbone import Backbone
from interlace.data_recipes import Sample
from interlace.data_recipes.media import DataError, decode_image
from interlace.data_recipes.video import Video

from .task import Vlm
from .video import look_at


def read_image(file: Path) -> Sample:
    """A photograph, upright. Raises :class:`DataError` for a file that is not there or no image."""
    if file.is_dir():
        raise DataError(f"{file}: a folder; give one picture")
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    return of_image(decode_image(file.read_bytes(), str(file), upright=True), str(file))


def open_video(file: Path) -> Video:
    """Raises :class:`DataError` for what is no video."""
    if file.is_dir():
        raise DataError(f"{file}: a folder; give one video")
    if not file.is_file():
        raise DataError(f"{file}: no such file; give a video, or a camera (0, or /dev/video0)")
    return Video(file, str(file), threads=0)


def read_video(file: Path, fps: float, most: int) -> Sample:
    """Of a video the frames that are looked at, as in training. Raises :class:`DataError` for what is no video."""
    film = open_video(file)
    chosen = look_at(film.times, fps, most)
    return Sample(key=str(file), source="file", frames=film.read(chosen), times=film.times[chosen])


def of_image(image: np.ndarray, name: str) -> Sample:
    """An image [H, W, 3] uint8."""
    return Sample(key=name, source="file", frames=image[None], times=np.zeros(1))


def nothing() -> Sample:
    """No picture at all."""
    return Sample(key="nothing", source="file", frames=np.zeros((0, 0, 0, 3), np.uint8), times=np.zeros(0))


@torch.no_grad()
def seen(task: Vlm, backbone: Backbone, sample: Sample) -> Tensor:
    """Visual tokens [V, E] of all frames of a sample, which are those that are looked at."""
    views, size = task.views(sample, max(len(sample.frames) - 1, 0))
    (found,), _ = task.see(backbone, [torch.from_numpy(views).to(task.newline.device)], [size])
    return found
