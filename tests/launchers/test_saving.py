"""What `interlace stream --save` and `interlace features --out` leave behind when they end early, and note."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from test_streaming import CONFIG, FakeCamera, FakeRerun, film, run, scene

from interlace.backbone import Backbone, BackboneConfig, save
from interlace.launchers import features
from interlace.launchers.watching import Options, Seen, Watch, load_frozen

FEATURES = ("features", "pictures", "--backbone", "bare", "--size", "32")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A backbone, a model of images, 12 pictures, 12 of which the 11th is smaller, and an empty folder for results."""
    torch.manual_seed(0)
    save(Backbone(CONFIG), tmp_path / "bare")
    images = {**CONFIG.to_json(), "attention": "bidirectional", "rope": "image", "camera_token": False}
    save(Backbone(BackboneConfig(**images)), tmp_path / "images")
    for name in ("pictures", "sizes", "out"):
        (tmp_path / name).mkdir()
    for number in range(12):
        Image.fromarray(scene(number)).save(tmp_path / "pictures" / f"{number}.png")
        Image.fromarray(scene(number)[: 32 if number == 10 else None]).save(tmp_path / "sizes" / f"{number}.png")
    return tmp_path


def stream(source: str, name: str) -> list[str]:
    return ["stream", "bare", source, "--size", "32", "--save", f"out/{name}"]


def left(folder: Path) -> list[str]:
    return [file.name for file in (folder / "out").iterdir()]


