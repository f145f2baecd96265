"""Shards give back what was written, only as much as was asked for, and never half a dataset or a silent loss."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_samples import make_sample, with_tests_on_path, write_samples

from interlace.data_recipes import FIELDS, DataError, Sample, ShardReader, mds
from interlace.data_recipes.mds import MdsFolder, decode_array
from interlace.data_recipes.media import decode_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("shards") / "rooms", [make_sample(number) for number in range(8)])


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if hasattr(a, "__dataclass_fields__"):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))
    return a == b


def test_every_field_comes_back_exactly(folder: Path) -> None:
    reader = ShardReader(folder)
    assert len(reader) == 8
    assert len(reader.shard_sizes) > 1
    assert reader.fields == set(FIELDS)
    for number in range(8):
        assert same(reader.read(number), make_sample(number))


def test_a_file_system_that_gives_less_at_once_breaks_no_sample(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trickle(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, 100))

    monkeypatch.setattr(mds, "open", lambda file, mode, buffering: Trickle(file, "r"), raising=False)
    assert same(ShardReader(folder).read(3), make_sample(3))


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), count=st.integers(1, 5), sky=st.booleans())
def test_any_size_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, count: int, sky: bool
) -> None:
    sample = make_sample(3, count=count, height=height, width=width)
    if not sky:
        sample.sky = None
    folder = write_samples(tmp_path_factory.mktemp("any") / "rooms", [sample])
    assert same(ShardReader(folder).read(0), sample)


def test_streamings_own_reader_finds_the_same_bytes(folder: Path) -> None:
    from streaming.base.format import reader_from_json

    ours = MdsFolder(folder)
    at = 0
    for shard in json.loads((folder / "index.json").read_text())["shards"]:
        reader = reader_from_json(str(folder), None, shard)
        for row in range(shard["samples"]):
            theirs, columns = reader.decode_sample(reader.get_sample_data(row)), ours.columns(at, set(ours.encodings))
            assert theirs["depth"] == columns["depth"]
            assert theirs["meta"] == json.loads(columns["meta"])
            for name in ("times", "K", "c2w"):
                np.testing.assert_array_equal(theirs[name], decode_array(columns[name], str(theirs[name].dtype)))
            np.testing.assert_array_equal(np.array(theirs["frames"][0]), make_sample(at).frames[0])
            at += 1
    assert at == len(ours)


def test_jpeg_frames_are_close(tmp_path: Path) -> None:
    smooth = make_sample(0, count=1)
    ramp = np.linspace(0, 255, 32)[None, :, None] * np.array([1.0, 0.5, 0.2])
    smooth.frames = np.broadcast_to(ramp, (1, 24, 32, 3)).astype(np.uint8)
    found = ShardReader(write_samples(tmp_path / "rooms", [replace(smooth, texts=[])], codec="jpeg")).read(0)
    assert 0 < np.abs(found.frames.astype(int) - smooth.frames).max() < 10


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "frames"])
def test_only_what_was_asked_for(folder: Path, field: str) -> None:
    whole, found = make_sample(1), ShardReader(folder).read(1, {field})
    assert found.frames.shape == (3, 0, 0, 3)
    held = {"depth": ("depth", "sky"), "camera": ("K", "c2w")}.get(field, (field,))
    for name in ("depth", "sky", "K", "c2w", "texts", "clusters", "labels", "episode"):
        if name in held:
            assert same(getattr(found, name), getattr(whole, name))
        else:
            assert getattr(found, name) is None or getattr(found, name) in ([], {})


def test_an_episode_stays_whole_where_frames_are_chosen(folder: Path) -> None:
    whole, found = make_sample(1).episode, ShardReader(folder).read(1, choose=lambda times: np.array([0, 2])).episode
    assert whole is not None
    assert found is not None
    assert same(found, replace(whole, steps=whole.steps[[0, 2]]))


def test_a_robot_may_know_nothing_of_itself(tmp_path: Path) -> None:
    sample = make_sample(0)
    assert sample.episode is not None
    sample.episode = replace(sample.episode, proprio=np.zeros((5, 0), np.float32))
    assert same(ShardReader(write_samples(tmp_path / "rooms", [sample])).read(0), sample)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"actions": np.full((5, 4), np.nan, np.float32)}, "not finite"),
        ({"actions": np.full((5, 4), -1, np.float32)}, "gripper"),
        ({"actions": np.zeros((0, 4), np.float32)}, "at least one step"),
        ({"proprio": np.zeros((4, 3), np.float32)}, "proprio"),
        ({"steps": np.array([3, 4, 5])}, "do not ascend within the 5"),
        ({"steps": np.array([0, 1])}, "steps are not"),
    ],
)
def test_broken_episodes_are_refused(tmp_path: Path, change: dict[str, np.ndarray], rule: str) -> None:
    sample = make_sample(0)
    assert sample.episode is not None
    sample.episode = replace(sample.episode, **change)
    with pytest.raises(DataError, match=rule):
        write_samples(tmp_path / "rooms", [sample])


def test_frames_not_asked_for_are_not_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    monkeypatch.setattr(
        "interlace.data_recipes.shards.decode_image",
        lambda data, name: (decoded.append(name), decode_image(data, name))[1],
    )
    reader = ShardReader(folder)
    reader.read(2, {"depth", "texts"})
    assert decoded == []
    reader.read(2, {"frames"}, lambda times: np.array([1]))
    assert [name.rsplit(" ", 1)[1] for name in decoded] == ["1"]


def test_chosen_frames_cut_everything_along_time(folder: Path) -> None:
    whole, found = make_sample(2), ShardReader(folder).read(2, None, lambda times: np.array([1, 2, 2]))
    for name in ("frames", "times", "depth", "sky", "K", "c2w"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name)[[1, 2, 2]])
    # the caption is of frame 2, now the last; the grounding is of frame 0, which is gone
    assert [(text.kind, text.frame) for text in found.texts] == [("caption", 2)]
    assert same(ShardReader(folder).read(2, None, lambda times: None), whole)


@pytest.mark.parametrize("indices", [[], [3], [-1, 0], [2, 1]])
def test_impossible_frames_are_refused(folder: Path, indices: list[int]) -> None:
    with pytest.raises(IndexError, match=r"rooms/000002.*must ascend within its 3"):
        ShardReader(folder).read(2, None, lambda times: np.array(indices, int))


def test_the_source_name_is_the_recipes(folder: Path) -> None:
    assert ShardReader(folder).read(0, {"labels"}).source == "rooms"
    assert ShardReader(folder, "other").read(0, {"labels"}).source == "other"


def test_pickles_small_and_holds_no_file(folder: Path) -> None:
    reader = ShardReader(folder)
    reader.read(0)
    handles = len(os.listdir("/proc/self/fd")) if Path("/proc").is_dir() else 0
    for number in range(8):
        reader.read(number)
    assert handles == (len(os.listdir("/proc/self/fd")) if Path("/proc").is_dir() else 0)
    assert same(pickle.loads(pickle.dumps(reader)).read(5), make_sample(5))
    assert len(pickle.dumps(reader)) < 10_000


def test_reading_imports_no_streaming(folder: Path) -> None:
    code = f"""
