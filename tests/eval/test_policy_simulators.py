"""CALVIN, LIBERO and SimplerEnv as worlds for policies, with stand-ins for the simulators.

The stand-ins have the keys, shapes, types and signatures of the simulators' own code, and its assertions.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from interlace.data_recipes import DataError
from interlace.data_recipes.action_scale import BRIDGE
from interlace.eval.policy import Order, attempt, attempts
from interlace.eval.policy_calvin import CalvinChain, CalvinWorld, open_calvin, read_chains
from interlace.eval.policy_libero import LiberoWorld, open_libero
from interlace.eval.policy_simpler import SimplerWorld, open_simpler, rotation_vector
from interlace.eval.result import read
from interlace.launchers import policy_results
from interlace.launchers.policy_results import open_simulator, refuse_others

sys.path[:0] = [str(Path(__file__).parents[1] / "tasks")]

from language import write_tokenizer  # noqa: E402
from tiny_vla import build  # noqa: E402

STATE = {
    "led": 0,
    "lightbulb": 1,
    "slider": "right",
    "drawer": "closed",
    "red_block": "table",
    "blue_block": "table",
    "pink_block": "slider_right",
    "grasped": 0,
}
TASKS = ["open_drawer", "turn_on_led", "push_red_block_left", "move_slider_left", "lift_blue_block_table"]


class Says:
    """An actor that always does the same and keeps what it was told and shown."""

    def __init__(self, action: Sequence[float]) -> None:
        self.action = np.array(action, np.float32)
        self.told: list[str] = []
        self.shapes: set[tuple[int, ...]] = set()

    def begin(self, instruction: str) -> None:
        self.told.append(instruction)

    def act(self, frame: np.ndarray) -> np.ndarray:
        assert frame.dtype == np.uint8
        self.shapes.add(frame.shape)
        return self.action


# ---- CALVIN


class PlayTable:
    """``PlayTableSimEnv``: gym's old interface, and a robot that takes seven numbers with the gripper -1 or 1."""

    def __init__(self) -> None:
        self.steps: list[np.ndarray] = []
        self.resets: list[tuple[np.ndarray, np.ndarray]] = []
        self.info = 0

    def reset(self, robot_obs: np.ndarray | None = None, scene_obs: np.ndarray | None = None) -> dict[str, Any]:
        assert robot_obs is not None
        assert scene_obs is not None
        self.resets.append((robot_obs, scene_obs))
        return self.get_obs()

    def get_obs(self) -> dict[str, Any]:
        recorded = np.random.default_rng(len(self.steps))
        return {
            "rgb_obs": {
                "rgb_static": recorded.integers(0, 255, (200, 200, 3), dtype=np.uint8),
                "rgb_gripper": recorded.integers(0, 255, (84, 84, 3), dtype=np.uint8),
            },
            "depth_obs": {"depth_static": np.ones((200, 200), np.float32)},
            "robot_obs": np.zeros(15),
            "scene_obs": np.zeros(24),
        }

    def get_info(self) -> dict[str, Any]:
        return {"robot_info": {"uid": 0}, "scene_info": {"steps": len(self.steps)}}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], int, bool, dict[str, Any]]:
        self.steps.append(action.copy())
        assert len(action) == 7
        position, angles, gripper = np.split(action, [3, 6])
        position *= 0.02  # the robot changes the array that it is given
        angles *= 0.05
        assert gripper[0] in (-1, 1)
        return self.get_obs(), 0, False, self.get_info()


class Oracle:
    """``Tasks``: what was carried out between two infos. Here after as many steps as the task has words."""

    def get_task_info_for_set(self, start_info: Any, end_info: Any, task_filter: set[str]) -> set[str]:
        taken = end_info["scene_info"]["steps"] - start_info["scene_info"]["steps"]
        return {task for task in task_filter if task != "move_slider_left" and taken >= task.count("_") + 1}


def calvin(tasks: Sequence[str] = TASKS) -> CalvinWorld:
    sentences = {task: [f"{task.replace('_', ' ')}, please", "another sentence"] for task in TASKS}
    return CalvinWorld(
        PlayTable(),
        Oracle(),
        sentences,
        lambda state: (np.full(15, len(state)), np.zeros(24)),
        [CalvinChain(STATE, tuple(tasks))],
    )


