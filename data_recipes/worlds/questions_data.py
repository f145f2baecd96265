"""``interlace prepare questions``: clips of rooms with questions of eight kinds, as shards, once.

In one folder: questions_train, questions_held_out and tokenizer.model. Rooms are those of the demo, training rooms in
the one and held-out rooms in the other; clips that answer no question are left out.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..randomness import generator
from ..sample import Sample
from ..shards import SampleWriter, ShardReader
from . import render
from .assets import photographs
from .demo import demo_folder
from .drafts import HELD_OUT_ROOMS
from .prepared import Prepared, Progress, alone, counts_of, digest_of, drawing, not_made
from .questions import Asked, ask, balanced
from .render import Renderer
from .rooms import ClipShape
from .scene import draw_room
from .tokenizer import train_tokenizer

TOKENIZER = "tokenizer.model"
_FORMAT = 6  # raise it when the same settings give other data
_PACKAGES = ("mujoco", "metaworld", "miniworld", "scikit-image")
_LICENCE = "rendered from textures and meshes of miniworld (Apache-2.0) and Meta-World (MIT); see those packages"


@dataclass(frozen=True)
class QuestionSettings:
    """How many rooms, and how large their clips.

    ``asked_after``: of training clips, after how many frames questions are asked; of held-out ones after the last.
    """

    seed: int = 0
    size: int = 64  # pixels a side
    frames: int = 2  # the first and the last of a clip of the demo: enough to see what moves
    asked_after: tuple[int, ...] = (1, 2)
    fps: float = 4 / 7
    train_rooms: int = 400
    train_scenes: int = 5  # a room's most
    held_out_rooms: int = 192
    held_out_scenes: int = 2

    @property
    def digest(self) -> str:
        """Names the data that these settings and the installed packages give."""
        return digest_of(self, _FORMAT, _PACKAGES)

    @property
    def shape(self) -> ClipShape:
        return ClipShape(self.size, self.frames, self.fps)


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
    say: Callable[[str], None] = print,
    backend: str | None = None,
    workers: int | None = None,
) -> Prepared:
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
    photographs()  # says what is not installed, before anything is drawn
    missing = not_made(folder, sides, settings.digest)
    if not missing and (folder / TOKENIZER).exists():
        return Prepared(folder, counts_of(folder, sides), ())
    with alone(folder, say):
        missing = not_made(folder, sides, settings.digest)
        backend = backend or (render.find_backend() if missing else render.RAYS)
        if missing:
            (folder / TOKENIZER).unlink(missing_ok=True)  # perhaps of other settings' words
        for name in missing:
            shutil.rmtree(folder / name, ignore_errors=True)
            numbers, scenes = sides[name]
            jobs = [_Job(number, scenes, name.endswith("held_out"), settings, name, backend) for number in numbers]
            _write(folder / name, jobs, settings, workers, progress)
        if not (folder / TOKENIZER).exists():
            train_tokenizer(_lines(folder / "questions_train"), folder / TOKENIZER)
    return Prepared(folder, counts_of(folder, sides), tuple(missing))


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
            ends = (shape.frames,) if job.held_out else job.settings.asked_after
            clips.append((sample, [one for end in ends for one in ask(scene, views[:end], rng)]))
    return clips


def _write(
    folder: Path, jobs: list[_Job], settings: QuestionSettings, workers: int | None, progress: Progress | None
) -> None:
    clips: list[tuple[Sample, list[Asked]]] = []
    with drawing(draw_clips, jobs, jobs[0].backend, workers) as rooms:
        for done, drawn in enumerate(rooms, 1):
            clips += drawn
            if progress:
                progress(folder.name, done, len(jobs))
    texts = balanced([asked for _, asked in clips], settings.seed)
    with SampleWriter(
        folder,
        name=folder.name,
        fields=("frames", "texts"),
        split=folder.name.removeprefix("questions_"),
        licence=_LICENCE,
        fps=settings.fps,
        extra={"digest": settings.digest, "settings": asdict(settings)},
        codec="png",
    ) as writer:
        for (sample, _), found in zip(clips, texts, strict=True):
            if found:
                sample.texts = found
                writer.write(sample)


def _lines(folder: Path) -> set[str]:
    """All that is asked and answered in a dataset."""
    reader = ShardReader(folder)
    texts = (text for index in range(len(reader)) for text in reader.read(index, ("texts",)).texts)
    return {line for text in texts for line in (text.prompt, text.answer)}