import sys
from interlace.data_recipes import ShardReader
ShardReader({str(folder)!r}).read(0)
assert not {{"streaming", "torch", "transformers"}} & set(sys.modules)
"""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)
    assert time.perf_counter() - start < 10  # 0.3 s alone; `import streaming` would be 4 s on top


def test_unknown_field(folder: Path, tmp_path: Path) -> None:
    photographs = write_samples(tmp_path / "photographs", [make_sample(0)], ("frames",))
    with pytest.raises(DataError, match=r"source 'rooms' .*photographs.* has no camera, depth; it has frames"):
        ShardReader(photographs).read(0, {"frames", "depth", "camera"})


# --- what a crash or a damaged disk leaves --------------------------------------------------------------------------


def copied(folder: Path, tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_missing_shard(folder: Path, tmp_path: Path) -> None:
    target = copied(folder, tmp_path)
    (target / "shard.00001.mds").unlink()
    with pytest.raises(DataError, match=r"shard\.00001\.mds: the shard is missing"):
        ShardReader(target)


def test_truncated_shard(folder: Path, tmp_path: Path) -> None:
    target = copied(folder, tmp_path)
    file = target / "shard.00001.mds"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"shard\.00001\.mds: {file.stat().st_size} bytes, but index.json says"):
        ShardReader(target)


def test_shard_cut_under_an_open_reader(folder: Path, tmp_path: Path) -> None:
    target = copied(folder, tmp_path)
    reader = ShardReader(target)
    (target / "shard.00000.mds").write_bytes((target / "shard.00000.mds").read_bytes()[:-3000])
    (target / "shard.00001.mds").unlink()
    with pytest.raises(DataError, match=r"shard\.00000\.mds: sample 2: the shard is cut short"):
        reader.read(2)
    with pytest.raises(DataError, match=r"shard\.00001\.mds: sample 3: cannot be read"):
        reader.read(3)


def test_flipped_bits_are_found_by_verify(folder: Path, tmp_path: Path) -> None:
    target = copied(folder, tmp_path)
    data = bytearray((target / "shard.00001.mds").read_bytes())
    data[len(data) // 2] ^= 4
    (target / "shard.00001.mds").write_bytes(bytes(data))
    reader = ShardReader(target)
    with pytest.raises(DataError, match=r"shard\.00001\.mds: its sha256 is not the one in index.json"):
        reader.verify()
    ShardReader(folder).verify()


@pytest.mark.parametrize("column", ["frames", "depth", "meta", "times", "clusters"])
def test_damaged_column_names_the_sample(folder: Path, monkeypatch: pytest.MonkeyPatch, column: str) -> None:
    reader, columns = ShardReader(folder), MdsFolder.columns
    monkeypatch.setattr(
        MdsFolder, "columns", lambda self, i, names: columns(self, i, names) | {column: b"\x81broken" * 3}
    )
    name = "4" if column == "meta" else "'rooms/000004'"
    with pytest.raises(DataError, match=f"source 'rooms' .*sample {name}.*damaged"):
        reader.read(4)


def test_broken_jpeg_names_sample_and_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import interlace.data_recipes.shards as shards

    good = shards.encode_image
    monkeypatch.setattr(shards, "encode_image", lambda image, codec: good(image, codec)[:150])
    reader = ShardReader(write_samples(tmp_path / "rooms", [make_sample(6)], codec="jpeg"))
    with pytest.raises(DataError, match="sample 'rooms/000006', frame 0: broken image"):
        reader.read(0)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("dataset.json", None, "dataset.json: no such file; the folder is not a dataset, or was not finished"),
        ("dataset.json", "{", "dataset.json: not JSON"),
        ("dataset.json", '{"version": 9}', "dataset.json: version 9"),
        ("index.json", None, "index.json: no such file"),
        ("index.json", '{"shards": 3}', "index.json: not an MDS index"),
        ("index.json", '{"shards": []}', "0 samples in index.json, 8 in dataset.json"),
    ],
)
def test_bad_folder(folder: Path, tmp_path: Path, file: str, change: str | None, message: str) -> None:
    target = copied(folder, tmp_path)
    if change is None:
        (target / file).unlink()
    else:
        (target / file).write_text(change)
    with pytest.raises(DataError, match=message):
        ShardReader(target)


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    wrong = make_sample(1)
    wrong.depth = None
    with pytest.raises(DataError, match="sample 'rooms/000001': no depth"):
        write_samples(tmp_path / "rooms", [make_sample(0), wrong])
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_dataset_and_the_next_try_works(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from shard_samples import make_sample, write_samples
def samples():
    yield from map(make_sample, range(6))
    os._exit(9)
write_samples(Path(sys.argv[1]), samples())
"""
    command = [sys.executable, "-c", code, str(tmp_path / "rooms")]
    done = subprocess.run(command, env=with_tests_on_path(), cwd=tmp_path)
    assert done.returncode == 9
    assert [path.name for path in tmp_path.iterdir()] == [".rooms.partial"]
    assert len(ShardReader(write_samples(tmp_path / "rooms", [make_sample(0)]))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["rooms"]


def test_a_folder_in_use_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="already there and not empty"):
        write_samples(folder, [make_sample(0)])
    assert len(ShardReader(folder)) == 8


