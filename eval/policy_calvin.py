"""CALVIN as a world for policies: 1,000 chains of five instructions in its unseen scene.

Its simulator (``calvin_env``, ``calvin_agent``) is installed from its repository; it is on no package index. Written
against its interface, and tested with a stand-in that has its keys, shapes and assertions: it was not run itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .policy import UNVERIFIED, Order, Step, picture, told_as

#: Chains of the benchmark, instructions of each, actions that each instruction has.
CHAINS, LENGTH, HORIZON = 1000, 5, 360
#: What a chain's initial state says.
STATE = ("led", "lightbulb", "slider", "drawer", "red_block", "blue_block", "pink_block", "grasped")
#: Numbers of an action: (dx, dy, dz, droll, dpitch, dyaw, gripper).
ACTION_SIZE = 7


@dataclass(frozen=True)
class CalvinChain:
    """The state that a chain begins with, and the ids of its tasks."""

    state: Mapping[str, Any]
    tasks: tuple[str, ...]


def read_chains(file: Path) -> list[CalvinChain]:
    """``eval_sequences.json``: a list of 1,000 pairs (initial state, five ids of tasks).

    Raises ValueError in one line for a file that is missing, is no such list, or has another number of chains.
    """
    if not file.is_file():
        raise ValueError(f"{file}: no such file; CALVIN is measured on its 1,000 chains, give eval_sequences.json")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from None
    if not isinstance(content, list) or len(content) != CHAINS:
        found = f"{len(content)} chains" if isinstance(content, list) else "no list"
        raise ValueError(f"{file}: {found} where CALVIN has {CHAINS:,}; results on others are not comparable")
    return [_chain(row, f"{file}: chain {number}") for number, row in enumerate(content)]


def _chain(row: object, where: str) -> CalvinChain:
    if not (isinstance(row, list) and len(row) == 2 and isinstance(row[0], dict) and isinstance(row[1], list)):
        raise ValueError(f"{where}: not a pair of an initial state and {LENGTH} tasks")
    if lacking := [key for key in STATE if key not in row[0]]:
        raise ValueError(f"{where}: its initial state lacks {', '.join(lacking)}")
    if len(row[1]) != LENGTH or not all(isinstance(task, str) for task in row[1]):
        raise ValueError(f"{where}: {len(row[1])} tasks where a chain has {LENGTH}")
    return CalvinChain(row[0], tuple(row[1]))


class CalvinWorld:
    """Chain 0, 1, ... in CALVIN's simulator.

    ``env``: a ``PlayTableSimEnv``; ``oracle``: its ``Tasks``, which tell what was carried out; ``sentences``: task ->
    its validation sentences, of which the first is read; ``initial``: a chain's state -> (robot_obs, scene_obs).
    Actions are ``rel_actions`` as :class:`interlace.data_recipes.calvin.CalvinReader` gives them, the gripper 0 or 1.
    """

    name, fps, horizon = "CALVIN", 30.0, HORIZON
    groups: Mapping[str, frozenset[str]] = {}

    def __init__(
        self,
        env: Any,
        oracle: Any,
        sentences: Mapping[str, Sequence[str]],
        initial: Callable[[Mapping[str, Any]], tuple[np.ndarray, np.ndarray]],
        chains: Sequence[CalvinChain],
    ) -> None:
        self.env, self.oracle, self.sentences = env, oracle, sentences
        self.initial, self.chains = initial, chains
        self.settings: Mapping[str, object] = {"horizon": HORIZON, **UNVERIFIED}
        if unknown := sorted({task for chain in chains for task in chain.tasks} - set(sentences)):
            raise ValueError(f"CALVIN's chains name tasks without a sentence: {', '.join(unknown)}")

    def start(self, number: int) -> tuple[np.ndarray, Sequence[Order]]:
        chain = self.chains[number]
        robot, scene = self.initial(chain.state)
        seen = self.env.reset(robot_obs=robot, scene_obs=scene)
        return self._view(seen), [Order(task, str(self.sentences[task][0])) for task in chain.tasks]

    def begin(self, order: Order) -> None:
        self._task, self._before = order.name, self.env.get_info()

    def act(self, action: np.ndarray) -> Step:
        told = told_as(action, ACTION_SIZE, self.name)  # of its own: the simulator changes what it is given
        told[6] = 1.0 if told[6] > 0.5 else -1.0
        seen, _, _, now = self.env.step(told)
        done = self.oracle.get_task_info_for_set(self._before, now, {self._task})
        return Step(self._view(seen), self._task in done)

    def _view(self, seen: Mapping[str, Any]) -> np.ndarray:
        """The static camera's picture, 200 x 200, which the recipes train on."""
        return picture(seen["rgb_obs"]["rgb_static"], self.name)


def open_calvin(dataset: Path, chains: Path) -> CalvinWorld:
    """The simulator of a dataset's validation scene (``task_ABC_D``: scene D).

    Raises ValueError in one line where a file is missing, or the simulator is not installed.
    """
    found = read_chains(chains)
    validation = dataset / "validation"
    if not (config := validation / ".hydra" / "merged_config.yaml").is_file():
        raise ValueError(f"{config}: no such file; name the folder of task_ABC_D or another of CALVIN's datasets")
    try:
        import calvin_agent
        import hydra
        from calvin_agent.evaluation.utils import get_env_state_for_initial_condition
        from calvin_env.envs.play_table_env import get_env
        from omegaconf import OmegaConf
    except ImportError as error:
        raise ValueError(
            f"CALVIN's simulator is not installed ({error}): clone github.com/mees/calvin with its submodules and "
            "install calvin_env and calvin_models from there"
        ) from None
    conf = Path(calvin_agent.__file__).parents[1] / "conf"
    oracle = hydra.utils.instantiate(OmegaConf.load(conf / "callbacks/rollout/tasks/new_playtable_tasks.yaml"))
    sentences: Any = OmegaConf.load(conf / "annotations/new_playtable_validation.yaml")
    return CalvinWorld(
        get_env(validation, show_gui=False), oracle, sentences, get_env_state_for_initial_condition, found
    )