def test_a_chain_of_calvin() -> None:
    world, actor = calvin(), Says([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0])
    tried = attempt(world, actor, 0)
    env = world.env
    assert tried.done == 3  # the slider never moves
    assert actor.told == [f"{task.replace('_', ' ')}, please" for task in TASKS[:4]]
    assert actor.shapes == {(200, 200, 3)}
    assert len(env.steps) == 2 + 3 + 4 + 360
    assert len(env.resets) == 1
    assert env.resets[0][0].shape == (15,)
    assert np.allclose(
        env.steps, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0]
    )  # the same each time: nobody changed the policy's
    closing = calvin(["open_drawer"])
    attempt(closing, Says([0.0] * 7), 0)
    assert closing.env.steps[0].tolist() == [0, 0, 0, 0, 0, 0, -1]


def test_calvins_camera_and_actions_must_fit() -> None:
    with pytest.raises(ValueError, match="CALVIN: an action is 7 finite numbers"):
        attempt(calvin(), Says([0.0] * 4), 0)
    with pytest.raises(ValueError, match="tasks without a sentence: fly"):
        calvin(["fly"])


def write_chains(file: Path, count: int = 1000, state: dict[str, Any] | None = None, tasks: Any = None) -> Path:
    rows = [[STATE, TASKS] for _ in range(count)]
    if rows and (state is not None or tasks is not None):
        rows[7] = [STATE if state is None else state, TASKS if tasks is None else tasks]
    file.write_text(json.dumps(rows))
    return file


def test_the_chains_of_calvin_are_read_whole(tmp_path: Path) -> None:
    chains = read_chains(write_chains(tmp_path / "eval_sequences.json"))
    assert len(chains) == 1000
    assert chains[0] == CalvinChain(STATE, tuple(TASKS))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count": 999}, "999 chains where CALVIN has 1,000"),
        ({"count": 0}, "0 chains where CALVIN has 1,000"),
        ({"tasks": TASKS[:4]}, "chain 7: 4 tasks where a chain has 5"),
        ({"state": {"led": 0}}, "chain 7: its initial state lacks lightbulb, slider"),
        ({"tasks": "open_drawer"}, "chain 7: not a pair"),
    ],
)
def test_other_chains_are_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        read_chains(write_chains(tmp_path / "chains.json", **changes))
    assert "\n" not in str(error.value)


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.json: no such file; CALVIN is measured on its 1,000 chains"):
        read_chains(tmp_path / "nowhere.json")
    (tmp_path / "broken.json").write_text("[")
    with pytest.raises(ValueError, match=r"broken.json: not JSON"):
        read_chains(tmp_path / "broken.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other.json: no list where"):
        read_chains(tmp_path / "other.json")
    with pytest.raises(ValueError, match=r"merged_config.yaml: no such file"):
        open_calvin(tmp_path, write_chains(tmp_path / "chains.json"))


# ---- LIBERO


class Scene:
    """``OffScreenRenderEnv``: done after three actions with an open gripper. Its picture stands on its head."""

    def __init__(self, bddl: str) -> None:
        self.bddl, self.calls, self.steps = bddl, [], []

    def seed(self, seed: int) -> None:
        self.calls.append(f"seed {seed}")

    def reset(self) -> dict[str, Any]:
        self.calls.append("reset")
        return self.seen()

    def set_init_state(self, state: np.ndarray) -> dict[str, Any]:
        self.calls.append(f"state {state[0]:g}")
        self.opened = 0
        return self.seen()

    def seen(self) -> dict[str, Any]:
        picture = np.zeros((256, 256, 3), np.uint8)
        picture[0, 0] = 255
        return {
            "agentview_image": picture,
            "robot0_eye_in_hand_image": np.zeros((256, 256, 3), np.uint8),
            "robot0_eef_pos": np.zeros(3),
            "robot0_eef_quat": np.zeros(4),
            "robot0_gripper_qpos": np.zeros(2),
        }

    def step(self, action: list[float]) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        assert isinstance(action, list)
        assert len(action) == 7
        self.steps.append(action)
        self.opened += action[6] == -1 and any(action[:6])
        done = self.opened >= 3
        return self.seen(), float(done), done, {}

    def close(self) -> None:
        self.calls.append("close")


