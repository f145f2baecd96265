"""What commands refuse before they work: places that hold or take nothing, and options that mean nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from interlace.backbone import Backbone, BackboneConfig, save
from interlace.backbone.export import new_folder, write_model
from interlace.backbone.frozen import load_reference, write_reference
from interlace.launchers import cli, result_file
from interlace.launchers.footage import Footage
from interlace.launchers.watching import Options, Watch, load_frozen, trained_side

CONFIG = BackboneConfig(hidden_size=32, depth=2, heads=2, mlp_size=32, patch_size=8, layer_scale=0.5)
#: Where a folder is and no file can be made, by root neither.
NOWHERE = Path("/proc")
RECIPE = "seed: 0\nbackbone: {}\ntasks: {ssl: {options: {global_size: [48, 64]}}, geometry: {options: {}}}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a run, an unfinished run of a VLM, a folder of records, a DINOv3-like model and pictures."""
    torch.manual_seed(0)
    backbone = Backbone(CONFIG)
    save(backbone, tmp_path / "run" / "backbone")
    (tmp_path / "run" / "recipe.yaml").write_text(RECIPE)
    with new_folder(tmp_path / "export") as target:
        write_model(backbone, target, licence="mit", size=40)
    save(
        Backbone(
            BackboneConfig(**{**CONFIG.to_json(), "rope": "image", "camera_token": False, "attention": "bidirectional"})
        ),
        tmp_path / "image_model",
    )
    (tmp_path / "going").mkdir()
    (tmp_path / "going" / "recipe.yaml").write_text("tasks: {vlm: {}}\n")
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "backbone.json").write_text(json.dumps({"path": "run"}))
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.fromarray(np.full((50, 70, 3), 40 * number, np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTERLACE_DATA", str(tmp_path / "no_data"))
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """``interlace ARGUMENTS`` in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["interlace", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


NO_BACKBONE = "records: neither a run, an export nor a backbone's folder: it has no recipe.yaml and no config.json"
HOMES = "give a run of task vlm that has ended, or a VLM that `interlace export` wrote"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["stream", "records", "pictures"], NO_BACKBONE),
        (["features", "pictures", "--backbone", "records", "--out", "f.safetensors"], NO_BACKBONE),
        (["eval", "probe", "records"], NO_BACKBONE),
        (["chat", "run", "what?"], f"run: holds no VLM, but is a run of ssl, geometry; {HOMES}"),
        (["chat", "records", "what?"], f"records: holds no VLM; {HOMES}"),
        (["chat", "gone", "what?"], f"gone: no such folder; {HOMES}"),
        (
            ["chat", "going", "what?"],
            "going: no heads/vlm.json, which is written when training ends; go on with --resume",
        ),
        (["eval", "policy", "run"], "but is a run of ssl, geometry; give a run of task vla that has ended"),
        (["eval", "vlm", "run"], "questions_held_out: no such folder; `interlace prepare questions` makes it"),
        (["eval", "vlm", "run", "--data", "pictures"], "pictures/dataset.json: no such file"),
        (
            ["stream", "run", "pictures", "--save", f"{NOWHERE}/o.mp4"],
            f"--save {NOWHERE}/o.mp4: no file can be written",
        ),
        (
            ["features", "pictures", "--backbone", "run", "--out", f"{NOWHERE}/o"],
            f"--out {NOWHERE}/o: no file can be wri",
        ),
        (
            ["eval", "probe", "run", "--out", f"{NOWHERE}/o.json"],
            f"--out {NOWHERE}/o.json: no file can be written there",
        ),
        (
            ["eval", "geometry", "run", "--rooms", "5", "--seed", "3", "--no-untrained"],
            "eval geometry --heads own: --seed, --rooms, --no-untrained change nothing here, only with --heads fresh; "
            "leave them out",
        ),
        (
            ["eval", "geometry", "run", "--untrained"],
            "--untrained changes nothing here, only with --heads fresh; leave it",
        ),
        (
            ["eval", "geometry", "run", "--of", "pose", "--align", "scale"],
            "--align changes nothing here, only of depth",
        ),
        (
            ["eval", "geometry", "run", "--on", "tum", "--data", ".", "--align", "metric"],
            "eval geometry --on tum, of pose: --align changes nothing here",
        ),
        (
            [
                "eval",
                "video",
                "run",
                *("--views", "flat", "--epochs", "3", "--batch", "4", "--at-once", "2", "--workers", "0"),
            ],
            "eval video --on rooms: --views, --epochs, --batch, --at-once, --workers change nothing here, only with "
            "--on k400 or ssv2; leave them out",
        ),
        (
            ["eval", "video", "run", "--on", "k400", "--data", ".", "--rooms", "8"],
            "--rooms changes nothing here, only with",
        ),
        (["eval", "linear", "run", "--workers", "2"], "eval linear --on rooms: --workers changes nothing here"),
        (
            ["eval", "linear", "run", "--on", "nyuv2", "--data", ".", "--rooms", "8"],
            "--on nyuv2: --rooms changes nothing",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_refused_is_one_line_and_leaves_nothing(
    here: Path,
    arguments: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(here.rglob("*"))
    assert run(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    (said,) = captured.err.splitlines()
    assert said.startswith("interlace: ")
    assert line in said
    assert captured.out == ""
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("command", ["probe", "vos", "geometry", "video", "linear"])
def test_results_without_a_home_are_told_before_the_backbone_is_read(
    here: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file lies where results go by themselves; and there is no backbone either."""
    (here / "run" / "results").touch()
    (here / "run" / "backbone" / "model.safetensors").unlink()
    assert run(monkeypatch, "eval", command, "run") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said == (
        "interlace: run/results: no results can be written there (Not a directory); say where they go with --out "
        "FILE.json"
    )


@pytest.mark.parametrize("command", [["vlm"], ["policy"], ["policy", "--on", "simpler"]])
def test_answers_and_films_without_a_home_are_told_before_the_model_is_read(
    here: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "going" / "results").touch()
    assert run(monkeypatch, "eval", command[0], "going", *command[1:]) == 2
    assert "going/results: no results can be written there (Not a directory)" in capsys.readouterr().err


def test_a_folder_takes_files_or_says_why_not(tmp_path: Path) -> None:
    assert result_file.unwritable(tmp_path) is None
    assert result_file.unwritable(tmp_path / "not" / "yet") is None
    assert result_file.unwritable(NOWHERE) is not None
    assert not list(tmp_path.iterdir())


def test_a_backbone_that_was_named_was_never_there(here: Path) -> None:
    write_reference(here / "backbone.json", "moved", CONFIG, "0" * 64)
    with pytest.raises(ValueError, match=r"^gone: no such folder; say where the backbone is that"):
        load_reference(here / "backbone.json", "gone")
    with pytest.raises(ValueError, match=r"backbone\.json: its backbone is no longer in moved; say where it is"):
        load_reference(here / "backbone.json")


def test_a_camera_never_comes_to_the_last_of_its_frames(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = iter([(0.0, np.zeros((16, 16, 3), np.uint8))])
    monkeypatch.setattr(
        "interlace.launchers.watching.open_footage", lambda source, fps: Footage(source, 5.0, None, 16, 16, frames)
    )
    backbone = load_frozen("run")
    with pytest.raises(ValueError, match=r"^0: a camera has no end, which --max-frames 3 would come to"):
        Watch(backbone, "0", Options(size=16, max_frames=3))
    with Watch(backbone, "0", Options(size=16, max_frames=3, frames=3)) as watch:
        assert watch.keeps == {"max_frames": 3}


def test_a_model_of_images_knows_no_time(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But a folder's pictures are so many a second of a film."""
    backbone = load_frozen("image_model")
    with Watch(backbone, "pictures", Options(size=16, fps=2.0)) as watch:
        assert [seen.seconds for seen in watch.seen()] == [0, 0.5, 1]
    shown = Footage("clip.mp4", 5.0, 1, 16, 16, iter(()))
    monkeypatch.setattr("interlace.launchers.watching.open_footage", lambda source, fps: shown)
    with pytest.raises(ValueError, match=r"^--fps 2: this backbone is a model of images, which knows no time"):
        Watch(backbone, "clip.mp4", Options(size=16, fps=2.0))


def test_pictures_are_said_to_be_a_unit_apart(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "stream", "run", "pictures", "--fps", "4") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "4 pictures a second, each a unit of time after the one before; sees" in shown


@pytest.mark.parametrize(("place", "side"), [("run", 48), ("export", 40), ("run/backbone", 48)])
def test_features_are_of_frames_of_the_size_that_training_saw(
    here: Path, place: str, side: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--backbone", place, "--out", "f.safetensors", "--max-frames", "3"]
    assert run(monkeypatch, "features", "pictures", *given) == 0
    assert min(load_file("f.safetensors")["patches"].shape[1:3]) == side // 8
    assert run(monkeypatch, "stream", place, "pictures") == 0
    assert f" x {side};" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("recipe", ["a: 1\n", "", "a: [\n", "tasks: 3\n"])
def test_somebody_elses_recipe_is_no_runs(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert run(monkeypatch, "chat", str(tmp_path), "what?") == 2
    assert f"{tmp_path}: holds no VLM; {HOMES}" in capsys.readouterr().err


def test_heads_beside_a_backbone_decide_the_size(here: Path) -> None:
    backbone = load_frozen("run")
    assert trained_side("image_model", load_frozen("image_model")) is None
    (here / "run" / "heads").mkdir()
    (here / "run" / "heads" / "geometry.json").write_text(json.dumps({"size": [24, 32], "frames": 2}))
    save_file({"x": torch.zeros(1)}, here / "run" / "heads" / "geometry.safetensors")
    assert trained_side("run", backbone) == 24
