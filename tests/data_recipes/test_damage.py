"""Whatever becomes of a file under a source, reading gives the sample or says what is wrong: no other error."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import make_video
from PIL import Image
from robots import calvin_step, write_bridge_raw, write_bridge_rlds, write_calvin
from shard_samples import make_sample, write_samples

from interlace.data_recipes import DataError
from interlace.data_recipes.media import encode_image
from interlace.data_recipes.prepare_folder import prepare_folder
from interlace.data_recipes.sources import Source, open_source
from interlace.data_recipes.tfrecord import parse_example
from interlace.data_recipes.video import Video

#: Damages tried on every file of a format.
TRIALS = 40


def write_tars(folder: Path) -> Path:
    import tarfile

    folder.mkdir(parents=True)
    members = {
        "a.png": encode_image(np.full((12, 16, 3), 7, np.uint8), "png"),
        "a.json": json.dumps({"caption": "a wall"}).encode(),
        "b.mp4": make_video(6),
        "c.jpg": encode_image(np.full((12, 16, 3), 9, np.uint8), "jpeg"),
        "c.txt": b"a floor",
    }
    with tarfile.open(folder / "0.tar", "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return folder


def write_llava(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "videos").mkdir()
    Image.new("RGB", (8, 6), (1, 0, 0)).save(folder / "images" / "a.png")
    (folder / "videos" / "b.mp4").write_bytes(make_video(6))
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a bed"}]
    rows = [{"id": 0, "image": "a.png", "conversations": said}, {"id": 1, "video": "b.mp4", "conversations": said}]
    (folder / "chat.json").write_text(json.dumps(rows))
    return folder / "chat.json"


def write_parquet(folder: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder.mkdir(parents=True)
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (1, 0, 0)).save(stream, "PNG")
    said = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "a bed"}]
    rows = [{"image": {"bytes": stream.getvalue(), "path": None}, "conversations": said} for _ in range(4)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "chat.parquet", row_group_size=2)
    return folder / "chat.parquet"


FORMATS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "mds": ("mds", lambda folder: write_samples(folder, [make_sample(n, height=6, width=8) for n in range(4)])),
    "webdataset": ("webdataset", write_tars),
    "llava": ("llava", write_llava),
    "parquet": ("llava", write_parquet),
    "calvin": ("calvin", lambda folder: write_calvin(folder, [(0, 3), (2, 5)])),
    "bridge": ("bridge", lambda folder: write_bridge_raw(folder)),
    "bridge_rlds": ("bridge_rlds", lambda folder: write_bridge_rlds(folder)),
}


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, a piece cut out, the end cut off, or nothing left."""
    kind, at = rng.random(), int(rng.integers(len(data) + 1))
    if kind < 0.6:
        changed = bytearray(data)
        for place in rng.integers(len(data), size=int(rng.integers(1, 6))):
            changed[place] = int(rng.integers(256))
        return bytes(changed)
    if kind < 0.75:
        return data[:at] + data[at + int(rng.integers(1, 64)) :]
    return data[:at] if kind < 0.95 else b""


@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_told_and_nothing_else_is_raised(name: str, tmp_path: Path) -> None:
    format, write = FORMATS[name]
    path = write(tmp_path / "whole")
    root = tmp_path / "whole"
    rng = np.random.default_rng(7)
    source = open_source("it", format, path)
    read = [source.key(index) for index in range(len(source))]
    files = sorted(file for file in root.rglob("*") if file.is_file())
    if name == "calvin":  # of 70 steps those that are read
        files = [file for file in files if file.suffix == ".npy" or "000000" in file.name]
    told = 0
    for trial in range(max(TRIALS, 2 * len(files))):
        file = files[trial % len(files)]
        good = file.read_bytes()
        file.write_bytes(damaged(good, rng))
        told += sum(refusals(source, lambda: open_source("it", format, path)))
        file.write_bytes(good)
    assert told > TRIALS / 4
    assert [source.key(index) for index in range(len(source))] == read


