"""``interlace chat``: a question to a trained vision-language model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from interlace.data_recipes import Sample
from interlace.data_recipes.media import DataError, decode_image
from interlace.data_recipes.video import Video
from interlace.eval.frozen import frozen
from interlace.tasks.vlm.saved import load_vlm
from interlace.tasks.vlm.video import look_at


def chat(
    model: Path, question: str, image: Path | None, video: Path | None, backbone: str | None, console: Console
) -> None:
    """Print the answer of the run ``model`` to ``question`` about an image or a video, or about nothing.

    Raises ValueError for both at once, a run without a VLM, and pictures that cannot be read.
    """
    if image is not None and video is not None:
        raise ValueError("chat: --image or --video, one of them")
    task, eyes = load_vlm(model, backbone)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task.to(device)
    eyes.to(device)
    sample = _sample(image, video, task.options.fps, task.options.max_frames)
    with frozen(eyes, str(model)):
        views, size = task.views(sample, max(len(sample.frames) - 1, 0))
        (seen,), _ = task.see(eyes, [torch.from_numpy(views).to(device)], [size])
        (answer,) = task.answer([seen], [[(question, None)]])
    console.print(answer or "(it says nothing)", highlight=False, markup=False)


def _sample(image: Path | None, video: Path | None, fps: float, most: int) -> Sample:
    """What is looked at, read as in training; without either no frames."""
    name = str(image or video or "nothing")
    frames, times = np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0)
    if image is not None:
        if not image.is_file():
            raise DataError(f"{image}: no such file")
        frames, times = decode_image(image.read_bytes(), name, upright=True)[None], np.zeros(1)
    if video is not None:
        if not video.is_file():
            raise DataError(f"{video}: no such file")
        film = Video(video, name, threads=0)
        chosen = look_at(film.times, fps, most)
        frames, times = film.read(chosen), film.times[chosen]
    return Sample(key=name, source="chat", frames=frames, times=times)
