"""``interlace chat``: a live camera says what a recorded video says, up to the most frames and after."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import av
import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from interlace.data_recipes import DataError, Sample
from interlace.data_recipes.video import Video
from interlace.launchers import chatting
from interlace.launchers.cli import app
from interlace.launchers.footage import CameraStopped, Footage, open_footage
from interlace.tasks.frames import resize

sys.path[:0] = [str(Path(__file__).parents[1] / each) for each in ("tasks", "data_recipes")]

from clips import make_video  # noqa: E402
from language import write_tokenizer  # noqa: E402
from test_streaming import FakeCamera  # noqa: E402
from tiny_vlm import build  # noqa: E402

QUESTION = "Where is it?"
#: Frames a second of the fake camera, which shows 35 frames.
FPS = 5


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chat")
    (root / "clip.mp4").write_bytes(make_video(35, fps=FPS))
    return write_tokenizer(root).parent


@pytest.fixture
def camera(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every device is one that shows the clip."""
    opened = av.open
    monkeypatch.setattr(
        av,
        "open",
        lambda file, *a, **k: FakeCamera(root / "clip.mp4") if k.get("format") == "v4l2" else opened(file, *a, **k),
    )


def listen(monkeypatch: pytest.MonkeyPatch, live: chatting.Live) -> list[torch.Tensor]:
    """The visual tokens that each answer was given."""
    heard: list[torch.Tensor] = []
    original = live._task.answer

    def answer(seen: Any, conversations: Any) -> list[str]:
        heard.extend(seen)
        return original(seen, conversations)

    monkeypatch.setattr(live._task, "answer", answer)
    return heard


def asked_at(footage: Footage, questions: Any, frames: set[int], end: bool) -> Iterator[tuple[float, np.ndarray]]:
    """The footage's frames; after some of them a question is typed, and behind the last no more."""
    for number, shown in enumerate(footage.frames):
        if number in frames:
            questions.put(QUESTION)
        yield shown
    if end:
        questions.put(None)


@pytest.mark.usefixtures("camera")
@pytest.mark.parametrize("blind", [False, True])
def test_live_says_what_a_video_says_and_then_speaks_of_the_last_frames(
    root: Path, monkeypatch: pytest.MonkeyPatch, blind: bool
) -> None:
    """One frame a second of a camera of 5: at once an image; after 3 s the clip's first 4; then the last 4 stay."""
    task, eyes = build(root / "text.model", max_frames=4, blind=blind, grids=[(1, 2)])
    live, footage, questions = chatting.Live(task, eyes), open_footage("0", None), SimpleQueue[str | None]()
    heard, out = listen(monkeypatch, live), io.StringIO()
    frames = asked_at(footage, questions, {2, 16, 34}, end=True)
    shown = Footage(footage.name, footage.fps, None, footage.height, footage.width, frames)
    chatting.converse(live, shown, questions, Console(file=out))
    film = Video(root / "clip.mp4", "clip")
    clip = Sample(key="clip", source="test", frames=film.read(range(17)), times=film.times[:17])
    recorded = task.look(eyes, clip, 16)
    assert len(heard) == 3
    short = Sample(key="short", source="test", frames=film.read(range(3)), times=film.times[:3])
    assert torch.equal(heard[0], task.look(eyes, short, 2)), "a video of less than a second is its first image"
    assert len(heard[0]) == (0 if blind else task.sight.plan(film.read([0]).shape[1:3]).count)
    assert torch.equal(heard[1], recorded), "to the bit what a video of the same frames gives"
    assert len(heard[1]) == (0 if blind else 4 * 2 * 3)
    said = out.getvalue().splitlines()
    assert said[1] == (task.answer([recorded], [[(QUESTION, None)]])[0] or "(it says nothing)")
    if not blind:  # 7 seconds: the frames of seconds 3 to 6, through a stream whose window forgets the first three
        with eyes.stream(1, 32, 32, window=4) as stream:
            looked = torch.from_numpy(resize(film.read(range(0, 35, FPS)), (32, 32)))
            patches = [stream(frame[None, None]).patches[0, 0] for frame in looked]
        assert torch.equal(heard[2], task.project([torch.stack(patches[3:])], [None])[0][0])