def refusals(source: Source, reopen: Callable[[], Source]) -> list[bool]:
    """Whether what was opened before the damage, and what is opened after it, refuse: each with one line."""
    found = []
    for opened in (lambda: source, reopen):
        try:
            whole = opened()
            for index in range(len(whole)):
                try:
                    sample = whole.read(index)
                    assert len(sample.frames) == len(sample.times)
                except DataError:
                    found.append(True)
        except DataError:
            found.append(True)
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_files_that_go_away_under_an_open_source(name: str, tmp_path: Path) -> None:
    format, write = FORMATS[name]
    source = open_source("it", format, write(tmp_path / "whole"))
    shutil.rmtree(tmp_path / "whole")
    for index in range(len(source)):
        with pytest.raises(DataError) as caught:
            source.read(index)
        assert "\n" not in str(caught.value)


def test_an_empty_video_is_one_line() -> None:
    with pytest.raises(DataError, match=r"^nothing\.mp4: broken video"):
        Video(b"", "nothing.mp4")


def test_a_video_of_0_frames_a_second_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Still(Video):
        def _open(self) -> Any:
            return _StillStream()

    with pytest.raises(DataError, match=r"^still: 0 frames a second \(its time stamps stand still\); write it with"):
        Still(b"", "still")


class _StillStream:
    """A stream whose packets all have the same time, as writers without a frame rate leave."""

    frames, time_base = 3, 1 / 12

    def __enter__(self) -> tuple[Any, Any]:
        return self, self

    def __exit__(self, *error: object) -> None:
        return None

    def demux(self, stream: Any) -> list[Any]:
        class Packet:
            size, is_discard, pts = 1, False, 5

        return [Packet()] * 3


@pytest.mark.parametrize("fps", [0, -1.0, float("nan"), float("inf")])
def test_shards_of_0_frames_a_second_are_refused(tmp_path: Path, fps: float) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "pictures" / "a.png")
    with pytest.raises(DataError, match=r"shards: .* frames a second; it must be a number above 0"):
        prepare_folder(tmp_path / "pictures", tmp_path / "shards", fps=fps)
    assert os.listdir(tmp_path) == ["pictures"]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "rgb_static",
            np.zeros((8, 8, 3), np.uint8),
            r"rgb_static is uint8 \(8, 8, 3\), before it uint8 \(16, 16, 3\)",
        ),
        ("rel_actions", np.zeros(6), r"rel_actions is float64 \(6,\), before it float64 \(7,\)"),
        ("rel_actions", np.full(7, np.nan), "rel_actions are not finite rows of 7"),
        ("robot_obs", np.full(15, np.inf), "robot_obs are not finite rows of 15"),
        ("rel_actions", np.array(["a"] * 7), "rel_actions is <U1"),
    ],
)
def test_a_step_of_calvin_that_does_not_fit(tmp_path: Path, name: str, value: np.ndarray, told: str) -> None:
    training = write_calvin(tmp_path, [(0, 3)])
    np.savez(training / "episode_0000002.npz", **(calvin_step(2) | {name: value}))
    with pytest.raises(DataError, match=told):
        open_source("calvin", "calvin", training).read(0)


def test_a_stored_frame_of_another_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import interlace.data_recipes.shards as shards

    good = shards.encode_image
    small = lambda image, codec: good(image[:5] if image[0, 0, 0] == 11 else image, codec)  # noqa: E731
    monkeypatch.setattr(shards, "encode_image", small)
    source = open_source("rooms", "mds", write_samples(tmp_path / "rooms", [make_sample(2, height=6, width=8)]))
    with pytest.raises(DataError, match=r"sample 'rooms/000002', frame 1: 8x5, not 8x6"):
        source.read(0)


def test_a_picture_of_bridge_of_another_size(tmp_path: Path) -> None:
    root = write_bridge_raw(tmp_path)
    picture = next(root.rglob("traj2/images0/im_3.jpg"))
    Image.new("RGB", (32, 32)).save(picture)
    with pytest.raises(DataError, match="traj2': its pictures have different sizes"):
        open_source("bridge", "bridge", root).read(0)


def test_numbers_of_any_size_in_a_record() -> None:
    endless = b"\xff" * 9 + b"\x7f"  # 70 bits
    feature = bytes([0x1A, 1 + len(endless), 0x08]) + endless  # an int64_list of one value
    pair = bytes([0x0A, 1]) + b"x" + bytes([0x12, len(feature)]) + feature
    data = bytes([0x0A, len(pair) + 2, 0x0A, len(pair)]) + pair
    assert parse_example(data)["x"] == -1
