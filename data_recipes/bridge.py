"""BridgeData V2 in its two releases, folders of pictures and pickles or RLDS as TFRecord, which give like episodes.

Of N recorded steps the first (its action is zero) and the last are left out; the arm's action is how the state changes
to the next step, in metres and radians, and the gripper is 0 or 1. The camera is number 0, over the shoulder; five
steps a second.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from .media import DataError, decode_image, read_bytes
from .plain_pickle import load_pickle
from .sample import Episode, Sample
from .shards import ChooseFrames, choose_indices, wanted_fields
from .tfrecord import Feature, parse_example, record_spans

FPS = 5.0
#: Sessions before this day recorded their pictures one step late.
LATE_UNTIL = datetime(2021, 7, 23)
_ARM = 6
_OPEN, _CLOSED = 0.95, 0.05
_SHARD = re.compile(r".*-(train|val)\.tfrecord-(\d+)-of-(\d+)")
_Decode = Callable[[int], np.ndarray]


def binary_gripper(values: np.ndarray) -> np.ndarray:
    """[N] float32: 1 above 0.95, 0 below 0.05; between them the next value that is either, the last as it is."""
    found, after = np.empty(len(values), np.float32), float(np.clip(values[-1], 0, 1))
    for step in range(len(values) - 1, -1, -1):
        if values[step] > _OPEN or values[step] < _CLOSED:
            after = float(values[step] > _OPEN)
        found[step] = after
    return found


def bridge_actions(states: np.ndarray, commands: np.ndarray) -> np.ndarray:
    """[N - 2, 7] float32 of steps 1 to N - 2, from states [N, 7] (x, y, z, roll, pitch, yaw, gripper) and commands
    [N, 7], of which only the gripper is taken. Angles that jump by a full turn do not."""
    change = np.diff(states[:, :_ARM], axis=0)
    change[:, 3:] = (change[:, 3:] + np.pi) % (2 * np.pi) - np.pi
    gripper = binary_gripper(commands[1:, _ARM])[:-1]
    return np.concatenate([change[1:], gripper[:, None]], 1).astype(np.float32)


class _Reader:
    """What both releases share: from states, commands and a picture's decoder to a sample."""

    fields = frozenset({"frames", "episode"})
    path: Path
    source: str

    def _sample(
        self,
        key: str,
        recorded: tuple[str, np.ndarray, np.ndarray],
        picture: _Decode,
        fields: Collection[str] | None,
        choose: ChooseFrames | None,
    ) -> Sample:
        wanted = wanted_fields(fields, self.fields, f"source {self.source!r} ({self.path})")
        where = f"source {self.source!r} ({self.path}): sample {key!r}"
        instruction, states, commands = recorded
        if states.shape != commands.shape or states.ndim != 2 or states.shape[1] != _ARM + 1:
            raise DataError(f"{where}: states {states.shape} and actions {commands.shape} are not both [N, 7]")
        if len(states) < 3 or not (np.isfinite(states).all() and np.isfinite(commands).all()):
            raise DataError(f"{where}: fewer than 3 steps, or a number that is not finite")
        times = np.arange(len(states) - 2) / FPS
        chosen = choose_indices(choose, times, where)
        frames = np.zeros((len(chosen), 0, 0, 3), np.uint8)
        if "frames" in wanted:
            pictures = [picture(int(step) + 1) for step in chosen]
            if len({each.shape for each in pictures}) > 1:
                raise DataError(f"{where}: its pictures have different sizes")
            frames = np.stack(pictures)
        sample = Sample(key=key, source=self.source, frames=frames, times=times[chosen])
        if "episode" in wanted:
            sample.episode = Episode(
                instruction=instruction,
                actions=bridge_actions(states, commands),
                proprio=states[1:-1].astype(np.float32),
                steps=chosen,
            )
        return sample


class BridgeRawReader(_Reader):
    """Trajectories under ``.../<date>/raw/traj_groupN/trajN``, wherever the folder given lies above them.

    Folders with "lmdb" in their names are passed over. A trajectory without a sentence has the instruction "".
    Sessions before :data:`LATE_UNTIL` lose their first observation and last action. Raises :class:`DataError`.
    """

    def __init__(self, path: str | Path, source: str) -> None:
        self.path, self.source = Path(path), source
        self._folders = sorted(_trajectories(self.path), key=_natural)
        if not self._folders:
            raise DataError(f"{path}: no raw/traj_group*/traj* below it")
        self.shard_sizes = np.ones(len(self._folders), np.int64)

    def __len__(self) -> int:
        return len(self._folders)

    def read(self, index: int, fields: Collection[str] | None = None, choose: ChooseFrames | None = None) -> Sample:
        """As :meth:`interlace.data_recipes.shards.ShardReader.read`."""
        folder = self._folders[index]
        states, commands = _states(folder), _commands(folder)
        steps, late = len(commands), int(_is_late(folder))
        if len(states) not in (steps, steps + 1):
            raise DataError(f"{folder}: {len(states)} states for {steps} actions")
        states, commands = states[late:steps], commands[: steps - late]
        pictures = folder / "images0"

        def picture(step: int) -> np.ndarray:
            file = pictures / f"im_{step + late}.jpg"
            return decode_image(read_bytes(file), str(file))

        recorded = (_sentence(folder), states, commands)
        return self._sample(self.key(index), recorded, picture, fields, choose)

    def key(self, index: int) -> str:
        """The key of sample ``index``: its folder."""
        return str(self._folders[index].relative_to(self.path))


