"""CALVIN as its authors release it: one .npz a time step, and sentences about ranges of 64 of them.

A sample is one annotation: the static camera's frames, ``rel_actions`` and ``robot_obs`` of its steps, 30 a second.
"""

from __future__ import annotations

import os
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from .media import DataError
from .plain_pickle import load_npy
from .sample import Episode, Sample
from .shards import ChooseFrames, choose_indices, wanted_fields

FPS = 30.0
ANNOTATIONS = Path("lang_annotations") / "auto_lang_ann.npy"
RANGES = "ep_start_end_ids.npy"
#: What numpy's and zipfile's readers are seen to raise for damaged bytes.
_BAD_BYTES = (
    *(OSError, ValueError, LookupError, TypeError, EOFError, MemoryError, NotImplementedError, RuntimeError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
_STEP_FILE = re.compile(r"(.*_)(\d+)\.npz")


class CalvinReader:
    """The annotated ranges of a ``training`` or ``validation`` folder. Opening reads no time step.

    Actions [64, 7]: ``rel_actions`` (position and Euler angles in the world's frame, -1...1) with the gripper as 0
    (closed) or 1 (open), which CALVIN writes as -1 and 1. Proprio [64, 15]: ``robot_obs``. Raises :class:`DataError`
    for a folder without annotations, a range outside the recorded ones, and a step that is missing or broken.
    """

    fields = frozenset({"frames", "episode"})

    def __init__(self, path: str | Path, source: str) -> None:
        self.path, self.source = Path(path), source
        self._texts, self._ranges = _annotations(self.path)
        self._check_ranges()
        self._prefix, self._digits = _step_names(self.path)
        self.shard_sizes = np.ones(len(self._texts), np.int64)  # no two share a file that must be read as a whole

    def __len__(self) -> int:
        return len(self._texts)

    def read(self, index: int, fields: Collection[str] | None = None, choose: ChooseFrames | None = None) -> Sample:
        """As :meth:`interlace.data_recipes.shards.ShardReader.read`."""
        wanted = wanted_fields(fields, self.fields, f"source {self.source!r} ({self.path})")
        first, last = (int(step) for step in self._ranges[index])
        times = np.arange(last - first + 1) / FPS
        key = self.key(index)
        chosen = choose_indices(choose, times, f"source {self.source!r} ({self.path}): sample {key!r}")
        sample = Sample(
            key=key, source=self.source, frames=np.zeros((len(chosen), 0, 0, 3), np.uint8), times=times[chosen]
        )
        if "frames" in wanted:
            sample.frames = self._arrays(first + chosen, "rgb_static")
            if sample.frames.dtype != np.uint8 or sample.frames.ndim != 4 or sample.frames.shape[3] != 3:
                raise DataError(f"{self._file(first)}: rgb_static is {sample.frames.dtype} {sample.frames.shape[1:]}")
        if "episode" in wanted:
            steps = np.arange(first, last + 1)
            proprio = _numbers(self._arrays(steps, "robot_obs"), 15, "robot_obs", self._file(first))
            actions = _numbers(self._arrays(steps, "rel_actions"), 7, "rel_actions", self._file(first))
            sample.episode = Episode(
                instruction=self._texts[index],
                actions=_with_gripper(actions, self._file(first)),
                proprio=proprio,
                steps=chosen,
            )
        return sample

    def key(self, index: int) -> str:
        """The key of sample ``index``, known since opening."""
        first, last = (int(step) for step in self._ranges[index])
        return f"{first:0{self._digits}d}-{last:0{self._digits}d}/{index}"

    def _file(self, step: int) -> Path:
        return self.path / f"{self._prefix}{step:0{self._digits}d}.npz"

    def _arrays(self, steps: np.ndarray, name: str) -> np.ndarray:
        """[n, ...] of these steps, all of one shape and type."""
        found = [self._array(int(step), name) for step in steps]
        for step, array in zip(steps, found, strict=True):
            if (array.shape, array.dtype) != (found[0].shape, found[0].dtype):
                shapes = f"{array.dtype} {array.shape}, before it {found[0].dtype} {found[0].shape}"
                raise DataError(f"{self._file(int(step))}: {name} is {shapes}")
        return np.stack(found)

    def _array(self, step: int, name: str) -> np.ndarray:
        file = self._file(step)
        try:
            with np.load(file, allow_pickle=False) as content:
                array: np.ndarray = content[name]
        except FileNotFoundError:
            raise DataError(f"{file}: missing, though an annotation speaks of it; copy it again") from None
        except _BAD_BYTES as error:
            raise DataError(f"{file}: no readable {name} ({error}); copy it again") from error
        return array

    def _check_ranges(self) -> None:
        file = self.path / RANGES
        if not file.is_file():
            raise DataError(f"{file}: missing; it says which steps were recorded in one go")
        recorded = np.asarray(load_npy(file)).reshape(-1, 2)
        for first, last in self._ranges:
            if not ((recorded[:, 0] <= first) & (last <= recorded[:, 1])).any() or last < first:
                raise DataError(f"{self.path / ANNOTATIONS}: steps {first}-{last} are in no range of {RANGES}")


def _annotations(path: Path) -> tuple[list[str], np.ndarray]:
    """Sentences, and [n, 2] first and last step of each."""
    file = path / ANNOTATIONS
    if not file.is_file():
        raise DataError(f"{file}: missing; name a folder of the dataset that has annotations: training or validation")
    content = load_npy(file)
    try:
        texts, ranges = [str(text) for text in content["language"]["ann"]], np.array(content["info"]["indx"], np.int64)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{file}: not CALVIN's annotations ({error!r})") from error
    if ranges.shape != (len(texts), 2) or not texts:
        raise DataError(f"{file}: {len(texts)} sentences for {len(ranges)} ranges")
    return texts, ranges


def _step_names(path: Path) -> tuple[str, int]:
    """How files of time steps are called: what comes before the number, and its digits."""
    with os.scandir(path) as entries:
        for entry in entries:
            if match := _STEP_FILE.fullmatch(entry.name):
                return match[1], len(match[2])
    raise DataError(f"{path}: no episode_NNNNNNN.npz here")


def _numbers(rows: np.ndarray, width: int, name: str, file: Path) -> np.ndarray:
    if rows.dtype.kind not in "fiu" or rows.shape[1:] != (width,) or not np.isfinite(rows).all():
        raise DataError(f"{file} and after: {name} are not finite rows of {width}")
    return rows.astype(np.float32)


def _with_gripper(actions: np.ndarray, file: Path) -> np.ndarray:
    if not np.isin(actions[:, 6], (-1, 1)).all():
        raise DataError(f"{file} and after: the gripper is neither -1 nor 1")
    actions[:, 6] = (actions[:, 6] + 1) / 2
    return actions
