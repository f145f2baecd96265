"""``interlace chat``: questions to a trained vision-language model, about a picture, a video or a live camera."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import numpy as np
import torch
from rich.console import Console

from interlace.backbone import Backbone
from interlace.eval.frozen import frozen
from interlace.tasks.frames import resize
from interlace.tasks.vlm import Vlm
from interlace.tasks.vlm.reading import nothing, open_video, read_image, read_video, seen
from interlace.tasks.vlm.saved import load_vlm
from interlace.tasks.vlm.video import Watching

from .footage import CameraStopped, Footage, is_camera, open_footage

#: Lines as they are typed, and None behind the last.
Typed = SimpleQueue[str | None]


def chat(
    model: Path, question: str | None, image: Path | None, video: str | None, backbone: str | None, console: Console
) -> None:
    """Print the answer of the run ``model`` to ``question`` about an image or a video, or about nothing.

    Where ``video`` is a camera, it is watched live: more questions are read, a line each, until there are no more.
    Raises ValueError for both at once, no question or an empty one, a run without a VLM, and pictures that cannot be
    read.
    """
    if image is not None and video is not None:
        raise ValueError("chat: --image or --video, one of them")
    live = video is not None and is_camera(video)
    if question is None and not live:
        raise ValueError("chat: say what to ask; only of a live camera it may be asked later")
    if question is not None and not question.strip():
        raise ValueError("chat: the question is empty; say what to ask")
    sample = nothing() if image is None else read_image(image)
    if video is not None and not live:
        open_video(Path(video))
    task, eyes = load_vlm(model, backbone)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task.to(device)
    eyes.to(device)
    with frozen(eyes, str(model)):
        if video is not None and live:
            footage = open_footage(video, None)
            console.print(opening(task, footage), highlight=False, markup=False)
            converse(Live(task, eyes), footage, typed(question, sys.stdin), console)
            return
        if video is not None:
            sample = read_video(Path(video), task.options.fps, task.options.max_frames)
        (answer,) = task.answer([seen(task, eyes, sample)], [[(str(question), None)]])
    say(answer, console)


def say(answer: str, console: Console) -> None:
    """Print an answer."""
    console.print(answer or "(it says nothing)", highlight=False, markup=False)


class Live:
    """A model that looks at a camera's frames as they come, through the stream, as training looked at videos.

    It looks at the first frame at or after every 1 / ``fps`` seconds. The last ``max_frames`` that it looked at stay.
    While that is one, it is an image, as a recorded video is of which one frame is looked at.
    """

    def __init__(self, task: Vlm, eyes: Backbone) -> None:
        self._task, self._eyes = task, eyes
        self._size, self._fps = task.options.size, task.options.fps
        self._watching = Watching(eyes, self._size, task.options.max_frames)
        self._tick = -1

    def show(self, seconds: float, image: np.ndarray) -> None:
        """A frame [H, W, 3] uint8, ``seconds`` after the first; most are passed over."""
        tick = math.floor(seconds * self._fps + 1e-6)
        if tick > self._tick:
            self._tick, self._last = tick, image
            frame = torch.from_numpy(resize(image[None], (self._size, self._size))[0])
            self._watching.see(frame.to(self._task.newline.device))

    def answer(self, question: str) -> str:
        """What it says about the frames that stay, of which there must be one."""
        patches = self._watching.patches()
        with torch.no_grad():
            if len(patches) == 1:
                views, size = self._task.sight.views(self._last[None])
                pixels = torch.from_numpy(views).to(patches.device)
                visual, _ = self._task.see(self._eyes, [pixels], [size])
            else:
                visual, _ = self._task.project([patches[:0] if self._task.options.blind else patches], [None])
        return self._task.answer(visual, [[(question, None)]])[0]

    def close(self) -> None:
        """Give the stream's memory back."""
        self._watching.close()


def converse(live: Live, footage: Footage, questions: Typed, console: Console) -> None:
    """Answer questions, each as soon as it is there, until there are no more; the camera is watched all the while.

    Frames that come while an answer is computed are the camera's to drop. When the camera ends or is unplugged, what it
    showed last is still spoken of. Ctrl-C ends it too.
    """
    try:
        try:
            for seconds, image in footage.frames:
                live.show(seconds, image)
                while not questions.empty():
                    question = questions.get()
                    if question is None:
                        return
                    say(live.answer(question), console)
        except CameraStopped as stop:
            console.print(f"{stop}; what it showed last is still spoken of", highlight=False, markup=False)
        while (question := questions.get()) is not None:
            say(live.answer(question), console)
    except KeyboardInterrupt:
        console.print("stopped", highlight=False)
    finally:
        live.close()


def typed(first: str | None, lines: Iterable[str]) -> Typed:
    """``first``, if any, then the lines that are not empty, read in the background: a camera does not wait for them."""
    questions: Typed = SimpleQueue()
    if first is not None:
        questions.put(first)

    def read() -> None:
        for line in lines:
            if line.strip():
                questions.put(line.strip())
        questions.put(None)

    Thread(target=read, daemon=True).start()
    return questions


def opening(task: Vlm, footage: Footage) -> str:
    """What is going to happen, in a line."""
    options = task.options
    return (
        f"{footage.name}: {footage.width} x {footage.height}, looked at {options.fps:g} times a second, the last "
        f"{options.max_frames} frames stay; ask, a line each, and end with Ctrl-D"
    )
