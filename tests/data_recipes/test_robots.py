"""Robot data as their authors release it: what is told, seen and done, step for step, and every loss named."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from robots import (
    CALVIN_RANGE,
    calvin_step,
    example,
    record,
    states_and_commands,
    write_bridge_raw,
    write_bridge_rlds,
    write_calvin,
)

from interlace.data_recipes import DataError, Sample
from interlace.data_recipes.bridge import binary_gripper, bridge_actions
from interlace.data_recipes.checks import check_sample
from interlace.data_recipes.formats import FORMATS
from interlace.data_recipes.plain_pickle import load_npy, load_pickle
from interlace.data_recipes.sources import open_source
from interlace.data_recipes.tfrecord import masked_crc, parse_example, record_spans


def kept(sample: Sample) -> Sample:
    """The sample, which breaks no convention."""
    check_sample(sample, {"frames", "episode"}, {}, {})
    return sample


def test_calvin_gives_an_annotations_steps(tmp_path: Path) -> None:
    source = open_source("calvin", "calvin", write_calvin(tmp_path, [CALVIN_RANGE, (0, 63)]))
    assert len(source) == source.shard_sizes.sum() == 2
    assert source.fields == {"frames", "episode"} == FORMATS["calvin"].fields
    sample = kept(source.read(0))
    episode = sample.episode
    assert episode is not None
    assert episode.instruction == "turn on the lightbulb 0"
    assert sample.frames.shape == (64, 16, 16, 3)
    assert (sample.frames[:, 0, 0, 0] == np.arange(3, 67)).all()
    np.testing.assert_allclose(np.diff(sample.times), 1 / 30)
    for row, step in enumerate(range(3, 67)):
        content = calvin_step(step)
        np.testing.assert_allclose(episode.actions[row, :6], content["rel_actions"][:6], rtol=1e-6)
        np.testing.assert_allclose(episode.proprio[row], content["robot_obs"], rtol=1e-6)
        assert episode.actions[row, 6] == (content["rel_actions"][6] == 1)
    chosen = source.read(0, {"frames", "episode"}, lambda times: np.array([1, 9]))
    assert chosen.frames[:, 0, 0, 0].tolist() == [4, 12]
    assert chosen.episode is not None
    assert chosen.episode.steps.tolist() == [1, 9]
    assert len(chosen.episode.actions) == 64
    assert source.read(1, {"episode"}).frames.shape == (64, 0, 0, 3)


def test_calvins_losses_are_named(tmp_path: Path) -> None:
    training = write_calvin(tmp_path)
    source = open_source("calvin", "calvin", training)
    os.remove(training / "episode_0000005.npz")
    with pytest.raises(DataError, match=r"episode_0000005\.npz: missing"):
        source.read(0)
    (training / "episode_0000005.npz").write_bytes(b"PK\x03\x04 half of it")
    with pytest.raises(DataError, match=r"episode_0000005\.npz: no readable"):
        source.read(0)
    shutil.rmtree(training / "lang_annotations")
    with pytest.raises(DataError, match=r"source 'calvin'.*auto_lang_ann\.npy: missing"):
        open_source("calvin", "calvin", training)


def test_calvin_annotations_lie_within_what_was_recorded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="steps 10-73 are in no range"):
        open_source("calvin", "calvin", write_calvin(tmp_path, [(10, 73)]))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


def test_no_pickle_runs_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"full_state": Evil()}))
    np.save(tmp_path / "evil.npy", np.array({"language": Evil()}), allow_pickle=True)
    for load, name in ((load_pickle, "evil.pkl"), (load_npy, "evil.npy")):
        with pytest.raises(DataError, match=rf"{name}: not a pickle of plain data .*mkdir"):
            load(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    for protocol in range(2, 6):
        plain = {"a": np.arange(3.0), "b": [np.float64(2.5), "text", np.array(["x"])]}
        (tmp_path / "plain.pkl").write_bytes(pickle.dumps(plain, protocol))
        found = load_pickle(tmp_path / "plain.pkl")
        assert (found["a"] == plain["a"]).all()
        assert found["b"][:2] == [2.5, "text"]


def expected_bridge(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Actions and states of steps 1, 2, 3, in a loop."""
    states, _ = states_and_commands(5, seed)
    rows = []
    for step in (1, 2, 3):
        change = states[step + 1, :6] - states[step, :6]
        rows.append([*change, {1: 1.0, 2: 0.0, 3: 0.0}[step]])  # commands: 0.97, 0.5 (then 0.02), 0.02, 0.3
    return np.array(rows, np.float32), states[1:4].astype(np.float32)