def test_a_slow_camera_is_looked_at_once_for_the_seconds_it_was_away(root: Path) -> None:
    task, eyes = build(root / "text.model", fps=2.0)
    live = chatting.Live(task, eyes)
    image = np.zeros((40, 40, 3), np.uint8)
    looked = []
    for seconds in (0.0, 0.3, 0.55, 0.6, 2.6, 2.7, 3.0):
        before = live._tick
        live.show(seconds, image)
        looked += [seconds] if live._tick != before else []
    assert looked == [0.0, 0.55, 2.6, 3.0]
    assert len(live._watching.patches()) == 4
    live.close()


def test_typed_lines_come_after_the_first_question() -> None:
    questions = chatting.typed("one?", iter(["two?\n", "\n", " three? \n"]))
    assert [questions.get() for _ in range(4)] == ["one?", "two?", "three?", None]


@pytest.mark.usefixtures("camera")
def test_the_command_watches_a_camera(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(root / "text.model", max_frames=4)
    monkeypatch.setattr(chatting, "load_vlm", lambda run, backbone: model)
    done = CliRunner().invoke(app, ["chat", "run", QUESTION, "--video", "/dev/video7"], input="Where?\n")
    assert (done.exit_code, done.exception) == (0, None)
    first, *answers = done.stdout.splitlines()
    assert first == (
        "/dev/video7: 64 x 48, looked at 1 times a second, the last 4 frames stay; "
        "ask, a line each, and end with Ctrl-D"
    )
    assert len(answers) == 2
    assert all(answer.strip() for answer in answers)


@pytest.mark.usefixtures("camera")
def test_ctrl_c_ends_a_conversation_well(root: Path) -> None:
    task, eyes = build(root / "text.model")
    footage, out = open_footage("0", None), io.StringIO()

    def stopped() -> Iterator[tuple[float, np.ndarray]]:
        yield next(footage.frames)
        raise KeyboardInterrupt

    live = chatting.Live(task, eyes)
    shown = Footage("0", 5.0, None, 48, 64, stopped())
    chatting.converse(live, shown, SimpleQueue(), Console(file=out))
    assert out.getvalue() == "stopped\n"


@pytest.mark.usefixtures("camera")
def test_a_camera_that_is_unplugged_is_still_spoken_of(root: Path) -> None:
    task, eyes = build(root / "text.model")
    footage, out, questions = open_footage("0", None), io.StringIO(), SimpleQueue[str | None]()

    def unplugged() -> Iterator[tuple[float, np.ndarray]]:
        yield next(footage.frames)
        questions.put(QUESTION)
        questions.put(None)
        raise CameraStopped("/dev/video0: the camera stopped (No such device)")

    shown = Footage("0", 5.0, None, 48, 64, unplugged())
    chatting.converse(chatting.Live(task, eyes), shown, questions, Console(file=out, width=200))
    told, answer = out.getvalue().splitlines()
    assert told == "/dev/video0: the camera stopped (No such device); what it showed last is still spoken of"
    assert answer.strip()


@pytest.mark.parametrize(("option", "wanted"), [("--image", "picture"), ("--video", "video")])
def test_a_folder_to_look_at_is_said_to_be_one_before_a_model_is_read(root: Path, option: str, wanted: str) -> None:
    done = CliRunner().invoke(app, ["chat", str(root / "no model"), QUESTION, option, str(root)])
    assert isinstance(done.exception, DataError)
    assert str(done.exception) == f"{root}: a folder; give one {wanted}"


def test_what_cannot_be_asked_is_one_line(tmp_path: Path) -> None:
    for arguments, message in (
        ([], "chat: say what to ask; only of a live camera it may be asked later"),
        (["--video", "clip.mp4"], "chat: say what to ask; only of a live camera it may be asked later"),
        (["what?", "--video", "0", "--image", "a.png"], "chat: --image or --video, one of them"),
        ([""], "chat: the question is empty; say what to ask"),
        ([" \n", "--video", "0"], "chat: the question is empty; say what to ask"),
    ):
        done = CliRunner().invoke(app, ["chat", str(tmp_path), *arguments])
        assert isinstance(done.exception, ValueError)
        assert str(done.exception) == message