class Suite:
    """A benchmark of two tasks, with the methods of ``libero.libero.benchmark.Benchmark``."""

    n_tasks = 2

    def get_task(self, place: int) -> Any:
        name = ("pick_up_the_bowl", "open_the_drawer")[place]
        return type("Task", (), {"name": name, "language": name.replace("_", " ")})()

    def get_task_bddl_file_path(self, place: int) -> str:
        return f"{place}.bddl"

    def get_task_init_states(self, place: int) -> np.ndarray:
        return np.arange(50)[:, None] + 100.0 * place


def test_episodes_of_libero() -> None:
    made: list[Scene] = []

    def make(bddl: str) -> Scene:
        made.append(Scene(bddl))
        return made[-1]

    world, actor = LiberoWorld("libero_goal", Suite(), make, each=2), Says([0.5, 0, 0, 0, 0, 0, 1.0])
    assert (world.episodes, world.horizon) == (4, 300)
    tried = attempts(world, actor, range(4))
    world.close()
    assert all(each.succeeded for each in tried)
    assert actor.told == ["pick up the bowl"] * 2 + ["open the drawer"] * 2
    assert [scene.bddl for scene in made] == ["0.bddl", "1.bddl"]
    assert made[0].calls == ["seed 0", "reset", "state 0", "seed 0", "reset", "state 1", "close"]
    assert made[1].calls[2] == "state 100"
    assert made[0].steps[:10] == [[0, 0, 0, 0, 0, 0, -1]] * 10  # things fall into place first
    assert made[0].steps[10] == [0.5, 0, 0, 0, 0, 0, -1]  # open
    first = world.start(0)[0]
    assert first[-1, -1].tolist() == [255] * 3  # the right way up
    assert first[0, 0].tolist() == [0] * 3
    shut = attempt(LiberoWorld("libero_goal", Suite(), make), Says([0.5, 0, 0, 0, 0, 0, 0.0]), 0)
    assert not shut.succeeded
    assert made[-1].steps[-1][6] == 1


