"""``interlace eval`` and ``interlace report A B`` as a user meets them."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest

from interlace.eval import heads, probe, video_probe, vos_rooms
from interlace.eval.heads import Budget
from interlace.eval.result import read, read_pictures
from interlace.launchers import cli, sample_pictures


@pytest.fixture
def at_hand(rooms_folder: Path, backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a backbone ``mine``, and the rooms where they are looked for."""
    monkeypatch.setenv("INTERLACE_DATA", str(rooms_folder.parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "Budget", lambda: Budget(steps=3, batch=4, rates=(1e-3,)))
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["interlace", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_probe_writes_and_prints(
    at_hand: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "eval", "probe", "mine", "--no-untrained", "--eight-bits") == 0
    shown = capsys.readouterr().out
    results = read(at_hand / "results" / "mine" / "probe-rooms.json")
    assert {each.facts.subject for each in results} == {"mine", "mine, 8-bit keys and values", "raw pixels"}
    assert "probe/depth (linear on patches, metres, not aligned) on built-in rooms" in shown
    assert (at_hand / "results" / "mine" / "probe-rooms.md").read_text().count("| abs_rel") == 1
    kinds = ("classes", "segmentation", "depth", "pose")
    assert {file.name for file in (at_hand / "results" / "mine").glob("*.png")} == {
        "probe-rooms.png",
        *(f"probe-rooms-{kind}.png" for kind in kinds),
    }
    assert (at_hand / "results" / "mine" / "probe-rooms.html").read_text().count("<figure>") == len(kinds)
    assert run(monkeypatch, "report", "results/mine", "results/mine/probe-rooms.json", "--out", "both.html") == 0
    assert "raw pixels" in capsys.readouterr().out
    assert Path("both.html").read_text().count("<figure>") == len(kinds)


def test_vos_draws_its_world_once(
    at_hand: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vos_rooms, "SIZE", vos_rooms.WorldSize(clips=2, size=32, frames=4))
    monkeypatch.setenv("INTERLACE_DATA", str(at_hand))
    monkeypatch.setenv("MUJOCO_GL", "disable")  # rays
    assert run(monkeypatch, "eval", "vos", "mine", "--short-side", "32") == 0
    assert "drawing 2 clips" in capsys.readouterr().out
    assert run(monkeypatch, "eval", "vos", "mine", "--no-untrained", "--radius", "3", "--eight-bits") == 0
    assert "drawing" not in capsys.readouterr().out
    results = read(Path("results/mine/vos-rooms.json"))
    assert {each.facts.settings["radius"] for each in results} == {3.0}
    assert {each.facts.subject for each in results} == {"mine", "mine, 8-bit keys and values", "raw pixels"}
    assert Path("results/mine/vos-rooms-propagation.png").is_file()


def test_geometry_with_fresh_heads(
    at_hand: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(heads, "Budget", lambda: Budget(steps=3, batch=4, rates=(1e-3,)))
    assert run(monkeypatch, "eval", "geometry", "mine", "--heads", "fresh") == 0
    assert "depth/fresh heads on frozen tokens (CUT3R's protocol, one scale a sequence)" in capsys.readouterr().out
    results = read(Path("results/mine/geometry-rooms-fresh.json"))
    assert {each.facts.subject for each in results} == {"mine", "untrained (seed 0)", "raw pixels"}
    options = ("--heads", "fresh", "--of", "pose", "--no-untrained", "--eight-bits")
    assert run(monkeypatch, "eval", "geometry", "mine", *options) == 0
    results = read(Path("results/mine/geometry-rooms-fresh.json"))
    assert {each.measure for each in results} == {"ate", "rpe_translation", "rpe_rotation_degrees"}
    assert [each.facts.subject for each in results[::3]] == ["mine", "mine, 8-bit keys and values", "raw pixels"]
    assert "<figure>" in Path("results/mine/geometry-rooms-fresh.html").read_text()


@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("g.html", "--out g.html: must end in .json; tables, pictures and a page get their names from it"),
        ("home.json", "--out home.json: no file can be written there"),
        ("taken/g.json", "--out taken/g.json: no file can be written there"),
    ],
)
@pytest.mark.parametrize("command", ["probe", "vos", "geometry", "video", "linear", "vlm", "policy"])
def test_results_that_could_not_be_written_are_told_before_the_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    out: str,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home.json").mkdir()
    (tmp_path / "taken").touch()
    assert run(monkeypatch, "eval", command, "nowhere", "--out", out) == 2
    assert told in capsys.readouterr().err


def test_a_run_s_own_page_has_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "report", str(tmp_path), "--out", "single.html") == 2
    assert "--out single.html: of comparisons alone; a run's page is its report.html" in capsys.readouterr().err


