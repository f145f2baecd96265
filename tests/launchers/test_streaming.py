"""`interlace stream` and `interlace features`: what they show and write, and what they say of bad input."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from interlace.backbone import Backbone, BackboneConfig, load, normalise, save
from interlace.backbone.export import new_folder, write_model
from interlace.eval.frozen import digest
from interlace.launchers import cli, recordings
from interlace.launchers.colours import Colours
from interlace.launchers.footage import open_footage
from interlace.launchers.recordings import open_recording, surest_points
from interlace.launchers.streaming import Screen, painted, side_by_side
from interlace.launchers.watching import Options, Seen, Watch, as_map, load_frozen, load_geometry
from interlace.tasks.frames import resize
from interlace.tasks.geometry import Geometry, GeometryOptions
from interlace.tasks.interface import TaskContext

#: Seconds of the video's frames: 10 a second, of which two were dropped.
SECONDS = [0.0, 0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]
HEIGHT, WIDTH = 40, 60
CONFIG = BackboneConfig(hidden_size=32, depth=4, heads=2, mlp_size=32, patch_size=8, registers=2, layer_scale=0.5)


def scene(number: int) -> np.ndarray:
    """A red block that moves over a green ground."""
    image = np.full((HEIGHT, WIDTH, 3), (20, 120, 40), np.uint8)
    image[10:26, 4 + 2 * number : 24 + 2 * number] = (200, 30, 30)
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with geometry heads, a bare backbone, a video with a gap, a folder of pictures, and broken things."""
    root = tmp_path_factory.mktemp("streaming")
    torch.manual_seed(0)
    backbone = Backbone(CONFIG)
    save(backbone, root / "run" / "backbone")
    save(backbone, root / "bare")
    save(Backbone(BackboneConfig(**{**CONFIG.to_json(), "fps": 20.0})), root / "twenty")
    save(Backbone(BackboneConfig(**{**CONFIG.to_json(), "attention": "bidirectional"})), root / "image_model")
    options = GeometryOptions(size=32, frames=2, widths=(8, 8, 8, 8), features=8, ray_neck=1)
    (root / "run" / "heads").mkdir()
    save_file(Geometry(options, TaskContext(CONFIG, 0)).state_dict(), root / "run" / "heads" / "geometry.safetensors")
    (root / "run" / "heads" / "geometry.json").write_text(json.dumps(options.model_dump(mode="json")))
    with av.open(str(root / "clip.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=10, options={"crf": "10"})
        video.height, video.width, video.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        for number, seconds in enumerate(SECONDS):
            frame = av.VideoFrame.from_ndarray(scene(number), format="rgb24")
            frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    for name in ("pictures", "holes", "broken", "nothing", "sizes"):
        (root / name).mkdir()
    for number in (1, 2, 10):
        Image.fromarray(scene(number)).save(root / "pictures" / f"frame{number}.png")
    for number in range(6):
        Image.fromarray(scene(number)).save(root / "holes" / f"{number}.png")
    cut = (root / "holes" / "3.png").read_bytes()
    (root / "holes" / "3.png").write_bytes(cut[: len(cut) // 2])
    for name in ("holes/0.png", "broken/a.png", "broken/b.jpg"):
        (root / name).write_text("no picture")
    Image.fromarray(scene(0)).save(root / "sizes" / "a.png")
    Image.fromarray(scene(0)[:32]).save(root / "sizes" / "b.png")
    (root / "empty.mp4").write_bytes(b"")
    (root / "text.mp4").write_text("no video")
    whole = (root / "clip.mp4").read_bytes()
    (root / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    return root


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """``interlace ARGUMENTS`` in that folder, in this process; its exit status."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["interlace", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def film(path: Path) -> tuple[list[float], np.ndarray]:
    with av.open(str(path)) as container:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return [time for time, _ in frames], np.stack([image for _, image in frames])


def test_a_dinov3_says_of_every_frame_what_it_says_of_an_image(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    torch.manual_seed(0)
    published = DINOv3ViTModel(DINOv3ViTConfig(**shape, patch_size=8, layerscale_value=1.0)).eval()
    published.save_pretrained(tmp_path / "dinov3")
    given = ["--backbone", str(tmp_path / "dinov3"), "--size", "32", "--out", str(tmp_path / "said.safetensors")]
    assert run(folder, monkeypatch, "features", "clip.mp4", *given, "--layers", "last") == 0
    found = load_file(tmp_path / "said.safetensors")
    _, images = film(folder / "clip.mp4")
    with torch.no_grad():
        said = published(pixel_values=normalise(torch.from_numpy(resize(images, (32, 48))))).last_hidden_state
    torch.testing.assert_close(found["cls"], said[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found["patches"].flatten(1, 2), said[:, -24:], atol=1e-5, rtol=0)
    assert set(found) == {"cls", "patches", "seconds", "times"}
    assert run(folder, monkeypatch, "features", "clip.mp4", *given, "--layers", "last", "--dtype", "int8") == 2
    assert "a model of images, which keeps none: leave them out" in capsys.readouterr().err
    assert run(folder, monkeypatch, "stream", str(tmp_path / "dinov3"), "clip.mp4", "--size", "32") == 0
    assert "sees every frame by itself, as a model of images: 0.0 MB" in capsys.readouterr().out.replace("\n", " ")


def test_features_are_the_streams_own_at_true_times(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "clip.safetensors")
    options = ["--layers", "1,last", "--size", "32", "--window", "3", "--sink", "1"]
    assert run(folder, monkeypatch, "features", "clip.mp4", "--backbone", "run", "--out", out, *options) == 0
    with safe_open(out, "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
        metadata = file.metadata()
    assert set(found) == {"cls", "camera", "patches", "layers.1", "seconds", "times"}
    assert found["patches"].shape == found["layers.1"].shape == (11, 4, 6, 32)
    assert found["seconds"].tolist() == pytest.approx(SECONDS)
    assert found["times"].tolist() == pytest.approx([10 * each for each in SECONDS])  # the gap stays a gap
    backbone = load(folder / "run" / "backbone")
    assert metadata["backbone"] == digest(backbone)
    assert BackboneConfig(**json.loads(metadata["config"])) == CONFIG
    assert json.loads(metadata["stream"])["window"] == 3
    _, images = film(folder / "clip.mp4")
    clip = normalise(torch.from_numpy(resize(images, (32, 48)))[None])  # as every task resizes what it trains on
    with backbone.stream(1, 32, 48, window=3, sink=1) as stream:
        expected = stream(clip, found["times"][None], [1])
    torch.testing.assert_close(found["patches"], expected.patches[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found["layers.1"], expected.layers[1][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found["cls"], expected.cls[0], atol=1e-5, rtol=0)
    assert "backbone " + metadata["backbone"][:12] in capsys.readouterr().out


def test_a_broken_picture_costs_itself_and_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others keep their own times: to the stream it is as if a camera had dropped the broken ones."""
    out = str(tmp_path / "holes.safetensors")
    assert run(folder, monkeypatch, "features", "holes", "--backbone", "twenty", "--out", out, "--size", "32") == 0
    said = capsys.readouterr().out
    assert "left out holes/0.png: not an image" in said
    assert "left out holes/3.png: broken image" in said
    assert "2 of 6 pictures left out" in said
    with safe_open(out, "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
        metadata = file.metadata()
    assert list(json.loads(metadata["left_out"])) == ["0.png", "3.png"]
    assert found["times"].tolist() == pytest.approx([1, 2, 4, 5])
    assert found["seconds"].tolist() == pytest.approx([0.05, 0.1, 0.2, 0.25])
    clip = normalise(torch.from_numpy(resize(np.stack([scene(number) for number in (1, 2, 4, 5)]), (32, 48)))[None])
    with load_frozen(str(folder / "twenty")).stream(1, 32, 48, window=6, sink=1) as stream:
        expected = stream(clip, torch.tensor([[1.0, 2, 4, 5]], dtype=torch.float64))
    torch.testing.assert_close(found["patches"], expected.patches[0], atol=1e-5, rtol=0)
    assert run(folder, monkeypatch, "stream", "bare", "holes", "--size", "32") == 0
    said = capsys.readouterr().out
    assert "left out holes/3.png: broken image" in said
    assert "2 of 6 pictures left out" in said
    assert "4 frames in" in said


@pytest.mark.parametrize(
    ("backbone", "fps", "units"), [("bare", None, 10.0), ("twenty", None, 20.0), ("twenty", 5.0, 5.0)]
)
def test_units_of_time_are_the_users_or_the_models_or_the_footages(
    folder: Path, backbone: str, fps: float | None, units: float
) -> None:
    with Watch(load_frozen(str(folder / backbone)), str(folder / "clip.mp4"), Options(fps=fps, size=8)) as watch:
        times = [seen.time for seen in watch.seen()]
    assert times == pytest.approx([units * each for each in SECONDS])


def test_pictures_of_a_folder_are_one_unit_apart_in_the_order_people_mean(folder: Path) -> None:
    footage = open_footage(str(folder / "pictures"), None)
    images = [image for _, image in footage.frames]
    assert all(np.array_equal(image, scene(number)) for image, number in zip(images, (1, 2, 10), strict=True))
    with Watch(load_frozen(str(folder / "twenty")), str(folder / "pictures"), Options(size=8)) as watch:
        assert [seen.time for seen in watch.seen()] == pytest.approx([0, 1, 2])


def test_a_film_shows_frame_features_and_depth_at_true_times(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "out.mp4"
    assert run(folder, monkeypatch, "stream", "run", "clip.mp4", "--save", str(saved), "--max-frames", "20") == 0
    times, images = film(saved)
    assert times == pytest.approx(SECONDS)
    assert images.shape[1:] == (32, 3 * 48, 3)  # the heads' own size, and three panels
    frame = resize(film(folder / "clip.mp4")[1][4:5], (32, 48))[0].transpose(1, 2, 0)
    assert np.abs(images[4, :, :48].astype(float) - frame).mean() < 12
    assert images[4, :, 48:96].std() > 20  # features
    assert len(np.unique(images[4, :, 96:].reshape(-1, 3), axis=0)) > 5  # depth
    shown = capsys.readouterr().out
    assert "11 frames of 60 x 40, shown as 48 x 32; 10 units of time a second" in shown
    assert "sees all of 20 frames" in shown
    assert "depth and pose" in shown
    assert "frames/s" in shown
    assert not list(tmp_path.glob(".partial*"))


def test_without_heads_there_is_no_depth(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = tmp_path / "out.mp4"
    arguments = ("--size", "24", "--frames", "5", "--save", str(saved))
    assert run(folder, monkeypatch, "stream", "bare", "clip.mp4", *arguments) == 0
    times, images = film(saved)
    assert len(times) == 5
    assert images.shape[1:] == (24, 2 * 32, 3)  # 36 pixels wide are half a patch from 32


def test_colours_do_not_change_with_what_comes_later(folder: Path) -> None:
    backbone = load_frozen(str(folder / "run"))
    panels: list[list[np.ndarray]] = []
    for count in (9, 11):
        geometry = load_geometry(str(folder / "run"), backbone)
        with Watch(backbone, str(folder / "clip.mp4"), Options(frames=count, max_frames=20), geometry) as watch:
            panels.append([panel for _, shown in painted(watch.seen()) for panel in shown])
    assert len(panels[0]) == 27
    assert all(np.array_equal(one, other) for one, other in zip(panels[0], panels[1], strict=False))


def test_different_features_have_different_colours(folder: Path) -> None:
    with Watch(load_frozen(str(folder / "bare")), str(folder / "clip.mp4"), Options(size=40)) as watch:
        first = next(watch.seen())
    colours = Colours([first])
    picture = colours.features(as_map(first.features.patches)).astype(float)
    block, ground = picture[2, 1], picture[4, 6]
    assert np.abs(block - ground).max() > 60
    assert picture.min() == 0
    assert picture.max() == 255


def test_a_terminal_gets_live_pictures(folder: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24, color_system="truecolor")
    backbone = load_frozen(str(folder / "run"))
    geometry = load_geometry(str(folder / "run"), backbone)
    with Watch(backbone, str(folder / "clip.mp4"), Options(), geometry) as watch, Screen(watch, console) as screen:
        for seen, panels in painted(watch.seen()):
            screen.show(seen, panels)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "▀" in shown
    assert "frame 11/11 at 1.20 s" in shown
    assert "forward" in shown


def test_half_blocks_show_two_rows_a_line() -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[0], picture[1] = (255, 0, 0), (0, 255, 0)
    text = side_by_side([picture, picture], 6, 2)
    assert text.plain == "▀▀▀▀▀▀ ▀▀▀▀▀▀\n" * 2
    assert str(text.spans[0].style) == "rgb(255,0,0) on rgb(0,255,0)"


class FakeRerun:
    """Notes what is logged, at which time."""

    def __init__(self) -> None:
        self.logged: list[tuple[float, str, str]] = []
        self.now = -1.0

    def __getattr__(self, name: str) -> Any:
        return lambda *values, **named: (name, values, named)

    def RecordingStream(self, application: str) -> FakeRerun:
        return self

    def set_time(self, timeline: str, *, duration: float = -1, sequence: int = -1) -> None:
        self.now = duration if timeline == "time" else self.now

    def log(self, path: str, what: Any, static: bool = False) -> None:
        self.logged.append((self.now, path, "" if static else what[0]))

    def save(self, path: str) -> None:
        Path(path).write_bytes(b"RRF")

    class ViewCoordinates:
        RDF = "right down forward"


def record(folder: Path, path: Path) -> None:
    backbone = load_frozen(str(folder / "run"))
    geometry = load_geometry(str(folder / "run"), backbone)
    with Watch(backbone, str(folder / "clip.mp4"), Options(), geometry) as watch:
        recording = open_recording(path, "", 10)
        for seen, panels in painted(watch.seen()):
            recording.add(seen, panels)
        recording.close()


def test_a_recording_has_points_that_stay_and_the_cameras_path(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRerun()
    monkeypatch.setitem(sys.modules, "rerun", fake)
    record(folder, tmp_path / "out.rrd")
    points = [(at, path) for at, path, kind in fake.logged if kind == "Points3D"]
    assert [at for at, _ in points] == pytest.approx(SECONDS)
    assert len({path for _, path in points}) == 11  # one under another's path would replace it
    assert len({path for _, path, kind in fake.logged if kind == "LineStrips3D"}) == 10
    for kind in ("Transform3D", "Pinhole", "DepthImage"):
        assert [at for at, _, logged in fake.logged if logged == kind] == pytest.approx(SECONDS)


@pytest.mark.slow
def test_rerun_itself_reads_the_recording(folder: Path, tmp_path: Path) -> None:
    constraints = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    pinned = next(line for line in constraints if line.startswith("rerun-sdk=="))
    pip = ["pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "rerun"), pinned]
    film = ["interlace.launchers", "stream", str(folder / "run"), str(folder / "clip.mp4"), "--save", "out.rrd"]
    there = {**os.environ, "PYTHONPATH": str(tmp_path / "rerun"), "HOME": str(tmp_path)}
    for words in (pip, film, ["rerun", "rrd", "verify", "out.rrd"], ["rerun", "rrd", "print", "out.rrd"]):
        done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, env=there, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert {"/world/camera", "/depth", "/features", "/world/points/000010"} <= set(re.findall(r"/[\w/]+", done.stdout))


def test_the_surest_points_are_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_frozen(str(folder / "run"))
    geometry = load_geometry(str(folder / "run"), backbone)
    with Watch(backbone, str(folder / "clip.mp4"), Options(), geometry) as watch:
        seen = next(watch.seen())
    assert seen.geometry is not None
    monkeypatch.setattr(recordings, "POINTS", 5)
    seen.geometry.confidence.fill_(1)
    seen.geometry.confidence[0, 0, 7, 10:15] = 2
    points, colours = surest_points(seen)
    torch.testing.assert_close(torch.from_numpy(points), seen.geometry.points()[0, 0, 7, 10:15], atol=0, rtol=0)
    assert np.array_equal(colours, seen.image[7, 10:15])


def test_ctrl_c_ends_it_and_keeps_what_was_seen(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Watch.seen

    def interrupted(watch: Watch) -> Iterator[Seen]:
        for number, seen in enumerate(whole(watch)):
            if number == 10:
                raise KeyboardInterrupt
            yield seen

    monkeypatch.setattr(Watch, "seen", interrupted)
    saved = tmp_path / "out.mp4"
    assert run(folder, monkeypatch, "stream", "bare", "clip.mp4", "--size", "32", "--save", str(saved)) == 0
    assert film(saved)[0] == pytest.approx(SECONDS[:10])
    shown = capsys.readouterr().out
    assert "stopped" in shown
    assert "10 frames in" in shown


class FakeCamera:
    """A file that is opened as a camera is, and starts its clock late as cameras do."""

    def __init__(self, file: Path) -> None:
        self.container = av.open(str(file))
        self.streams = self.container.streams

    def decode(self, stream: Any) -> Iterator[Any]:
        for frame in self.container.decode(stream):
            frame.pts += 500_000
            yield frame

    def close(self) -> None:
        self.container.close()


def test_a_camera_s_frames_have_their_own_times_from_the_first_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, str]] = []
    camera = FakeCamera(folder / "clip.mp4")
    monkeypatch.setattr(av, "open", lambda device, format: opened.append((device, format)) or camera)
    with Watch(load_frozen(str(folder / "twenty")), "3", Options(size=8, frames=5)) as watch:
        assert watch.footage.count is None
        assert [seen.time for seen in watch.seen()] == pytest.approx([20 * each for each in SECONDS[:5]])
    assert opened == [("/dev/video3", "v4l2")]


def test_a_camera_without_frames_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = FakeCamera(folder / "clip.mp4")
    monkeypatch.setattr(camera, "decode", lambda stream: iter(()))
    monkeypatch.setattr(av, "open", lambda device, format: camera)
    with pytest.raises(ValueError, match=r"^/dev/video3: no frame came from it"):
        open_footage("3", None)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["stream", "run", "gone.mp4"], "gone.mp4: no such file; give a video, a folder of pictures, or a camera"),
        (["stream", "run", "empty.mp4"], "empty.mp4: broken video ("),
        (["stream", "run", "text.mp4"], "text.mp4: broken video ("),
        (["stream", "run", "cut.mp4"], "cut.mp4: broken video ("),
        (["stream", "run", "nothing"], "nothing: no jpg or png pictures in it"),
        (["stream", "run", "broken"], "broken: not one of its 2 pictures can be read: broken/a.png: not an image"),
        (["features", "broken", "--backbone", "run", "--out", "o"], "broken: not one of its 2 pictures can be read: "),
        (["stream", "run", "sizes"], "sizes/b.png: 60 x 32 pixels, but the pictures before have 60 x 40"),
        (["stream", "run", "/dev/video77"], "/dev/video77: this camera cannot be opened ("),
        (["stream", "run", "77"], "/dev/video77: this camera cannot be opened ("),
        (["stream", "gone", "clip.mp4"], "gone: no such folder"),
        (["stream", "image_model", "clip.mp4"], "cannot stream; it sees the future"),
        (["stream", "run", "clip.mp4", "--fps", "0"], "--fps 0: must be a number above 0"),
        (["stream", "run", "clip.mp4", "--fps", "nan"], "--fps nan: must be a number above 0"),
        (
            ["stream", "run", "clip.mp4", "--size", "30"],
            "--size 30: must be a multiple of the patch, 8 pixels; the nearest is 32",
        ),
        (["stream", "run", "clip.mp4", "--size", "0"], "--size 0: must be a multiple of the patch"),
        (["stream", "run", "clip.mp4", "--frames", "0"], "--frames 0: must be at least 1"),
        (
            ["stream", "run", "clip.mp4", "--dtype", "int4"],
            "--dtype int4: allowed are float32, bfloat16, float16, int8",
        ),
        (["stream", "run", "clip.mp4", "--max-frames", "5"], "clip.mp4: 11 frames, more than --max-frames 5"),
        (["stream", "run", "clip.mp4", "--save", "out.avi"], "--save out.avi: must end in .mp4"),
        (["stream", "run", "clip.mp4", "--save", "no/out.mp4"], "--save no/out.mp4: there is no folder no"),
        (
            ["stream", "run", "clip.mp4", "--save", "out.rrd"],
            "--save out.rrd: needs a package that is not installed: pip install",
        ),
        (
            ["features", "clip.mp4", "--backbone", "run", "--out", "o", "--layers", "4"],
            '--layers 4: found "4"; allowed are blocks 0 to 3, and last',
        ),
        (["features", "clip.mp4", "--backbone", "run", "--out", "o", "--layers", ""], '--layers : found ""'),
        (["features", "clip.mp4", "--backbone", "run", "--out", "no/o"], "--out no/o: there is no folder no"),
        (["features", "sizes", "--backbone", "run", "--out", "o"], "sizes/b.png: 60 x 32 pixels"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line(
    arguments: list[str],
    line: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    before = sorted(folder.rglob("*"))
    assert run(folder, monkeypatch, *arguments) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("interlace: ")
    assert line in said
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("break_it", "line"),
    [
        (lambda heads: (heads / "geometry.json").unlink(), "geometry.json: no such file;"),
        (lambda heads: (heads / "geometry.json").write_text('{"size": 0}'), "geometry.json: not a geometry head's"),
        (lambda heads: (heads / "geometry.safetensors").write_bytes(b"x"), "geometry.safetensors: not a whole"),
        (
            lambda heads: save_file({"x": torch.zeros(1)}, heads / "geometry.safetensors"),
            "this backbone: missing camera.",
        ),
    ],
)
def test_broken_heads_are_one_line(break_it: Any, line: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "run", tmp_path, dirs_exist_ok=True)
    break_it(tmp_path / "heads")
    with pytest.raises(ValueError, match="heads") as error:
        load_geometry(str(tmp_path / "backbone"), load_frozen(str(folder / "bare")))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_an_export_that_lost_its_heads_is_one_line(folder: Path, tmp_path: Path) -> None:
    backbone = load_frozen(str(folder / "bare"))
    with new_folder(tmp_path / "export") as target:
        write_model(backbone, target, licence="mit", size=32)
    assert load_geometry(str(tmp_path / "export"), backbone) is None
    config = tmp_path / "export" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "heads": {"geometry": "heads.GeometryHeads"}}))
    with pytest.raises(ValueError, match=r"^\S+heads/geometry\.\w+: no such file;[^\n]*$"):
        load_geometry(str(tmp_path / "export"), backbone)
