"""``interlace prepare questions``: clips of rooms with questions of six kinds, as shards, once.

In one folder: questions_train, questions_held_out and tokenizer.model. Rooms are those of the demo, training rooms in
the one and held-out rooms in the other; clips that answer no question are left out.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..randomness import generator
from ..sample import Sample
from ..shards import MANIFEST, SampleWriter
from . import render
from .assets import photographs
from .demo import Progress, demo_folder
from .drafts import HELD_OUT_ROOMS, end_with_parent
from .questions import Asked, ask, balanced
from .render import Renderer
from .rooms import ClipShape
from .scene import draw_room
from .tokenizer import train_tokenizer

TOKENIZER = "tokenizer.model"
_FORMAT = 4  # raise it when the same settings give other data
_PACKAGES = ("mujoco", "metaworld", "miniworld", "scikit-image")
_LICENCE = "rendered from textures and meshes of miniworld (Apache-2.0) and Meta-World (MIT); see those packages"


@dataclass(frozen=True)
class QuestionSettings:
    """How many rooms, and how large their clips."""

    seed: int = 0
    size: int = 64  # pixels a side
    frames: int = 8
    fps: float = 4.0
    train_rooms: int = 240
    train_scenes: int = 3
    held_out_rooms: int = 192
    held_out_scenes: int = 1

    @property
    def digest(self) -> str:
        """Names the data that these settings and the installed packages give."""
        facts = {"format": _FORMAT, **asdict(self), **{package: version(package) for package in _PACKAGES}}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def shape(self) -> ClipShape:
        return ClipShape(self.size, self.frames, self.fps)


@dataclass(frozen=True)
class QuestionData:
    """What :func:`prepare_questions` made or found. ``made``: the datasets written by this call."""

    folder: Path
    counts: dict[str, int]  # clips by dataset
    made: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    number: int
    scenes: int
    held_out: bool
    settings: QuestionSettings
    dataset: str
    backend: str


def question_folder() -> Path:
    """``questions``, beside the folder of the demo's input."""
    return demo_folder().parent / "questions"


def prepare_questions(
    folder: str | Path | None = None,
    *,
    settings: QuestionSettings | None = None,
    progress: Progress | None = None,
    backend: str | None = None,
    workers: int | None = None,
) -> QuestionData:
    """Write the datasets that ``folder`` (:func:`question_folder` if None) lacks, whole or not at all.

    One that was made with other settings or packages is made again. ``backend``: a GL backend or "rays"; found by
    trying if None. ``workers``: processes that draw. Workers are spawned: a script calls this under ``if __name__ ==
    "__main__":``. Raises :class:`interlace.data_recipes.worlds.assets.MissingPackage` without the extra ``demo``.
    """
    folder, settings = question_folder() if folder is None else Path(folder), settings or QuestionSettings()
    sides = {
        "questions_train": (range(settings.train_rooms), settings.train_scenes),
        "questions_held_out": (
            range(HELD_OUT_ROOMS, HELD_OUT_ROOMS + settings.held_out_rooms),
            settings.held_out_scenes,
        ),
    }
    missing = [name for name in sides if _manifest(folder / name).get("extra", {}).get("digest") != settings.digest]
    photographs()  # says what is not installed, before anything is drawn
    backend = backend or (render.find_backend() if missing else render.RAYS)
    for name in missing:
        shutil.rmtree(folder / name, ignore_errors=True)
        numbers, scenes = sides[name]
        jobs = [_Job(number, scenes, name.endswith("held_out"), settings, name, backend) for number in numbers]
        _write(folder, name, jobs, settings, workers or min(os.cpu_count() or 1, 4), progress)
    counts = {name: int(_manifest(folder / name)["samples"]) for name in sides}
    return QuestionData(folder, counts, tuple(missing))


def draw_clips(job: _Job) -> list[tuple[Sample, list[Asked]]]:
    """The clips of one room, and all that can be asked about each."""
    shape = job.settings.shape
    posters = [photograph.name for photograph in photographs() if photograph.held_out == job.held_out]
    room = draw_room(job.settings.seed, job.number, posters, job.scenes, shape.duration)
    clips = []
    with Renderer(room, shape.size, job.backend) as renderer:
        for k, scene in enumerate(room.scenes):
            views = [renderer.view(k, float(time)) for time in shape.times]
            rng = generator(job.settings.seed, "questions", job.number, k)
            sample = Sample(
                key=f"{job.dataset}/room-{room.number:07d}/scene-{k}",
                source=job.dataset,
                frames=np.stack([view.image for view in views]),
                times=shape.times,
            )
            clips.append((sample, ask(scene, views, rng)))
    return clips


def _write(
    folder: Path, name: str, jobs: list[_Job], settings: QuestionSettings, workers: int, progress: Progress | None
) -> None:
    context = multiprocessing.get_context("spawn")  # the environment of a worker is its own, and so is its GL
    clips: list[tuple[Sample, list[Asked]]] = []
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(jobs[0].backend,)) as pool:
        for done, drawn in enumerate(pool.map(draw_clips, jobs), 1):
            clips += drawn
            if progress:
                progress(name, done, len(jobs))
    texts = balanced([asked for _, asked in clips], settings.frames, settings.seed)
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith("train"):
        train_tokenizer(
            {line for found in texts for text in found for line in (text.prompt, text.answer)}, folder / TOKENIZER
        )
    with SampleWriter(
        folder / name,
        name=name,
        fields=("frames", "texts"),
        split=name.removeprefix("questions_"),
        licence=_LICENCE,
        fps=settings.fps,
        extra={"digest": settings.digest, "settings": asdict(settings)},
        codec="png",
    ) as writer:
        for (sample, _), found in zip(clips, texts, strict=True):
            if found:
                sample.texts = found
                writer.write(sample)


def _begin(backend: str) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    render.set_backend(backend)


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    manifest: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return manifest
