"""A broken clip of the built-in rooms costs itself in every evaluation: left out, named, counted as n of N."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from interlace.data_recipes import DataError, Sample, ShardReader
from interlace.data_recipes.media import encode_image
from interlace.eval.attentive import Trial
from interlace.eval.dense_probe import DenseBudget, probe_depth
from interlace.eval.geometry import rooms as geometry_rooms
from interlace.eval.heads import Budget
from interlace.eval.linear_probe import LinearBudget, probe_classes
from interlace.eval.probe import load_rooms, probe
from interlace.eval.room_images import room_classes, room_depths
from interlace.eval.rooms import read_rooms
from interlace.eval.subjects import Pixels
from interlace.eval.video_probe import probe_rooms, room_clips


def overwrite(folder: Path, old: bytes, new: bytes) -> None:
    (shard,) = (shard for shard in folder.glob("*.mds") if old in shard.read_bytes())
    shard.write_bytes(shard.read_bytes().replace(old, new))


@pytest.fixture(scope="module")
def holed(rooms_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The rooms without the pictures of one held-out clip and the path of one training clip, and their keys."""
    folder = tmp_path_factory.mktemp("holed") / "demo"
    shutil.copytree(rooms_folder, folder)
    seen: Sample = ShardReader(folder / "rooms_held_out").read(1)
    picture = encode_image(seen.frames[0], "png")
    overwrite(folder / "rooms_held_out", picture, picture[:50] + bytes(len(picture) - 50))
    moved: Sample = ShardReader(folder / "rooms_train").read(2)
    assert moved.c2w is not None
    overwrite(folder / "rooms_train", moved.c2w.tobytes(), np.full_like(moved.c2w, np.nan).tobytes())
    return folder, seen.key, moved.key


def test_the_others_are_read(holed: tuple[Path, str, str], rooms_folder: Path) -> None:
    folder, unseen, nowhere = holed
    for split, key, why in (("held_out", unseen, "frame 0: broken image"), ("train", nowhere, "c2w is not finite")):
        missing: dict[str, str] = {}
        found, _ = read_rooms(split, folder=folder, missing=missing)
        whole, _ = read_rooms(split, folder=rooms_folder)
        assert [sample.key for sample in found] == [sample.key for sample in whole if sample.key != key]
        assert list(missing) == [key]
        assert why in missing[key]
        with pytest.raises(DataError, match=why):
            read_rooms(split, folder=folder)


def test_nothing_but_broken_clips_is_an_error(holed: tuple[Path, str, str], tmp_path: Path) -> None:
    shutil.copytree(holed[0] / "rooms_held_out", tmp_path / "rooms_held_out")
    for shard in (tmp_path / "rooms_held_out").glob("*.mds"):
        shard.write_bytes(shard.read_bytes().replace(b"IHDR", b"IHDX"))
    with pytest.raises(DataError, match=r"broken image|not an image"):
        read_rooms("held_out", folder=tmp_path, missing={})


def test_probes_say_n_of_how_many(holed: tuple[Path, str, str]) -> None:
    folder, unseen, nowhere = holed
    rooms, said = load_rooms(folder), list[str]()
    assert (list(rooms.left_out), list(rooms.missing)) == ([nowhere], [unseen])
    results = probe(Pixels(8), rooms, budget=Budget(steps=2, batch=4, rates=(1e-3,)), say=said.append)
    for found in results:
        assert list(found.facts.missing) == [unseen]
        assert found.of == found.n + 1
    assert {found.n for found in results if found.measure == "abs_rel"} == {2}
    assert [line.split(":")[0] for line in said[:2]] == [f"left out {nowhere}", f"left out {unseen}"]
    (classes,) = probe_classes(Pixels(8), room_classes(rooms, tuple("abcdefghijkl")), LinearBudget(steps=2, batch=4))
    depths = probe_depth(Pixels(8), room_depths(rooms), DenseBudget(steps=2, warmup=1, batch=4))
    for found in (classes, *depths):
        assert (found.n, found.of, list(found.facts.missing)) == (2, 3, [unseen])
        assert found.facts.settings["left_out_of_test"] == found.facts.settings["left_out_of_training"] == 1


def test_camera_paths_too(holed: tuple[Path, str, str]) -> None:
    folder, unseen, nowhere = holed
    clips, said = room_clips(folder), list[str]()
    trials = (Trial(1e-3, 0.01), Trial(1e-4, 0.01))
    (found,) = probe_rooms(Pixels(8), clips, steps=2, batch=4, trials=trials, say=said.append)
    assert (found.n, found.of, list(found.facts.missing)) == (2, 3, [unseen])
    assert any(line.startswith(f"left out {nowhere}: ") for line in said)


@pytest.mark.parametrize("kind", ["depth", "pose"])
def test_and_streams(holed: tuple[Path, str, str], kind: str) -> None:
    folder, unseen, _ = holed
    missing: dict[str, str] = {}
    held_out, _ = read_rooms("held_out", folder=folder, missing=missing)
    suite = geometry_rooms(kind, held_out, missing)  # type: ignore[arg-type]
    assert [entry.name for entry in suite.entries] == [*(sample.key for sample in held_out), unseen]
    assert suite.entries[-1].unit == unseen.rpartition("/")[0]
    with pytest.raises(DataError, match="broken image"):
        suite.entries[-1].read()
