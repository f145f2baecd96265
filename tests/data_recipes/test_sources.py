"""Opening sources: the formats that can be, tar files as people have them, and every loss told."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from clips import make_video, numbers
from PIL import Image
from shard_samples import make_sample, write_samples

from interlace.data_recipes import DataError
from interlace.data_recipes.formats import FORMATS
from interlace.data_recipes.media import encode_image
from interlace.data_recipes.sources import READERS, Source, open_source


def picture(level: int, codec: str = "png") -> bytes:
    return encode_image(np.full((12, 16, 3), level, np.uint8), codec)


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """As img2dataset leaves them: keys with gaps, files of a sample in any order, extensions of any case."""
    write_tar(
        tmp_path / "web" / "00000.tar",
        {
            "000000003.jpg": picture(30, "jpeg"),
            "000000003.json": json.dumps({"caption": "a grey wall ", "width": 16}).encode(),
            "000000003.txt": b"a wall\n",
            "000000001.json": json.dumps({"caption": "", "text": "another"}).encode(),
            "000000001.PNG": picture(10),
        },
    )
    write_tar(
        tmp_path / "web" / "00001.tar",
        {
            "./videos/a.b.json": b"{}",
            "./videos/a.mp4": make_video(),
            "000010000.webp": picture(50),
            "000010007.png": picture(70),
            "000010007.txt": b"",
        },
    )
    return tmp_path / "web"


def open_tars(tars: Path) -> Source:
    return open_source("web", "webdataset", tars)


def test_images_with_text(tars: Path) -> None:
    source = open_tars(tars)
    assert len(source) == 5
    assert source.shard_sizes.tolist() == [2, 3]
    assert source.fields == {"frames", "texts"}
    samples = [source.read(number) for number in (0, 1, 3, 4)]
    assert [sample.key for sample in samples] == [
        *("00000/000000003", "00000/000000001", "00001/000010000", "00001/000010007")
    ]
    assert [sample.frames.shape for sample in samples] == [(1, 12, 16, 3)] * 4
    assert [int(sample.frames.mean()) for sample in samples] == [30, 10, 50, 70]
    assert [[text.answer for text in sample.texts] for sample in samples] == [["a wall"], ["another"], [], []]
    assert samples[0].texts[0].kind == "caption"
    assert samples[0].texts[0].frame == 0
    assert {sample.source for sample in samples} == {"web"}


def test_videos_and_chosen_frames(tars: Path) -> None:
    source = open_tars(tars)
    whole = source.read(2)
    assert whole.key == "00001/videos/a"
    assert numbers(whole.frames) == list(range(24))
    few = source.read(2, {"frames"}, lambda times: np.array([3, 9, 9]))
    assert numbers(few.frames) == [3, 9, 9]
    np.testing.assert_array_equal(few.times, whole.times[[3, 9, 9]])
    # a still image can be asked for twice, like any frame
    assert source.read(0, None, lambda times: np.zeros(2, int)).frames.shape[0] == 2


def test_only_what_was_asked_for(tars: Path) -> None:
    source = open_tars(tars)
    assert source.read(0, {"texts"}).frames.shape == (1, 0, 0, 3)
    assert source.read(2, {"texts"}).frames.shape == (24, 0, 0, 3)
    assert source.read(0, {"frames"}).texts == []
    with pytest.raises(DataError, match=r"source 'web' .* has no depth"):
        source.read(0, {"frames", "depth"})


def test_pickles(tars: Path) -> None:
    assert pickle.loads(pickle.dumps(open_tars(tars))).read(4).key == "00001/000010007"


def test_one_tar_and_no_text(tmp_path: Path) -> None:
    source = open_source("one", "webdataset", write_tar(tmp_path / "one.tar", {"a.png": picture(1)}))
    assert (len(source), source.fields) == (1, {"frames"})


def test_mds(tmp_path: Path) -> None:
    source = open_source("mine", "mds", write_samples(tmp_path / "rooms", [make_sample(0)]))
    assert source.read(0).source == "mine"


# --- what is broken is an error, and never fewer samples ------------------------------------------------------------


def test_every_cut_of_a_tar_is_noticed(tars: Path) -> None:
    file = tars / "00000.tar"
    data = file.read_bytes()
    with tarfile.open(file) as tar:
        end = max(info.offset_data + info.size for info in tar)
    used = -(-end // 512) * 512
    for keep in range(0, used + 1, 512):
        file.write_bytes(data[:keep])
        with pytest.raises(DataError, match=r"source 'web': .*00000\.tar: broken tar"):
            open_tars(tars)


def test_every_broken_header_is_noticed(tars: Path) -> None:
    file = tars / "00000.tar"
    data = file.read_bytes()
    with tarfile.open(file) as tar:
        offsets = [info.offset for info in tar]
    for offset in offsets:
        file.write_bytes(data[:offset] + b"\xff" * 512 + data[offset + 512 :])
        with pytest.raises(DataError, match=r"00000\.tar: broken tar"):
            open_tars(tars)


def test_broken_picture_names_tar_and_key(tars: Path) -> None:
    file = tars / "00001.tar"
    data = file.read_bytes()
    file.write_bytes(data.replace(picture(50)[:60], bytes(60)))
    source = open_tars(tars)
    source.read(4)
    with pytest.raises(DataError, match=r"source 'web' .*00001\.tar.: sample '00001/000010000': not an image"):
        source.read(3)


def test_tar_cut_under_an_open_source(tars: Path) -> None:
    source = open_tars(tars)
    (tars / "00000.tar").write_bytes((tars / "00000.tar").read_bytes()[:600])
    with pytest.raises(DataError, match=r"sample '00000/000000003': the tar is shorter"):
        source.read(0)
    (tars / "00000.tar").unlink()
    with pytest.raises(DataError, match=r"sample '00000/000000003': cannot be read"):
        source.read(0)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.txt": b"alone"}, "key 'a' has txt; one must be an image or a video"),
        ({"a.png": picture(1), "a.jpg": picture(1)}, "key 'a' has png, jpg; one must be"),
        ({"a.png": picture(1), "a.PNG": picture(1)}, "two files 'a.PNG'"),
    ],
)
def test_odd_members(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source("odd", "webdataset", write_tar(tmp_path / "odd.tar", members))


@pytest.mark.parametrize("text", [b"{", b"[1]", b"\xff\xfe"])
def test_bad_json(tmp_path: Path, text: bytes) -> None:
    source = open_source("a", "webdataset", write_tar(tmp_path / "a.tar", {"k.png": picture(1), "k.json": text}))
    with pytest.raises(DataError, match=r"sample 'a/k': its"):
        source.read(0)


def test_a_source_without_a_sample_is_told_when_it_is_opened(tmp_path: Path) -> None:
    empty = write_tar(tmp_path / "web" / "00000.tar", {})
    with pytest.raises(DataError, match=r"source 'web': .*00000\.tar: no sample in it"):
        open_source("web", "webdataset", empty)


@pytest.mark.parametrize("name", ["nowhere", "empty", "packed.tar.gz"])
def test_no_tar(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz"):
        pass
    with pytest.raises(DataError, match=r"source 'web': .*(no \.tar file|broken tar)"):
        open_source("web", "webdataset", tmp_path / name)


@pytest.mark.parametrize("format", sorted(set(FORMATS) - set(READERS)))
def test_native_formats_cannot_be_opened_yet(tmp_path: Path, format: str) -> None:
    with pytest.raises(DataError, match=f"source 'a': format '{format}' cannot be opened yet .these can: mds, webdata"):
        open_source("a", format, tmp_path)


def test_what_can_be_opened_is_a_format() -> None:
    assert set(READERS) <= set(FORMATS)


def test_sixteen_bit_images_are_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(stream, "PNG")
    source = open_source("a", "webdataset", write_tar(tmp_path / "a.tar", {"depth.png": stream.getvalue()}))
    with pytest.raises(DataError, match="an image of mode I;16, not of 8 bits"):
        source.read(0)
