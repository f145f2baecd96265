"""The built-in world of probes: the demo's rooms, and what each pixel of them shows."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from interlace.data_recipes import DataError, Sample, ShardReader
from interlace.data_recipes.broken import read_samples
from interlace.data_recipes.checks import check_sample
from interlace.data_recipes.shards import MANIFEST
from interlace.data_recipes.worlds import drafts, render
from interlace.data_recipes.worlds.demo import demo_folder
from interlace.data_recipes.worlds.paths import KINDS
from interlace.data_recipes.worlds.rooms import ClipShape
from interlace.data_recipes.worlds.scene import BACKGROUND, SHAPES, Room, Scene

#: Classes of pixels; objects by their shape, meshes together. What nothing covers is IGNORED.
CLASSES = (*BACKGROUND[1:], *SHAPES, "prop")
IGNORED = 255

#: Two drawings of one room agree about the depth of all but edges: this share of pixels, to this part.
_AGREEING, _DEPTH_TOLERANCE = 0.9, 0.02
#: Metres, and parts of a direction, by which two drawings of one camera may differ.
_POSE_TOLERANCE = 1e-5

#: Kinds of camera paths: what a clip can only be told by as a whole.
PATHS = tuple(sorted(set(KINDS)))


def read_rooms(
    split: str,
    *,
    folder: Path | None = None,
    rooms: int | None = None,
    missing: dict[str, str] | None = None,
) -> tuple[list[Sample], ShardReader]:
    """Clips of the first ``rooms`` rooms (None: all) of ``split``, "train" or "held_out", in the order of their keys.

    ``folder``: where ``interlace prepare demo`` wrote, its own place if None. ``missing``: takes key -> why of clips
    that cannot be read or break a convention of samples. Raises DataError when nothing is there, or nothing else, and
    without ``missing`` for the first such clip.
    """
    path = (demo_folder() if folder is None else folder) / f"rooms_{split}"
    if not (path / MANIFEST).exists():
        raise DataError(f"{path}: the built-in rooms are not there; make them with `interlace prepare demo`")
    reader = ShardReader(path, "rooms")
    found = read_samples(reader, "rooms", accept=partial(check_stored, reader))
    if found.broken and (missing is None or not found.samples):
        raise DataError(found.broken[0].reason)
    if missing is not None:
        missing.update({each.key: each.reason for each in found.broken})
    samples = sorted(found.samples, key=lambda sample: sample.key)
    chosen = set(sorted({_place(sample.key)[0] for sample in samples})[:rooms])
    return [sample for sample in samples if _place(sample.key)[0] in chosen], reader


def check_stored(reader: ShardReader, sample: Sample) -> None:
    """DataError where what was stored is not what could have been written: a depth that does not fit, a pose of NaN."""
    check_sample(sample, reader.fields, reader.manifest["classes"], reader.manifest["banks"])


def pixel_classes(samples: Sequence[Sample], frames: np.ndarray, reader: ShardReader) -> np.ndarray:
    """[n, f, H, W] uint8: the class of every pixel of ``frames`` [n, f] of each clip, :data:`IGNORED` where none.

    Rays are cast into the rooms again, which needs no OpenGL. Raises DataError, naming the clip, where the rooms that
    this program builds are not those that were drawn.
    """
    settings = _settings(reader)
    held_out = reader.manifest["split"] != "train"
    asked: dict[int, list[tuple[int, int, list[float]]]] = {}
    for place, sample in enumerate(samples):
        number, scene = _place(sample.key)
        asked.setdefault(number, []).append((place, scene, sample.times[frames[place]].tolist()))
    height = samples[0].frames.shape[1]
    # MuJoCo reads its backend when it is imported: a process of its own leaves this one's choice alone
    with ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=render.set_backend, initargs=(render.RAYS,)
    ) as pool:
        jobs = [_job(reader.manifest["name"], number, settings, held_out) for number in asked]
        cast = list(pool.map(_cast, jobs, [[each[1:] for each in rows] for rows in asked.values()], chunksize=8))
    classes = np.zeros((*frames.shape, height, height), np.uint8)
    for rows, maps in zip(asked.values(), cast, strict=True):
        for (place, _, _), (found, depth) in zip(rows, maps, strict=True):
            sample = samples[place]
            if sample.depth is not None:
                _check_fit(sample.key, depth, sample.depth[frames[place]])
            classes[place] = found
    return classes


def path_classes(samples: Sequence[Sample], reader: ShardReader) -> np.ndarray:
    """[n] int64: the kind of each clip's camera path, its place in :data:`PATHS`. Nothing is drawn for it.

    Raises DataError, naming the clip, where the rooms that this program builds are not those that were drawn.
    """
    settings = _settings(reader)
    rooms: dict[int, Room] = {}
    found = []
    for sample in samples:
        number, scene = _place(sample.key)
        if number not in rooms:
            job = _job(reader.manifest["name"], number, settings, reader.manifest["split"] != "train")
            rooms[number] = drafts.draw(job)
        path = rooms[number].scenes[scene].path
        poses = np.stack([path.pose(float(time)) for time in sample.times])
        if sample.c2w is None or not np.allclose(poses, sample.c2w, atol=_POSE_TOLERANCE):
            raise DataError(
                f"{sample.key}: its camera is not the one that this version draws; run `interlace prepare demo`"
            )
        found.append(PATHS.index(path.kind))
    return np.array(found, np.int64)


def _settings(reader: ShardReader) -> dict[str, Any]:
    settings = reader.manifest.get("extra", {}).get("settings")
    if not settings:
        raise DataError(f"{reader.folder}: not made by `interlace prepare demo`; what its clips show is not known")
    return dict(settings)


def _check_fit(key: str, drawn: np.ndarray, stored: np.ndarray) -> None:
    if drawn.shape != stored.shape or (np.abs(drawn - stored) <= _DEPTH_TOLERANCE * stored).mean() < _AGREEING:
        raise DataError(
            f"{key}: masks do not fit the stored clip, another version drew it; run `interlace prepare demo`"
        )


def _place(key: str) -> tuple[int, int]:
    """(room, scene) of a key "rooms_train/room-0000012/scene-1"."""
    try:
        _, room, scene = key.split("/")
        return int(room.removeprefix("room-")), int(scene.removeprefix("scene-"))
    except ValueError:
        raise DataError(f"{key}: no key of a built-in room") from None


def _job(dataset: str, number: int, settings: dict[str, Any], held_out: bool) -> drafts.Job:
    return drafts.Job(
        dataset=dataset,
        kind="room",
        item=number,
        held_out=held_out,
        seed=settings["seed"],
        shape=ClipShape(settings["size"], settings["frames"], settings["fps"]),
        picture_size=settings["picture_size"],
        takes=settings["held_out_scenes" if held_out else "train_scenes"],
    )


def _cast(job: drafts.Job, wanted: list[tuple[int, list[float]]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Classes and depth, [f, H, W] each, of (scene, times) of one room. Runs where MuJoCo has no OpenGL."""
    from interlace.data_recipes.worlds import rays
    from interlace.data_recipes.worlds.mjcf import World

    room = drafts.draw(job)
    world, size = World(room), job.shape.size
    found = []
    for number, times in wanted:
        scene, maps, depths = room.scenes[number], [], []
        lookup = class_numbers(scene)
        for time in times:
            world.set(number, time)
            depth, geoms = rays.cast(world, scene.path.pose(time), scene.path.intrinsics(size), size)
            maps.append(lookup[np.where(geoms < 0, 0, world.instance[geoms])])
            depths.append(depth)
        found.append((np.stack(maps), np.stack(depths)))
    return found


def class_numbers(scene: Scene) -> np.ndarray:
    """[instances] uint8: the class in :data:`CLASSES` of each of a scene's instances."""
    things = ["prop" if thing.colour is None else thing.shape for thing in scene.things]
    named = [*BACKGROUND[1:], *things]
    return np.array([IGNORED, *(CLASSES.index(name) for name in named)], np.uint8)
