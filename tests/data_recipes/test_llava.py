"""LLaVA's conversations, in every form people have them in."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import make_video, numbers
from PIL import Image

from interlace.data_recipes.media import DataError
from interlace.data_recipes.sources import open_source


def row(number: int, **more: Any) -> dict[str, Any]:
    said = [
        {"from": "human", "value": f"<image>\nWhat is ünder {number}?"},
        {"from": "gpt", "value": f"a bêd {number}"},
        {"from": "human", "value": "And above?"},
        {"from": "gpt", "value": "nothing"},
    ]
    return {"id": f"n{number}", "image": f"some/{number}.png", "conversations": said, **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images" / "some").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / "images" / "some" / f"{number}.png")
    return tmp_path


def write(folder: Path, name: str, rows: list[Any]) -> Path:
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(each, ensure_ascii=False) for each in rows) + "\n\n", encoding="utf-8")
    else:
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["chat.json", "chat.jsonl"])
def test_rows_are_read_by_index(folder: Path, name: str) -> None:
    source = open_source("c", "llava", write(folder, name, [row(n) for n in range(3)]))
    source = pickle.loads(pickle.dumps(source))
    assert len(source) == 3
    assert source.shard_sizes.tolist() == [3]
    for number in (2, 0, 1):
        sample = source.read(number)
        assert sample.key == f"chat/{number:08d}-n{number}"
        assert sample.frames.shape == (1, 6, 8, 3)
        assert sample.frames[0, 0, 0].tolist() == [number, 0, 0]
        found = [(text.kind, text.prompt, text.answer, text.frame) for text in sample.texts]
        assert found == [
            ("turn", f"What is ünder {number}?", f"a bêd {number}", 0),
            ("turn", "And above?", "nothing", 0),
        ]


def test_roles_leading_answers_and_open_questions(folder: Path) -> None:
    said = [
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "who?"},
        {"role": "assistant", "content": "me"},
        {"role": "user", "content": "why?"},
    ]
    source = open_source("c", "llava", write(folder, "c.json", [{"messages": said}]))
    sample = source.read(0)
    assert [(text.prompt, text.answer) for text in sample.texts] == [("who?", "me")]
    assert len(sample.frames) == len(sample.times) == 0


def test_videos_and_their_chosen_frames(folder: Path) -> None:
    (folder / "videos").mkdir()
    (folder / "videos" / "v.mp4").write_bytes(make_video(10, fps=5))
    source = open_source("c", "llava", write(folder, "c.json", [row(0, image=None, video="v.mp4")]))
    assert source.read(0).frames.shape == (10, 48, 64, 3)
    sample = source.read(0, choose=lambda times: np.array([0, 5, 9]))
    assert np.allclose(sample.times, [0, 1, 1.8])
    assert numbers(sample.frames) == [0, 5, 9]
    assert {text.frame for text in sample.texts} == {2}


def test_parquet_with_bytes_inside(folder: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import parquet

    rows = []
    for number in range(3):
        data = (folder / "images" / "some" / f"{number}.png").read_bytes()
        rows.append(row(number, image={"bytes": data, "path": None}))
    for part in range(2):
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{part}.parquet", row_group_size=2)
    source = pickle.loads(pickle.dumps(open_source("c", "llava", folder)))
    assert source.shard_sizes.tolist() == [2, 1, 2, 1]
    assert [source.read(index).frames[0, 0, 0, 0] for index in range(6)] == [0, 1, 2, 0, 1, 2]
    assert source.read(4).texts[0].answer == "a bêd 1"
    assert source.read(4).key == "1/00000001-n1"


def test_folders_of_parquets_are_read_as_the_hub_has_them(tmp_path: Path) -> None:
    """data/train-*.parquet, and a folder for each subset with files of the same names."""
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import parquet

    for number, name in enumerate(("ai2d(cauldron)", "data", "data/more")):
        (tmp_path / "set" / name).mkdir(parents=True)
        table = pyarrow.Table.from_pylist([row(number, image=None)])
        parquet.write_table(table, tmp_path / "set" / name / "train-00000-of-00001.parquet")
    source = open_source("c", "llava", tmp_path / "set")
    assert [source.read(index).texts[0].answer for index in range(3)] == ["a bêd 0", "a bêd 2", "a bêd 1"]
    keys = [source.read(index).key for index in range(3)]
    assert keys == [source.key(index) for index in range(3)]
    assert keys[0] == "ai2d(cauldron)/train-00000-of-00001/00000000-n0"
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"image": "some/0.png"}], "row 0: no conversations"),
        ([row(9)], r"row 0: some/9\.png: no such file"),
        ([row(0, image=["some/0.png", "some/1.png"])], "2 images"),
        ([row(0, video="v.mp4")], "an image and a video"),
        ([row(0, conversations=[{"from": "system", "value": "x"}])], "from 'system'; known are human"),
        ([row(0, conversations=[{"from": "human", "value": "x"}] * 2)], "two of 'human' one after the other"),
        ([row(0, conversations=["x"])], "message 0: not an object with from and value"),
        (["x"], "row 0: not an object"),
    ],
)
def test_a_broken_row_is_named(folder: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source("c", "llava", write(folder, "c.json", rows)).read(0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.json", "{}", "does not begin with a list"),
        ("c.json", "[{} {}]", "no , or ]"),
        ("c.json", "[", "not json of conversations"),
        ("c.json", "[]", "no conversation in it"),
        ("c.txt", "[]", r"not a \.json, \.jsonl or \.parquet file"),
        ("none/c.json", None, "no conversations here"),
    ],
)
def test_a_broken_file_is_named_when_it_is_opened(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        open_source("c", "llava", tmp_path / name)