def test_no_sample(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sample was written"):
        write_samples(tmp_path / "rooms", [])
    assert list(tmp_path.iterdir()) == []


def test_a_key_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="key 'a' is written twice"):
        write_samples(tmp_path / "rooms", [make_sample(0, key="a"), make_sample(1, key="a")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": ("frames", "dept")}, "must hold 'frames' and be among"),
        ({"fields": ("depth",)}, "must hold 'frames' and be among"),
        ({"codec": "gif"}, "codec 'gif' must be one of jpeg, png"),
        ({"classes": {}}, "field 'labels' and classes must be given together"),
    ],
)
def test_bad_writer_options(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_samples(tmp_path / "rooms", [make_sample(0)], **options)


def broken(**changes: object) -> Sample:
    return replace(make_sample(0), **changes)  # type: ignore[arg-type]


GOOD = make_sample(0)
assert GOOD.depth is not None
assert GOOD.K is not None
assert GOOD.c2w is not None
assert GOOD.sky is not None


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (broken(key=""), "the key is empty"),
        (broken(frames=GOOD.frames.astype(np.float32)), "frames are float32"),
        (broken(frames=GOOD.frames[:, :, :0]), "frames are empty"),
        (broken(times=GOOD.times[:2]), r"times \(2,\) are not"),
        (broken(times=GOOD.times[::-1]), "times do not increase"),
        (broken(depth=GOOD.depth[:, :5]), "depth is float32"),
        (broken(depth=-GOOD.depth), "depth is negative"),
        (broken(depth=np.where(GOOD.depth > 3, np.nan, GOOD.depth)), "not finite"),
        (broken(sky=~GOOD.sky), "sky has depth"),
        (broken(K=None), "no camera"),
        (broken(K=-GOOD.K), "positive focal"),
        (broken(c2w=GOOD.c2w * 1.1), "not a rotation"),
        (broken(c2w=GOOD.c2w * np.array([1, 1, -1, 1])), "not a rotation"),
        (broken(texts=[replace(GOOD.texts[0], frame=3)]), "text of frame 3, of 3 frames"),
        (broken(texts=[replace(GOOD.texts[0], kind="poem")]), "text of kind 'poem'"),
        (broken(texts=[replace(GOOD.texts[1], boxes=GOOD.texts[1].boxes * 5)]), "not normalised xyxy"),
        (broken(texts=[replace(GOOD.texts[1], boxes=GOOD.texts[1].boxes[:, ::-1])]), "not normalised xyxy"),
        (broken(clusters={}), "no clusters"),
        (broken(clusters={"sound": np.array([1])}), "clusters of bank 'sound'; the dataset has object, motion"),
        (broken(clusters={"motion": np.array([8])}), "bank 'motion': centres outside 0..7"),
        (broken(clusters={"motion": np.array([0.5])}), "not .n. integers"),
        (broken(labels={"floor": 3}), "label 'floor' is 3, of 3 classes"),
        (broken(labels={"door": 0}), "label 'door'; the dataset has floor"),
    ],
)
def test_what_breaks_a_convention_is_not_written(tmp_path: Path, sample: Sample, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_samples(tmp_path / "rooms", [sample])
