"""The demo's datasets as written: what is in them, that the split holds, and that a cut preparation goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_world import TINY

from interlace.data_recipes.shards import ShardReader
from interlace.data_recipes.worlds import drafts
from interlace.data_recipes.worlds.assets import photographs
from interlace.data_recipes.worlds.demo import DemoSettings, demo_folder, prepare_demo
from interlace.data_recipes.worlds.render import RAYS, backends, describe
from interlace.data_recipes.worlds.rooms import LABELS

DATASETS = {
    "rooms_train": {"frames", "depth", "camera", "texts", "clusters", "labels"},
    "rooms_held_out": {"frames", "depth", "camera", "texts", "clusters", "labels"},
    "photographs_train": {"frames", "clusters"},
    "photographs_held_out": {"frames", "clusters"},
    "clips_train": {"frames", "clusters"},
    "clips_held_out": {"frames", "clusters"},
    "motorcycle": {"frames", "depth", "camera"},
}


def _hashes(folder: Path) -> dict[str, list[dict[str, str]]]:
    """What names the bytes of every dataset."""
    return {name: [shard["raw_data"]["hashes"] for shard in _index(folder / name)] for name in DATASETS}


def _index(folder: Path) -> list[dict]:
    return json.loads((folder / "index.json").read_text())["shards"]


def test_every_dataset_is_there_and_whole(demo: Path) -> None:
    for name, fields in DATASETS.items():
        reader = ShardReader(demo / name)
        assert reader.fields == fields
        assert reader.manifest["split"] == ("train" if name.endswith("_train") else "held_out")
        assert reader.manifest["licence"]
        sample = reader.read(len(reader) - 1)
        if "clusters" in fields:
            assert len(sample.clusters["object"]) == 10
            assert ("motion" in sample.clusters) == (len(sample.frames) == 4)
    assert len(ShardReader(demo / "rooms_train")) == TINY.train_rooms * TINY.train_scenes
    assert sorted(path.name for path in demo.iterdir()) == sorted(
        [*DATASETS, "banks.npz", "settings.json", "tokenizer.model"]
    )


def test_nothing_is_on_both_sides(demo: Path) -> None:
    """Rooms by number, photographs by content (posters included), clips by file: read from what was written."""
    sides: dict[str, dict[str, set]] = {"train": {}, "held_out": {}}
    for name in DATASETS:
        if name == "motorcycle":
            continue
        reader = ShardReader(demo / name)
        found = sides[reader.manifest["split"]]
        for kind, identities in reader.manifest["extra"]["identities"].items():
            found.setdefault(kind, set()).update(identities)
        for index in range(len(reader)):  # the samples' keys say the same
            dataset, what, _ = reader.read(index, ()).key.split("/", 2)
            assert dataset == name
            found.setdefault(f"key of {name.split('_')[0]}", set()).add(what)
    for kind in ("rooms", "photographs", "clips", "key of rooms", "key of photographs", "key of clips"):
        assert sides["train"][kind]
        assert sides["held_out"][kind]
        assert not sides["train"][kind] & sides["held_out"][kind]
    assert sides["train"]["photographs"] | sides["held_out"]["photographs"] == {one.digest for one in photographs()}


def test_posters_are_photographs_of_the_rooms_own_side() -> None:
    side = {one.name: one.held_out for one in photographs()}
    shape = drafts.ClipShape(32, 4, 4.0)
    for held_out in (False, True):
        for number in range(20):
            job = drafts.Job("rooms", "room", number, held_out, 0, shape, 32, 1)
            assert {side[poster.photograph] for poster in drafts.draw(job).posters} == {held_out}


def test_the_motorcycle_is_no_photograph() -> None:
    assert not any("motorcycle" in photograph.name for photograph in photographs())


def test_rooms_are_told_and_labelled(demo: Path) -> None:
    reader = ShardReader(demo / "rooms_train")
    samples = [reader.read(index) for index in range(len(reader))]
    kinds = {text.kind for sample in samples for text in sample.texts}
    assert {"caption", "grounding"} <= kinds
    for sample in samples:
        assert {"floor", "walls"} <= set(sample.labels)
        floor = LABELS["floor"][sample.labels["floor"]]
        said = [text.answer for text in sample.texts if text.kind == "caption" and "floor" in text.answer]
        assert all(answer.endswith(f"{floor} floor") for answer in said)


def test_tokenizer_round_trips(demo: Path) -> None:
    import sentencepiece

    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(demo / "tokenizer.model"))
    ids = [tokenizer.pad_id(), tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id()]
    assert ids == [0, 1, 2, 3]
    reader = ShardReader(demo / "rooms_held_out")
    texts = [text for index in range(len(reader)) for text in reader.read(index, ("texts",)).texts]
    for line in [line for text in texts for line in (text.prompt, text.answer)] + ["Übergrößenträger, 16 12 3?"]:
        assert tokenizer.decode(tokenizer.encode(line)) == line
    # A word of every training caption is one token: what a caption costs is what it says.
    assert [len(tokenizer.encode(word)) for word in ("walls", "floor", *map(str, range(33)))] == [1] * 35


def test_what_is_complete_is_left_alone(demo: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    lines: list[str] = []
    again = prepare_demo(demo, settings=TINY, say=lines.append)
    assert again.made == ()
    assert again.counts["rooms_held_out"] == TINY.held_out_rooms
    assert lines == []
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*")} == before


KILLED = """
import os, signal, sys
from pathlib import Path
from interlace.data_recipes.worlds.demo import DemoSettings, prepare_demo

