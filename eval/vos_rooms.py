"""The built-in world of label propagation: rooms with moving objects, written once in DAVIS's layout."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from interlace.data_recipes.worlds import drafts, render
from interlace.data_recipes.worlds.demo import demo_folder
from interlace.data_recipes.worlds.prepared import alone
from interlace.data_recipes.worlds.rooms import ClipShape
from interlace.data_recipes.worlds.scene import BACKGROUND

from .davis import RESOLUTION, MaskedClip, sequence_names, write_sequence

#: These rooms are none of the demo's, which are fewer; their pictures are those of its held-out rooms.
FIRST_ROOM = drafts.HELD_OUT_ROOMS + 100_800
#: An object is followed if it covers at least this share of the first frame.
LEAST_SHARE = 0.006
_STATE, _FORMAT = "state.json", 1


@dataclass(frozen=True)
class WorldSize:
    """How many clips, and how large: pixels a side, frames, frames a second."""

    clips: int = 8
    size: int = 128
    frames: int = 16
    fps: float = 8.0


SIZE = WorldSize()


def prepare(
    folder: Path | None = None,
    size: WorldSize | None = None,
    *,
    backend: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """The folder of the world, drawn if it is not there whole; ``folder`` None: beside the demo's rooms.

    A clip whose first frame shows no object of :data:`LEAST_SHARE` is passed over for the next room's. ``backend``: a
    GL backend or "rays"; found by trying if None. Of processes that want it at once one draws and the others wait.
    """
    size = size or SIZE
    folder = demo_folder().parent / "vos_rooms" if folder is None else folder
    wanted = {"format": _FORMAT, "mujoco": version("mujoco"), **asdict(size)}
    if _is_whole(folder, wanted):
        return folder
    with alone(folder, say):
        if _is_whole(folder, wanted):
            return folder
        backend = backend or render.find_backend()
        say(render.describe(backend))
        say(f"drawing {size.clips} clips of rooms into {folder}")
        drawn = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(drawn, ignore_errors=True)  # of a call that was killed
        try:
            _draw(drawn, size, backend)
        except BaseException:
            shutil.rmtree(drawn, ignore_errors=True)
            raise
        (drawn / _STATE).write_text(json.dumps(wanted))
        shutil.rmtree(folder, ignore_errors=True)
        drawn.rename(folder)
    return folder


def _is_whole(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether every frame and mask that was to be drawn by ``wanted`` is there."""
    try:
        names = sequence_names(folder)
        if json.loads((folder / _STATE).read_text()) != wanted or len(names) != wanted["clips"]:
            return False
    except (OSError, ValueError):
        return False
    return all(
        len(list((folder / kind / RESOLUTION / name).glob(files))) == wanted["frames"]
        for name in names
        for kind, files in (("JPEGImages", "*.jpg"), ("Annotations", "*.png"))
    )


def _draw(folder: Path, size: WorldSize, backend: str) -> None:
    names: list[str] = []
    context = multiprocessing.get_context("spawn")  # MuJoCo reads its backend when it is imported
    with ProcessPoolExecutor(1, context, initializer=render.set_backend, initargs=(backend,)) as pool:
        number = FIRST_ROOM
        while len(names) < size.clips:
            clip = pool.submit(draw_clip, number, size, backend).result()
            number += 1
            if clip is not None:
                write_sequence(folder, clip)
                names.append(clip.name)
    lists = folder / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("".join(f"{name}\n" for name in names))


def draw_clip(number: int, size: WorldSize, backend: str) -> MaskedClip | None:
    """One clip of room ``number``; None where its first frame shows no object. Objects are 1 to K, largest first.

    What the first frame does not show is background throughout, as it is nobody's to follow. Runs in a worker.
    """
    shape = ClipShape(size.size, size.frames, size.fps)
    room = drafts.draw(drafts.Job("vos_rooms", "room", number, True, 0, shape, size.size, 1))
    with render.Renderer(room, size.size, backend) as renderer:
        views = [renderer.view(0, float(time)) for time in shape.times]
    instances = np.stack([view.instances for view in views])
    areas = np.bincount(instances[0].ravel())
    areas[: len(BACKGROUND)] = 0  # walls are no objects, and the sign's stand is a few pixels wide
    followed = [int(each) for each in np.argsort(-areas, kind="stable") if areas[each] >= LEAST_SHARE * size.size**2]
    if not followed:
        return None
    masks = np.zeros(instances.shape, np.uint8)
    for place, each in enumerate(followed, 1):
        masks[instances == each] = place
    return MaskedClip(f"room-{number}", np.stack([view.image for view in views]), masks)
