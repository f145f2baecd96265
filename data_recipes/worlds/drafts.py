"""The slow half of making the demo's datasets: drawing, decoding and encoding, job by job, in worker processes.

A finished job is a file of samples with their encoder features, so that an interrupted preparation goes on where it
stopped. The same jobs give the same files whatever the number of workers.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..sample import Sample
from .assets import photographs
from .clusters import chosen_frames
from .prepared import drawing
from .rooms import ClipShape, room_samples
from .scene import Room, draw_room

#: Numbers of held-out rooms begin here; a multiple of every block of balanced words.
HELD_OUT_ROOMS = 1_008_000


@dataclass(frozen=True)
class Draft:
    """A sample that lacks only its clusters, and the features [n, 1280] that they come from."""

    sample: Sample
    features: np.ndarray


@dataclass(frozen=True)
class Job:
    """One room, photograph, clip or the motorcycle. ``item``: the room's number, or the file's name."""

    dataset: str
    kind: str  # "room", "photograph", "clip", "motorcycle"
    item: int | str
    held_out: bool
    seed: int
    shape: ClipShape
    picture_size: int
    takes: int  # scenes of a room, crops of a photograph or of a clip's window

    @property
    def file_name(self) -> str:
        return f"{self.dataset}-{self.item}.pickle"


def draw(job: Job) -> Room:
    """The room of a job of kind "room". Its posters are photographs of its own side of the split."""
    pictures = [photograph.name for photograph in photographs() if photograph.held_out == job.held_out]
    return draw_room(job.seed, int(job.item), pictures, job.takes, job.shape.duration)


def make_samples(job: Job, backend: str) -> list[Sample]:
    """The samples of one job, without clusters."""
    from . import real

    if job.kind == "room":
        return room_samples(draw(job), job.shape, backend, job.dataset)
    if job.kind == "photograph":
        photograph = next(one for one in photographs() if one.name == job.item)
        return real.photograph_samples(photograph, job.picture_size, job.takes, job.seed, job.dataset)
    if job.kind == "clip":
        video = next(one for one in real.video_files() if one.name == job.item)
        return real.clip_samples(video, job.picture_size, job.shape.frames, job.takes, job.seed, job.dataset)
    return [real.motorcycle_sample(2 * job.shape.size, job.dataset)]


def make_drafts(job: Job, backend: str, folder: Path) -> None:
    """Do one job and write its file, which appears whole or not at all."""
    from .encoder import encode

    drafts = []
    for sample in make_samples(job, backend):
        features = encode(sample.frames[chosen_frames(len(sample.frames))]).astype(np.float32)
        drafts.append(Draft(sample, features))
    partial = folder / f".{job.file_name}.{os.getpid()}"
    with open(partial, "wb") as stream:
        pickle.dump(drafts, stream, protocol=pickle.HIGHEST_PROTOCOL)
    partial.replace(folder / job.file_name)


def read_drafts(job: Job, folder: Path) -> list[Draft]:
    """What :func:`make_drafts` wrote."""
    with open(folder / job.file_name, "rb") as stream:
        drafts: list[Draft] = pickle.load(stream)
    return drafts


def run(jobs: Sequence[Job], backend: str, folder: Path, workers: int | None, done: Callable[[int], None]) -> None:
    """Do every job that has no file yet, by :func:`.prepared.drawing`; ``done`` hears how many are finished."""
    missing = [job for job in jobs if not (folder / job.file_name).exists()]
    done(len(jobs) - len(missing))
    with drawing(partial(_make_alone, backend=backend, folder=folder), missing, backend, workers) as drawn:
        for finished, _ in enumerate(drawn, len(jobs) - len(missing) + 1):
            done(finished)


def _make_alone(job: Job, backend: str, folder: Path) -> None:
    import torch

    torch.set_num_threads(1)  # the other cores have workers of their own
    make_drafts(job, backend, folder)