def stop(stage, done, total):
    if (stage, done) == (sys.argv[2], int(sys.argv[3])):
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    prepare_demo(sys.argv[1], settings=DemoSettings(**eval(sys.argv[4])), backend="rays", workers=1, progress=stop)
"""


def test_a_killed_preparation_leaves_no_half_and_goes_on(demo: Path, tmp_path: Path) -> None:
    """Killed while drawing and while writing, then run again: the bytes are those of an undisturbed preparation."""
    from dataclasses import asdict

    script, folder = tmp_path / "killed.py", tmp_path / "demo"
    script.write_text(KILLED)
    for stage, done in (("draw", "3"), ("write", "2")):
        command = [sys.executable, str(script), str(folder), stage, done, repr(asdict(TINY))]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == -signal.SIGKILL, result.stderr
        written = [name for name in DATASETS if (folder / name).exists()]
        assert len(written) == (0 if stage == "draw" else 2)
        for name in written:
            ShardReader(folder / name).verify()
    result_now = prepare_demo(folder, settings=TINY, backend=RAYS, workers=1)
    assert len(result_now.made) == len(DATASETS) - 2
    assert _hashes(folder) == _hashes(demo)
    assert (folder / "tokenizer.model").read_bytes() == (demo / "tokenizer.model").read_bytes()


def test_other_settings_replace_the_datasets(tmp_path: Path) -> None:
    """What another seed left is removed before anything is made, and what is not ours is not touched."""
    folder = tmp_path / "demo"
    (folder / "rooms_train").mkdir(parents=True)
    (folder / "rooms_train" / "dataset.json").write_text("{}")
    (folder / "settings.json").write_text('{"settings": "other", "drawn": "rays"}')
    (folder / "mine.txt").write_text("mine")

    class Seen(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        raise Seen

    with pytest.raises(Seen):
        prepare_demo(folder, settings=TINY, backend=RAYS, workers=1, progress=stop)
    assert not (folder / "rooms_train").exists()
    assert (folder / "mine.txt").read_text() == "mine"


def test_the_environment_of_the_caller_stays(demo: Path) -> None:  # the fixture looks at modules, when it draws
    assert os.environ.get("LP_NUM_THREADS") is None


def test_where_the_demo_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("INTERLACE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert demo_folder() == tmp_path / "interlace" / "demo"
    monkeypatch.setenv("INTERLACE_DATA", str(tmp_path / "data"))
    assert demo_folder() == tmp_path / "data" / "demo"


def test_one_line_says_how_rooms_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r"rooms: drawn with OpenGL through egl", describe("egl"))
    assert "ray casting" in describe(RAYS)
    monkeypatch.setenv("MUJOCO_GL", "OSMesa")
    assert backends() == ("osmesa",)


def test_scale() -> None:
    base, tenth = DemoSettings(), DemoSettings.scaled(1, 0.1)
    assert (tenth.seed, tenth.train_rooms, tenth.size) == (1, base.train_rooms // 10, base.size)
    assert DemoSettings.scaled(0, 3).held_out_rooms == base.held_out_rooms
    assert DemoSettings.scaled(0, 3).train_rooms == 3 * base.train_rooms
    assert base.digest != tenth.digest
    with pytest.raises(ValueError, match="scale 0: must be positive"):
        DemoSettings.scaled(0, 0)