@pytest.fixture(params=["out.mp4", "out.rrd"])
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules, "rerun", FakeRerun())
    return str(request.param)


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ctrl-C once so many frames were seen."""
    whole = Watch.seen

    def seen(watch: Watch) -> Iterator[Seen]:
        for number, each in enumerate(whole(watch)):
            if number == after:
                raise KeyboardInterrupt
            yield each

    monkeypatch.setattr(Watch, "seen", seen)


def test_after_an_error_there_is_no_new_file(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, monkeypatch, *stream("sizes", name)) == 2
    assert "saved" not in capsys.readouterr().out
    assert left(folder) == []
    (folder / "out" / name).write_text("an older one")
    assert run(folder, monkeypatch, *stream("sizes", name)) == 2
    assert left(folder) == [name]
    assert (folder / "out" / name).read_text() == "an older one"


def test_a_whole_one_has_its_name_alone(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, monkeypatch, *stream("pictures", name)) == 0
    assert f"saved: out/{name}" in capsys.readouterr().out
    assert left(folder) == [name]


@pytest.mark.parametrize("after", [1, 3])
def test_ctrl_c_before_the_colours_are_decided_keeps_what_was_seen(
    folder: Path, after: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(monkeypatch, after)
    assert run(folder, monkeypatch, *stream("pictures", "out.mp4")) == 0
    said = capsys.readouterr().out
    assert f"{after} frames in" in said
    assert "saved: out/out.mp4" in said
    assert len(film(folder / "out" / "out.mp4")[0]) == after


def test_ctrl_c_before_the_first_frame_saves_nothing(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(monkeypatch, 0)
    assert run(folder, monkeypatch, *stream("pictures", name)) == 0
    said = capsys.readouterr().out
    assert "no frame was seen" in said
    assert "saved" not in said
    assert left(folder) == []


class Unplugged(FakeCamera):
    """Fails after five frames."""

    def decode(self, stream: Any) -> Iterator[Any]:
        for number, frame in enumerate(super().decode(stream)):
            if number == 5:
                raise av.FFmpegError(19, "No such device")
            yield frame


def test_what_a_camera_showed_before_it_was_unplugged_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, monkeypatch, *stream("pictures", "clip.mp4")) == 0
    opened = av.open
    monkeypatch.setattr(
        av,
        "open",
        lambda file, *a, **k: (
            Unplugged(folder / "out" / "clip.mp4") if k.get("format") == "v4l2" else opened(file, *a, **k)
        ),
    )
    assert run(folder, monkeypatch, *stream("0", "out.mp4")) == 0
    said = capsys.readouterr().out
    assert "/dev/video0: the camera stopped (No such device)" in said
    assert len(film(folder / "out" / "out.mp4")[0]) == 5


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((*FEATURES, "--out", "out"), "--out out: is a folder; name a file in it"),
        (stream("pictures", "x.mp4"), "--save out/x.mp4: is a folder; name a file in it"),
    ],
)
def test_a_folder_as_target_is_refused_before_the_work(
    folder: Path,
    arguments: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "out" / "x.mp4").mkdir()
    monkeypatch.setattr(Watch, "seen", lambda *_: pytest.fail("it began"))
    before = sorted(folder.rglob("*"))
    assert run(folder, monkeypatch, *arguments) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert line in said
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("stream", "bare", "own.mp4", "--save", "own.mp4"),
        ("features", "own.mp4", "--backbone", "bare", "--out", "own.mp4"),
    ],
)
def test_the_footage_is_never_written_over(
    folder: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, monkeypatch, *stream("pictures", "clip.mp4")) == 0
    film = (folder / "out" / "clip.mp4").rename(folder / "own.mp4")
    before = film.read_bytes()
    assert run(folder, monkeypatch, *arguments) == 2
    assert "own.mp4: is the footage itself, which would be gone; name another file" in capsys.readouterr().err
    assert film.read_bytes() == before


@pytest.mark.parametrize("option", ["--window", "--sink"])
def test_all_frames_in_view_or_a_window(
    folder: Path, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, monkeypatch, "stream", "bare", "pictures", "--max-frames", "40", option, "4") == 2
    assert "--max-frames keeps all frames in view: leave out --window and --sink" in capsys.readouterr().err


def test_frames_that_memory_cannot_hold_are_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, monkeypatch, "stream", "bare", "pictures", "--size", "1000000") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "pictures: no memory for the keys and values of window 64, sink 1 at " in said
    assert said.endswith("give a smaller --size, or fewer frames with --window or --max-frames")


def test_features_that_cannot_be_written_leave_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(tensors: object, file: Path, metadata: object) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "write_tensors", full)
    assert run(folder, monkeypatch, *FEATURES, "--out", "out/a") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert left(folder) == []


def test_memory_for_all_frames_is_taken_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    whole = torch.Tensor.new_empty

    def new_empty(tensor: torch.Tensor, size: Any) -> torch.Tensor:
        taken.append(size)
        return whole(tensor, size)

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    assert run(folder, monkeypatch, *FEATURES, "--out", "out/a", "--layers", "last") == 0
    assert sorted(taken) == sorted([(12, 32), (12, 32), (12, 4, 6, 32), (12,), (12,)])


@pytest.mark.parametrize(
    ("backbone", "given", "dtype"),
    [("bare", (), "float32"), ("bare", ("--dtype", "int8"), "int8"), ("images", (), None)],
)
def test_the_dtype_of_keys_and_values_is_noted(
    folder: Path, backbone: str, given: tuple[str, ...], dtype: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available() and dtype == "float32":
        dtype = "bfloat16"
    arguments = ("features", "pictures", "--backbone", backbone, "--size", "32", "--out", "out/a", *given)
    assert run(folder, monkeypatch, *arguments) == 0
    with safe_open(folder / "out" / "a", "pt") as file:
        assert json.loads(file.metadata()["stream"])["dtype"] == dtype


@pytest.mark.parametrize("option", ["--window", "--sink", "--max-frames"])
def test_what_only_a_stream_has_is_refused_for_a_model_of_images(
    folder: Path, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, monkeypatch, "stream", "images", "pictures", "--size", "32", option, "16") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert option in said
    assert "a model of images, which keeps none: leave them out" in said


def test_a_stream_sees_64_frames_and_the_first(folder: Path) -> None:
    with Watch(load_frozen(str(folder / "bare")), str(folder / "pictures"), Options(size=8)) as watch:
        assert watch.keeps == {"window": 64, "sink": 1}
    with Watch(load_frozen(str(folder / "bare")), str(folder / "pictures"), Options(size=8, sink=0)) as watch:
        assert watch.keeps == {"window": 64, "sink": 0}
