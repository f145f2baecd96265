"""Policies in control of the robot table: who knows succeeds, who does not fails, and both are counted and seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from interlace.backbone import save
from interlace.backbone.digest import digest
from interlace.backbone.frozen import write_reference
from interlace.data_recipes.video import Video
from interlace.data_recipes.worlds.render import RAYS, find_backend
from interlace.data_recipes.worlds.table import HORIZON, INSTRUCTIONS, Table, draw_layout
from interlace.data_recipes.worlds.table_episodes import HELD_OUT_EPISODES
from interlace.data_recipes.worlds.table_experts import expert
from interlace.eval.policy import Attempt, attempt, success, write_videos
from interlace.eval.result import read

sys.path[:0] = [str(Path(__file__).parents[1] / "tasks")]

from language import write_tokenizer  # noqa: E402
from tiny_vla import build  # noqa: E402


class Expert:
    """Told in words as a policy is; it peeps at the simulator in place of looking."""

    def __init__(self, table: Table, *, deaf: bool = False) -> None:
        self.table, self.deaf = table, deaf

    def begin(self, instruction: str) -> None:
        by_text = {one.text: one for one in INSTRUCTIONS.values()}
        self.instruction = INSTRUCTIONS["press_button"] if self.deaf else by_text[instruction]

    def act(self, frame: np.ndarray) -> np.ndarray:
        assert frame.shape == (32, 32, 3)
        return expert(self.instruction, self.table.state())


class Idle(Expert):
    def act(self, frame: np.ndarray) -> np.ndarray:
        return np.array([0.0, 0.0, 0.0, 1.0])


def tried(actor: Expert, numbers: range = range(12)) -> list[Attempt]:
    grey = iter(range(10**6))
    return [
        attempt(actor.table, lambda: np.full((32, 32, 3), next(grey) % 200, np.uint8), actor, 0, number)
        for number in numbers
    ]


@pytest.fixture(scope="module")
def table() -> Table:
    return Table()


def test_the_expert_succeeds_and_who_does_not_listen_fails(table: Table) -> None:
    attempts = tried(Expert(table))
    assert all(each.done for each in attempts)
    found = {each.measure: each for each in success(attempts, subject="expert", backbone_hash="-", seed=0)}
    assert set(found) == {"all", "blocks", *INSTRUCTIONS}
    assert found["all"].value == found["blocks"].value == 1
    assert (found["all"].n, found["blocks"].n, found["lift_red"].n) == (12, 9, 1)
    deaf = tried(Expert(table, deaf=True))
    shares = {each.measure: each.value for each in success(deaf, subject="deaf", backbone_hash="-", seed=0)}
    assert shares["press_button"] == 1
    assert shares["blocks"] == 0
    assert shares["all"] == pytest.approx(1 / 12)
    assert {each.disturbed for each in deaf if not each.done} == {("button",)}


def test_time_is_up(table: Table) -> None:
    (idle,) = tried(Idle(table), range(1))
    assert not idle.done
    assert idle.disturbed == ()
    assert len(idle.frames) == HORIZON + 1


def test_layouts_are_held_out(table: Table) -> None:
    (one,) = tried(Idle(table), range(5, 6))
    assert table.layout == draw_layout(0, HELD_OUT_EPISODES + 5, one.instruction)
    assert one.instruction is list(INSTRUCTIONS.values())[5]


def test_intervals_are_over_episodes(table: Table) -> None:
    attempts = [*tried(Expert(table), range(12)), *tried(Idle(table), range(12, 24))]
    (whole,) = [r for r in success(attempts, subject="half", backbone_hash="-", seed=0) if r.measure == "all"]
    low, high = whole.interval
    assert whole.value == 0.5
    assert 0.2 < low < 0.45 < 0.55 < high < 0.8


def test_successes_and_failures_are_filmed(table: Table, tmp_path: Path) -> None:
    attempts = [*tried(Expert(table), range(3)), *tried(Idle(table), range(3, 4))]
    files = write_videos(attempts, tmp_path / "videos", most=2)
    assert [file.name for file in files] == ["done_lift_red_0.mp4", "done_left_red_1.mp4", "failed_lift_green_3.mp4"]
    for file, each in zip(files, [attempts[0], attempts[1], attempts[3]], strict=True):
        assert Video(file, file.name).read().shape == each.frames.shape


def test_nothing_to_measure(table: Table) -> None:
    with pytest.raises(ValueError, match="nothing could be measured"):
        success([], subject="none", backbone_hash="-", seed=0)


@pytest.mark.parametrize(("axes", "told"), [(3, "2 episodes done"), (6, "robot table: its actions are scaled")])
def test_the_command(tmp_path: Path, axes: int, told: str) -> None:
    """In a process of its own, where OpenGL's backend is still to be chosen."""
    if find_backend() == RAYS:
        pytest.skip("no OpenGL on this machine")
    task, backbone = build(write_tokenizer(tmp_path), low=(-1.0,) * axes, high=(1.0,) * axes)
    run = tmp_path / "run"
    (run / "heads").mkdir(parents=True)
    save(backbone, tmp_path / "backbone")
    write_reference(run / "backbone.json", str(tmp_path / "backbone"), backbone.config, digest(backbone))
    (run / "heads" / "vla.json").write_text(task.options.model_dump_json())
    save_file({key: value.clone() for key, value in task.state_dict().items()}, run / "heads" / "vla.safetensors")
    given = ["eval", "policy", str(run), "--episodes", "2", "--size", "32"]
    done = subprocess.run(
        [sys.executable, "-m", "interlace.launchers", *given], capture_output=True, text=True, cwd=tmp_path
    )
    assert told in " ".join((done.stdout + done.stderr).split())
    assert (done.returncode == 0) == (axes == 3)
    if axes == 3:
        measures = {each.measure for each in read(run / "results" / "policy.json")}
        assert measures == {"all", "blocks", "lift_red", "left_red"}
        assert len(list((run / "results" / "policy.videos").glob("*.mp4"))) == 2
