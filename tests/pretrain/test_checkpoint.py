"""A checkpoint is whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from interlace.pretrain import checkpoint
from interlace.pretrain.checkpoint import BadCheckpoint, Reader, Writer, newest, prune


def write(root: Path, step: int, value: float = 0.0) -> Path:
    writer = Writer(root, step)
    writer.tensors("student", [("weight/a", torch.full((3,), value)), ("weight/b", torch.arange(4.0))])
    return writer.commit({"step": step})


def test_what_was_written_is_read(tmp_path: Path) -> None:
    reader = Reader(write(tmp_path, 7, 2.5))
    assert reader.state == {"step": 7}
    found = dict(reader.tensors("student"))
    assert torch.equal(found["weight/a"], torch.full((3,), 2.5))
    assert torch.equal(found["weight/b"], torch.arange(4.0))


def test_a_large_group_is_split_over_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 100)
    writer = Writer(tmp_path, 1)
    tensors = {f"t{i}": torch.randn(10) for i in range(7)}
    writer.tensors("student", tensors.items())
    folder = writer.commit({})
    assert len(list(folder.glob("student-*.safetensors"))) > 1
    assert dict(Reader(folder).tensors("student")).keys() == tensors.keys()


def test_a_cut_save_leaves_the_previous_checkpoint_newest(tmp_path: Path) -> None:
    before = write(tmp_path, 10)
    writer = Writer(tmp_path, 20)
    writer.tensors("student", [("weight/a", torch.zeros(3))])  # and here the process dies
    assert newest(tmp_path) == before
    after = write(tmp_path, 20)  # the next try is not disturbed by what was left
    assert newest(tmp_path) == after
    assert Reader(after).state == {"step": 20}


def test_damage_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, 1)
    file = folder / "student-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"student-00000.safetensors is missing or damaged"):
        Reader(folder)


def test_a_folder_without_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    folder = write(tmp_path, 1)
    (folder / "manifest.json").unlink()
    assert newest(tmp_path) is None
    with pytest.raises(BadCheckpoint, match="is no checkpoint"):
        Reader(folder)


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    write(tmp_path, 5, 1.0)
    folder = write(tmp_path, 5, 2.0)
    assert dict(Reader(folder).tensors("student"))["weight/a"][0] == 2.0


def test_prune_keeps_the_newest_and_clears_cut_saves(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        write(tmp_path, step)
    Writer(tmp_path, 11)
    prune(tmp_path, 2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step_00000002", "step_00000010"]


def test_the_manifest_is_json_with_hashes(tmp_path: Path) -> None:
    manifest = json.loads((write(tmp_path, 3) / "manifest.json").read_text())
    assert len(manifest["files"]["student-00000.safetensors"]["sha256"]) == 64