def test_a_picture_that_cannot_be_drawn_loses_no_result(at_hand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise OSError("no picture")

    monkeypatch.setattr(sample_pictures, "draw_albums", fail)
    kinds = {
        "probe": ("probe-rooms", ["--no-untrained"]),
        "linear": ("linear-rooms", ["--no-baselines", "--steps", "2", "--batch", "4"]),
    }
    for name, (stem, options) in kinds.items():
        assert run(monkeypatch, "eval", name, "mine", *options) == 2
        file = Path(f"results/mine/{stem}.json")
        assert read(file)
        assert file.with_suffix(".md").is_file()
        assert read_pictures(file) == []


def test_video_of_the_rooms(at_hand: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(video_probe, "probe_rooms", partial(video_probe.probe_rooms, steps=2, batch=4))
    assert run(monkeypatch, "eval", "video", "mine") == 0
    assert "mine, camera_path: kept rate" in capsys.readouterr().out
    results = read(Path("results/mine/video-rooms.json"))
    assert [each.facts.subject for each in results] == ["mine", "untrained (seed 0)", "raw pixels"]


def test_linear_of_the_rooms(
    at_hand: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "eval", "linear", "mine", "--steps", "2", "--batch", "4", "--no-baselines") == 0
    assert "rate picked on held-back rooms" in capsys.readouterr().out
    results = read(Path("results/mine/linear-rooms.json"))
    assert [each.measure for each in results] == ["top-1", "miou", "rmse", "abs_rel", "delta_1.25"]
    assert {each.facts.settings["steps"] for each in results} == {2}
    pictures = sorted(file.name for file in Path("results/mine").glob("*.png"))
    kinds = ("classes", "depth", "segmentation")
    assert pictures == [*(f"linear-rooms-{kind}.png" for kind in kinds), "linear-rooms.png"]
    assert run(monkeypatch, "eval", "linear", "mine", "--cached", "--steps", "2", "--no-baselines") == 0
    protocols = [each.facts.protocol for each in read(Path("results/mine/linear-rooms-cached.json"))]
    assert all("un-augmented, cached" in each for each in protocols)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["eval", "probe", "mine", "--on", "moon"], "there is only the built-in world, rooms"),
        (["eval", "probe", "nowhere"], "nowhere"),
        (["eval", "geometry", "mine"], "heads"),
        (
            ["eval", "geometry", "mine", "--on", "moon"],
            "--on moon: allowed is rooms, sintel, bonn, kitti, tum, scannet",
        ),
        (["eval", "geometry", "mine", "--heads", "bald"], "--heads bald: allowed is own, fresh"),
        (["eval", "geometry", "mine", "--on", "sintel"], "--data FOLDER goes with a data set that is not built in"),
        (["eval", "geometry", "mine", "--on", "tum", "--of", "depth", "--data", "."], "tum is not measured for depth"),
        (["eval", "vos", "mine", "--on", "moon"], "allowed is rooms or davis17"),
        (["eval", "vos", "mine", "--on", "davis17"], "--data DAVIS goes with --on davis17"),
        (["eval", "vos", "mine", "--on", "davis17", "--data", "mine"], "give the folder that holds JPEGImages"),
        (["eval", "vos", "mine", "--temperature", "0"], "temperature is 0.0, it must be positive"),
        (["eval", "probe", "mine", "--device", "toaster"], "device 'toaster'"),
        (["eval", "policy", "mine", "--device", "tpu"], "device 'tpu': allowed are cpu, cuda"),
        (["eval", "policy", "mine", "--on", "simpler", "--device", "cuda:99"], "device 'cuda:99'"),
        (["eval", "vlm", "mine", "--device", "tpu"], "device 'tpu': allowed are cpu, cuda"),
        (["eval", "vlm", "mine", "--device", "cuda:99"], "device 'cuda:99'"),
        (["eval", "video", "mine", "--on", "moon"], "--on moon: allowed is rooms, k400, ssv2"),
        (["eval", "video", "mine", "--views", "all"], "--views all: allowed is concatenated, flat"),
        (["eval", "video", "mine", "--on", "ssv2"], "--data FOLDER goes with a data set that is not built in"),
        (["eval", "video", "mine", "--on", "k400", "--data", "mine"], "give the folder that holds annotations"),
        (["eval", "linear", "mine", "--on", "moon"], "--on moon: allowed is rooms, imagenet, ade20k, nyuv2"),
        (["eval", "linear", "mine", "--on", "nyuv2", "--cached"], "nyuv2 is probed with augmentation only"),
        (["eval", "linear", "mine", "--data", "mine"], "--data FOLDER goes with a data set that is not built in"),
        (["eval", "linear", "mine", "--on", "imagenet", "--data", "mine"], "holds no folders of classes"),
        (["eval", "linear", "mine", "--on", "ade20k", "--data", "mine"], "give ADEChallengeData2016"),
        (["eval", "linear", "mine", "--on", "nyuv2", "--data", "mine"], "no such list"),
        (["report", "nowhere", "mine"], "nowhere: no such file or folder; give a run's folder, or results of"),
        (["report", "mine", "mine"], "mine: holds no results; make some with `interlace eval`"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    at_hand: Path,
    arguments: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("interlace: ")
    assert line in error
    assert error.count("\n") == 1
