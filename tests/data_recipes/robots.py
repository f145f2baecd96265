"""Tiny robot datasets in the layouts that their authors release."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from interlace.data_recipes.media import encode_image
from interlace.data_recipes.tfrecord import masked_crc

CALVIN_RANGE = (3, 66)


def calvin_step(step: int) -> dict[str, np.ndarray]:
    """What is in one time step's file."""
    rng = np.random.default_rng(step)
    relative = rng.uniform(-1, 1, 7)
    relative[6] = 1 if step % 20 < 10 else -1
    return {
        "rgb_static": np.full((16, 16, 3), step, np.uint8),
        "rgb_gripper": np.full((8, 8, 3), 255 - step, np.uint8),
        "actions": rng.uniform(-1, 1, 7),
        "rel_actions": relative,
        "robot_obs": rng.uniform(-1, 1, 15),
        "scene_obs": rng.uniform(-1, 1, 24),
    }


def write_calvin(folder: Path, ranges: list[tuple[int, int]] | None = None) -> Path:
    """``training`` of 70 steps recorded in one go, with an annotation of each range."""
    training = folder / "training"
    (training / "lang_annotations").mkdir(parents=True)
    for step in range(70):
        np.savez(training / f"episode_{step:07d}.npz", **calvin_step(step))
    np.save(training / "ep_start_end_ids.npy", np.array([[0, 69]]))
    ranges = ranges or [CALVIN_RANGE]
    texts = [f"turn on the lightbulb {number}" for number in range(len(ranges))]
    content = {
        "language": {"ann": texts, "task": ["turn_on_lightbulb"] * len(ranges), "emb": np.zeros((len(ranges), 1, 4))},
        "info": {"indx": ranges, "episodes": []},
    }
    np.save(training / "lang_annotations" / "auto_lang_ann.npy", content, allow_pickle=True)  # type: ignore[arg-type]
    return training


def states_and_commands(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """[count + 1, 7] and [count, 7]; the first command is zero, as in the releases."""
    rng = np.random.default_rng(seed)
    states, commands = rng.uniform(-0.3, 0.3, (count + 1, 7)), rng.uniform(-0.05, 0.05, (count, 7))
    commands[:, 6] = [1.0, 0.97, 0.5, 0.02, 0.3][:count]
    commands[0] = 0
    return states, commands


def write_bridge_raw(root: Path, date: str = "2022-01-01_00-00-00", trajectories: tuple[int, ...] = (2, 10)) -> Path:
    """Trajectories of 5 actions, 6 states and 6 pictures 64 x 48, numbered without padding; one folder to pass over."""
    session = root / "rss" / "toykitchen2" / "set_table" / "00" / date / "raw"
    for number in trajectories:
        folder = session / "traj_group0" / f"traj{number}"
        (folder / "images0").mkdir(parents=True)
        states, commands = states_and_commands(5, number)
        (folder / "obs_dict.pkl").write_bytes(pickle.dumps({"full_state": states, "time_stamp": list(range(6))}))
        rows = [{"actions": row} if number % 4 else row for row in commands]
        (folder / "policy_out.pkl").write_bytes(pickle.dumps(rows))
        (folder / "lang.txt").write_text(f"put spoon {number} in the pot\nconfidence: 1.0\n")
        for step in range(6):
            image = np.full((48, 64, 3), 20 * step + number, np.uint8)
            Image.fromarray(image).save(folder / "images0" / f"im_{step}.jpg", quality=95)
    (session / "traj_group0_lmdb" / "traj0").mkdir(parents=True)
    return root


def _varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def example(features: dict[str, list[bytes] | np.ndarray]) -> bytes:
    """A ``tf.train.Example``, written by the protocol's description."""
    entries = b""
    for name, values in features.items():
        if isinstance(values, list):
            feature = _field(1, b"".join(_field(1, value) for value in values))
        elif values.dtype.kind == "f":
            feature = _field(2, _field(1, values.astype("<f4").tobytes()))
        else:
            feature = _field(3, _field(1, b"".join(_varint(int(value) % 2**64) for value in values)))
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


def record(data: bytes) -> bytes:
    """A TFRecord of one payload."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def write_bridge_rlds(folder: Path, seeds: tuple[int, ...] = (2, 10), split: str = "train", shards: int = 2) -> Path:
    """An episode of 5 steps for each seed, the first ``len(seeds) - 1`` in the first shard."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for seed in seeds:
        states, commands = states_and_commands(5, seed)
        features: dict[str, list[bytes] | np.ndarray] = {
            "steps/observation/image_0": [
                encode_image(np.full((32, 32, 3), 20 * step + seed, np.uint8), "jpeg") for step in range(5)
            ],
            "steps/observation/state": states[:5].ravel(),
            "steps/action": commands.ravel(),
            "steps/language_instruction": [f"put spoon {seed} in the pot".encode()] * 5,
            "steps/is_first": np.array([1, 0, 0, 0, 0]),
            "episode_metadata/episode_id": np.array([-seed]),
            "steps/reward": np.zeros(5, np.float32),
        }
        records.append(record(example(features)))
    parts = [records[:-1], records[-1:]] if shards == 2 else [records]
    for number, part in enumerate(parts):
        (folder / f"bridge_dataset-{split}.tfrecord-{number:05d}-of-{shards:05d}").write_bytes(b"".join(part))
    return folder