@pytest.mark.parametrize(
    ("name", "each", "said"), [("libero_one", 1, "no suite 'libero_one'"), ("libero_10", 51, "51 e")]
)
def test_another_libero(name: str, each: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LiberoWorld(name, Suite(), Scene, each)


def test_the_installed_libero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the adapter asks of the package ``hf-libero`` is there. Left out where the extra is not installed."""
    package = pytest.importorskip("libero")
    home = Path(package.__file__).parent / "libero"
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path))
    places = {"benchmark_root": str(home), "bddl_files": str(home / "bddl_files"), "assets": str(home / "assets")}
    places |= {"init_states": str(home / "init_files"), "datasets": str(tmp_path)}
    (tmp_path / "config.yaml").write_text(json.dumps(places))
    from libero.libero import benchmark

    suite = benchmark.get_benchmark("libero_spatial")()
    world = LiberoWorld("libero_spatial", suite, Scene)
    assert world.episodes == 500
    _, (order,) = world.start(50)
    assert order == Order(suite.get_task(1).name, suite.get_task(1).language)
    assert Path(world._env.bddl).is_file()
    assert len(suite.get_task_init_states(1)) == 50


# ---- SimplerEnv


class Bridge:
    """A ManiSkill2 environment in gymnasium's interface: done from the third action to the fifth, cut off after six."""

    def __init__(self, task: str, dropped: bool) -> None:
        self.task, self.dropped, self.resets, self.closed = task, dropped, [], False

    def reset(self, *, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        self.resets.append(options["obj_init_options"]["episode_id"])
        self.steps: list[np.ndarray] = []
        return self.seen(), {"episode_id": self.resets[-1]}

    def seen(self) -> dict[str, Any]:
        picture = np.full((480, 640, 3), len(self.steps), np.uint8)
        return {"image": {"3rd_view_camera": {"rgb": picture}}, "agent": {}, "extra": {}, "camera_param": {}}

    def get_language_instruction(self) -> str:
        return "put " + self.task

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        assert action.shape == (7,)
        self.steps.append(action)
        done = len(self.steps) >= 3 and not (self.dropped and len(self.steps) > 5)
        return self.seen(), 0.0, done, len(self.steps) == 6, {"episode_stats": {}}

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("dropped", [False, True])
def test_episodes_of_simpler_env(dropped: bool) -> None:
    """An episode runs to its end, and what was done and is undone by then does not count."""
    made: list[Bridge] = []

    def make(task: str) -> Bridge:
        made.append(Bridge(task, dropped))
        return made[-1]

    world, actor = SimplerWorld(make, each=2), Says([0.01, 0.02, 0.03, 0.0, 0.0, 0.5, 1.0])
    assert world.episodes == 8
    tried = attempts(world, actor, range(8))
    assert [each.succeeded for each in tried] == [not dropped] * 8
    assert [env.task for env in made] == [
        *("widowx_spoon_on_towel", "widowx_carrot_on_plate", "widowx_stack_cube", "widowx_put_eggplant_in_basket")
    ]
    assert all(env.resets == [0, 1] and len(env.steps) == 6 for env in made)
    assert [env.closed for env in made] == [True, True, True, False]
    assert world.horizon == 120
    assert actor.told[0] == "put widowx_spoon_on_towel"
    assert actor.shapes == {(480, 640, 3)}
    assert np.allclose(made[0].steps[0], [0.01, 0.02, 0.03, 0, 0, 0.5, 1])
    attempt(world, Says([0.0] * 7), 6)
    assert made[-1].steps[0][6] == -1
    with pytest.raises(ValueError, match="25 episodes of each task"):
        SimplerWorld(make, each=25)


def turn(axis: int, angle: float) -> np.ndarray:
    one, two = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[[one, two], [one, two]] = np.cos(angle)
    matrix[two, one], matrix[one, two] = np.sin(angle), -np.sin(angle)
    return matrix


def test_euler_angles_as_a_rotation_vector() -> None:
    """Turning about the fixed x, then y, then z. The vector is put back into a matrix by its exponential."""
    rng = np.random.default_rng(0)
    for angles in [*rng.uniform(-3, 3, (50, 3)), *rng.uniform(-0.1, 0.1, (50, 3)), np.zeros(3), np.array([0, 0, 3.1])]:
        x, y, z = rotation_vector(angles)
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        power, total = np.eye(3), np.eye(3)
        for count in range(1, 40):
            power = power @ cross / count
            total = total + power
        expected = turn(2, angles[2]) @ turn(1, angles[1]) @ turn(0, angles[0])
        assert np.allclose(total, expected, atol=1e-9)
        assert np.linalg.norm([x, y, z]) <= np.pi + 1e-9


# ---- what is not there


@pytest.mark.parametrize(
    ("opened", "package", "said"),
    [
        (lambda folder: open_simpler(), "simpler_env", "SimplerEnv is not installed"),
        (lambda folder: open_libero("libero_goal"), "libero", "LIBERO is not installed: pip install"),
        (
            lambda folder: open_calvin(folder, folder / "chains.json"),
            "calvin_agent",
            "CALVIN's simulator is not installed",
        ),
    ],
)
def test_simulators_that_are_not_installed_are_told(
    opened: Any, package: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_chains(tmp_path / "chains.json")
    (tmp_path / "validation" / ".hydra").mkdir(parents=True)
    (tmp_path / "validation" / ".hydra" / "merged_config.yaml").write_text("env: {}")
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ValueError, match=said) as error:
        opened(tmp_path)
    assert "\n" not in str(error.value)


def test_libero_is_not_asked_on_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package asks where its data is when it is imported without its file, and a command would hang."""
    (tmp_path / "libero").mkdir()
    (tmp_path / "libero" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"config.yaml: no such file; LIBERO makes it when it is used first"):
        open_libero("libero_goal")


def test_the_command_says_what_a_world_needs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--on mars: allowed is table, calvin, libero, simpler"):
        refuse_others("mars", {"data": tmp_path})
    with pytest.raises(ValueError, match=r"--on mars: allowed is table, calvin, libero, simpler"):
        open_simulator("mars", None, None, "libero_goal", None)
    with pytest.raises(ValueError, match=r"--on calvin: give its dataset with --data, and its 1,000 chains"):
        open_simulator("calvin", tmp_path, None, "libero_goal", None)
    with pytest.raises(ValueError, match=r"no suite 'libero_one'; it has libero_spatial"):
        open_simulator("libero", None, None, "libero_one", None)


@pytest.mark.parametrize(
    ("on", "given", "said"),
    [
        ("calvin", {"size": 96, "episodes": 3}, "--size (of table), --episodes (of table, libero, simpler)"),
        ("table", {"data": ".", "suite": "libero_10"}, "--data (of calvin), --suite (of libero)"),
        ("simpler", {"chains": 0}, "--chains (of table)"),
    ],
)
def test_options_of_another_world_are_named_all_at_once(on: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=rf"^eval policy --on {on}: {re.escape(said)} means nothing here"):
        refuse_others(on, given | {"alone": None})


def test_options_of_the_own_world_are_taken() -> None:
    refuse_others("table", {"episodes": 3, "chains": 0, "alone": True, "size": 96, "table-seed": 1, "data": None})
    refuse_others("calvin", {"data": ".", "sequences": "s.json"})
    refuse_others("libero", {"suite": "libero_10", "episodes": 2})


@pytest.mark.parametrize(
    ("on", "world", "count", "shown"),
    [
        ("calvin", calvin(), 1, "in a row"),
        ("libero", LiberoWorld("libero_goal", Suite(), Scene, each=1), 2, "of 2 episodes done"),
        ("simpler", SimplerWorld(lambda task: Bridge(task, dropped=False), each=1), 4, "4 of 4 episodes done"),
    ],
)
def test_a_policy_acts_in_a_simulator(
    on: str, world: Any, count: int, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command with a policy of its class; the result and its page say that the adapter is unverified."""
    if on != "simpler":  # whose stand-in ends by itself
        monkeypatch.setattr(world, "horizon", 12)
    task, eyes = build(write_tokenizer(tmp_path), low=BRIDGE.low, high=BRIDGE.high)
    monkeypatch.setattr("interlace.tasks.vla.load_vla", lambda run, backbone: (task, eyes))
    monkeypatch.setattr(policy_results, "open_simulator", lambda *asked: (world, count, None))
    console = Console(record=True, width=200)
    policy_results.run_simulator(tmp_path, on, None, None, "", None, None, None, "cpu", console)
    file = tmp_path / "results" / f"policy-{on}.json"
    found = read(file)
    assert {each.facts.settings["adapter"] for each in found} == {
        "tried with stand-ins, never with the simulator itself"
    }
    assert {each.n for each in found if each.measure in ("all", "length")} == {count}
    assert "adapter tried with stand-ins, never with the simulator itself" in file.with_suffix(".html").read_text()
    assert shown in console.export_text()


def test_a_policy_of_another_robot_is_refused_in_simpler_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CALVIN's has as many numbers, and would swing the arm by decimetres."""
    task, eyes = build(write_tokenizer(tmp_path), low=(-0.65,) * 6, high=(0.65,) * 6)
    monkeypatch.setattr("interlace.tasks.vla.load_vla", lambda run, backbone: (task, eyes))
    world = SimplerWorld(lambda name: None)
    monkeypatch.setattr(policy_results, "open_simulator", lambda *asked: (world, 1, None))
    with pytest.raises(
        DataError, match=r"SimplerEnv WidowX: .* \(axis 0 goes from -0.0287 to 0.0283, not -0.65 to 0.65"
    ):
        policy_results.run_simulator(
            tmp_path, "simpler", None, None, "", None, tmp_path / "r.json", None, "cpu", Console(quiet=True)
        )