@pytest.mark.parametrize("release", ["bridge", "bridge_rlds"])
def test_both_releases_of_bridge_give_the_same_episodes(tmp_path: Path, release: str) -> None:
    write = write_bridge_raw if release == "bridge" else write_bridge_rlds
    source = open_source("bridge", release, write(tmp_path / "data"))
    assert len(source) == source.shard_sizes.sum() == 2
    assert FORMATS[release].fields == source.fields
    for index, seed in enumerate((2, 10)):  # traj10 after traj2
        sample = kept(source.read(index))
        episode = sample.episode
        assert episode is not None
        assert episode.instruction == f"put spoon {seed} in the pot"
        actions, proprio = expected_bridge(seed)
        np.testing.assert_allclose(episode.actions, actions, atol=1e-6)
        np.testing.assert_allclose(episode.proprio, proprio, atol=1e-6)
        levels = sample.frames[:, 8, 8, 0].astype(int)
        assert np.abs(levels - (20 * np.arange(1, 4) + seed)).max() <= 2
        np.testing.assert_allclose(np.diff(sample.times), 0.2)
    chosen = source.read(1, None, lambda times: np.array([2]))
    assert chosen.frames.shape[0] == 1
    assert chosen.episode is not None
    assert chosen.episode.steps.tolist() == [2]
    assert len(chosen.episode.actions) == 3
    assert source.read(0, {"episode"}).frames.shape == (3, 0, 0, 3)


def test_early_sessions_lose_a_step_of_delay(tmp_path: Path) -> None:
    """First observation and last action go; of what is left, first and last step as everywhere."""
    source = open_source("bridge", "bridge", write_bridge_raw(tmp_path, "2021-05-01_10-00-00", (2,)))
    sample = kept(source.read(0))
    states, commands = states_and_commands(5, 2)
    assert sample.episode is not None
    np.testing.assert_allclose(sample.episode.proprio, states[2:4], atol=1e-6)
    np.testing.assert_allclose(sample.episode.actions, bridge_actions(states[1:5], commands[:4]), atol=1e-6)
    levels = sample.frames[:, 8, 8, 0].astype(int)
    assert np.abs(levels - (20 * np.array([2, 3]) + 2)).max() <= 2


def test_a_trajectory_without_a_sentence_has_none(tmp_path: Path) -> None:
    root = write_bridge_raw(tmp_path, trajectories=(2,))
    text = next(root.rglob("lang.txt"))
    for content in ("confidence: 0.2\n", "", None):
        text.unlink(missing_ok=True)
        if content is not None:
            text.write_text(content)
        episode = open_source("bridge", "bridge", root).read(0, {"episode"}).episode
        assert episode is not None
        assert episode.instruction == ""


def test_gripper_and_angles_of_bridge() -> None:
    values = np.array([0.5, 0.99, 0.5, 0.4, 0.01, 0.6, 0.97, 0.3])
    np.testing.assert_allclose(binary_gripper(values), [1, 1, 0, 0, 0, 1, 1, 0.3], atol=1e-6)
    states = np.zeros((4, 7))
    states[:, 5] = [0, 3.1, -3.1, -3.0]  # past half a turn
    actions = bridge_actions(states, np.zeros((4, 7)))
    np.testing.assert_allclose(actions[:, 5], [2 * np.pi - 6.2, 0.1], atol=1e-6)


def test_bridges_losses_are_named(tmp_path: Path) -> None:
    root = write_bridge_raw(tmp_path / "raw", trajectories=(2,))
    source = open_source("bridge", "bridge", root)
    next(root.rglob("im_2.jpg")).unlink()
    with pytest.raises(DataError, match=r"im_2\.jpg"):
        source.read(0)
    next(root.rglob("policy_out.pkl")).write_bytes(pickle.dumps([np.zeros(7)] * 3))
    with pytest.raises(DataError, match="6 states for 3 actions"):
        source.read(0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no raw/traj_group"):
        open_source("bridge", "bridge", tmp_path / "empty")


def test_rlds_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    folder = write_bridge_rlds(tmp_path / "1.0.0")
    with pytest.raises(DataError, match="no \\*-val"):
        open_source("bridge", "bridge_rlds_val", folder)
    write_bridge_rlds(folder, (7,), "val", shards=1)
    assert len(open_source("bridge", "bridge_rlds_val", folder)) == 1
    first, second = sorted(folder.glob("*train*"))
    whole = second.read_bytes()
    for content, told in (
        (whole[:-3], "cut short in record 0"),
        (whole + b"\x01\x02", "cut short in the header of record 1"),
        (b"\x01" + whole[1:], "record 0 has a broken header"),
    ):
        second.write_bytes(content)
        with pytest.raises(DataError, match=told):
            open_source("bridge", "bridge_rlds", folder)
    second.write_bytes(record(example({"observation/state": np.zeros(7, np.float32)})))
    with pytest.raises(DataError, match="record 0: steps/observation/state is not rows of 7"):
        open_source("bridge", "bridge_rlds", folder).read(1)
    second.unlink()
    with pytest.raises(DataError, match="1 of 2 shards of train"):
        open_source("bridge", "bridge_rlds", folder)
    assert first.exists()


def test_examples_and_their_checksums(tmp_path: Path) -> None:
    assert (
        masked_crc(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % 2**32
    )  # RFC 3720's CRC-32C
    features = {"text": [b"", b"ab"], "number": np.array([0, 300, -7]), "real": np.array([0.5, -2.0], np.float32)}
    found = parse_example(example(features))
    assert found["text"] == [b"", b"ab"]
    assert list(found["number"]) == [0, 300, -7]
    assert list(found["real"]) == [0.5, -2.0]
    with pytest.raises(ValueError, match="does not fit"):
        parse_example(example(features)[:-4])
    file = tmp_path / "a.tfrecord"
    file.write_bytes(record(b"one") + record(b"three"))
    data = file.read_bytes()
    assert [data[at : at + size] for at, size in record_spans(file)] == [b"one", b"three"]