class BridgeRldsReader(_Reader):
    """A folder of ``NAME-<split>.tfrecord-NNNNN-of-NNNNN``, all of a split there. Opening reads records' headers.

    An episode without a sentence has the instruction "". Raises :class:`DataError`.
    """

    def __init__(self, path: str | Path, source: str, split: str = "train") -> None:
        self.path, self.source = Path(path), source
        self._files = _shards(self.path, split)
        spans = [record_spans(file) for file in self._files]
        self.shard_sizes = np.array([len(each) for each in spans], np.int64)
        self._records = [(file, number, span) for file, each in enumerate(spans) for number, span in enumerate(each)]

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int, fields: Collection[str] | None = None, choose: ChooseFrames | None = None) -> Sample:
        """As :meth:`interlace.data_recipes.shards.ShardReader.read`."""
        at, number, (offset, size) = self._records[index]
        file = self._files[at]
        where = f"{file}: record {number}"
        try:
            with open(file, "rb") as stream:
                stream.seek(offset)
                content = parse_example(stream.read(size))
        except OSError as error:
            raise DataError(f"{where}: cannot be read ({error.strerror}); copy the file again") from error
        except (ValueError, KeyError) as error:
            raise DataError(f"{where}: not a tf.train.Example ({error}); copy the file again") from error
        states, commands = (_rows(content, f"steps/{name}", where) for name in ("observation/state", "action"))
        jpegs, texts = content.get("steps/observation/image_0", []), content.get("steps/language_instruction", [])
        if not isinstance(jpegs, list) or not isinstance(texts, list):
            raise DataError(f"{where}: image_0 and language_instruction are not bytes; another version of the dataset?")
        if len(jpegs) != len(states):
            raise DataError(f"{where}: {len(jpegs)} pictures of image_0 for {len(states)} steps")
        text = bytes(texts[0]).decode(errors="replace").strip() if len(texts) else ""

        def picture(step: int) -> np.ndarray:
            return decode_image(bytes(jpegs[step]), f"{where}, step {step}")

        return self._sample(self.key(index), (text, states, commands), picture, fields, choose)

    def key(self, index: int) -> str:
        """The key of sample ``index``: its file and its place there."""
        at, number, _ = self._records[index]
        return f"{self._files[at].name}/{number}"


def _rows(content: dict[str, Feature], name: str, where: str) -> np.ndarray:
    values = content.get(name)
    if not isinstance(values, np.ndarray) or len(values) % (_ARM + 1):
        raise DataError(f"{where}: {name} is not rows of {_ARM + 1} numbers; another version of the dataset?")
    return values.reshape(-1, _ARM + 1).astype(np.float64)


def _shards(path: Path, split: str) -> list[Path]:
    found = {}
    for file in sorted(path.glob("*.tfrecord-*")):
        if (match := _SHARD.fullmatch(file.name)) and match[1] == split:
            found[int(match[2])] = (file, int(match[3]))
    if not found:
        raise DataError(f"{path}: no *-{split}.tfrecord-NNNNN-of-NNNNN here (the folder is bridge_dataset/1.0.0)")
    expected = {count for _, count in found.values()}
    if len(expected) > 1 or set(found) != set(range(max(expected))):
        raise DataError(f"{path}: {len(found)} of {max(expected)} shards of {split}; copy the others")
    return [found[number][0] for number in sorted(found)]


def _trajectories(root: Path) -> list[Path]:
    found = []
    for place, folders, _ in os.walk(root):
        folders[:] = [name for name in folders if "lmdb" not in name]
        parent = Path(place)
        if parent.name.startswith("traj_group") and parent.parent.name == "raw":
            found += [parent / name for name in folders if name.startswith("traj")]
            folders.clear()
    return found


def _natural(path: Path) -> list[tuple[int, str]]:
    """traj10 after traj2."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _is_late(folder: Path) -> bool:
    for part in reversed(folder.parts):
        try:
            return datetime.strptime(part, "%Y-%m-%d_%H-%M-%S") < LATE_UNTIL
        except ValueError:
            continue
    raise DataError(f"{folder}: no folder above it is a date (YYYY-MM-DD_HH-MM-SS); older sessions need one step cut")


def _states(folder: Path) -> np.ndarray:
    content = load_pickle(folder / "obs_dict.pkl")
    if not isinstance(content, dict) or "full_state" not in content:
        raise DataError(f"{folder / 'obs_dict.pkl'}: no full_state in it")
    return _numbers(content["full_state"], folder / "obs_dict.pkl")


def _commands(folder: Path) -> np.ndarray:
    content = load_pickle(folder / "policy_out.pkl")
    if not isinstance(content, Sequence) or not content:
        raise DataError(f"{folder / 'policy_out.pkl'}: not a list of actions")
    rows = [step.get("actions") if isinstance(step, dict) else step for step in content]
    return _numbers(rows, folder / "policy_out.pkl")


def _numbers(rows: object, file: Path) -> np.ndarray:
    try:
        found = np.array(rows, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{file}: not rows of numbers ({error})") from error
    if found.ndim != 2:
        raise DataError(f"{file}: not rows of numbers (but {found.shape})")
    return found


def _sentence(folder: Path) -> str:
    file = folder / "lang.txt"
    if not file.is_file():
        return ""
    lines = read_bytes(file).decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip() and "confidence" not in line]
    return said[0] if said else ""
