"""LIBERO as a world for policies: the tasks of a suite, each from its recorded initial states.

The package ``hf-libero`` (extra ``vla``) holds simulator, tasks and initial states, and fetches the scenes' meshes from
the Hugging Face hub. Tested with the package's tasks and states, and a stand-in for the scenes: no episode was run.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .policy import UNVERIFIED, Order, Step, picture, told_as

#: Suite -> actions that a task has, a little more than its longest demonstration needs (OpenVLA's evaluation).
HORIZONS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
#: Recorded initial states of a task.
STATES = 50
#: Numbers of an action: (dx, dy, dz, three of a rotation vector, gripper), all in -1...1.
ACTION_SIZE = 7
#: Pixels a side that the camera is drawn with.
SIZE = 256

_WAIT = 10  # actions that do nothing, while what the scene begins with falls into place (OpenVLA's evaluation)
_NOTHING = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)


class LiberoWorld:
    """Episode n: state n % ``each`` of task n // ``each`` of a suite.

    ``suite``: a ``libero.libero.benchmark`` object; ``make``: path of a task's BDDL file -> an ``OffScreenRenderEnv``.
    The picture is the agent's view, turned by half a circle, as LIBERO's demonstrations are shown to policies. A
    policy's gripper is 1 for open, 0 for closed; the simulator's is -1 for open, 1 for closed.
    """

    fps = 20.0
    groups: Mapping[str, frozenset[str]] = {}

    def __init__(self, name: str, suite: Any, make: Callable[[str], Any], each: int = STATES) -> None:
        if name not in HORIZONS:
            raise ValueError(f"LIBERO has no suite {name!r}; it has {', '.join(HORIZONS)}")
        if not 1 <= each <= STATES:
            raise ValueError(f"LIBERO: {each} episodes of each task; it has 1 to {STATES} initial states")
        self.name, self.suite, self.make, self.each = f"LIBERO, {name}", suite, make, each
        self.horizon = HORIZONS[name]
        self.settings: Mapping[str, object] = {"horizon": self.horizon, "episodes of each task": each, **UNVERIFIED}
        self._env: Any = None
        self._task: int | None = None

    @property
    def episodes(self) -> int:
        return int(self.suite.n_tasks) * self.each

    def start(self, number: int) -> tuple[np.ndarray, Sequence[Order]]:
        place, state = divmod(number, self.each)
        task = self.suite.get_task(place)
        if place != self._task:
            self.close()
            self._env, self._task = self.make(self.suite.get_task_bddl_file_path(place)), place
            self._states = self.suite.get_task_init_states(place)
        self._env.seed(0)  # even with a state given, the seed moves what is in the scene (OpenVLA's evaluation)
        self._env.reset()
        self._env.set_init_state(self._states[state])
        for _ in range(_WAIT):
            seen, *_ = self._env.step(list(_NOTHING))
        return self._view(seen), [Order(task.name, task.language)]

    def begin(self, order: Order) -> None:
        """The simulator itself knows what is to be done."""

    def act(self, action: np.ndarray) -> Step:
        told = told_as(action, ACTION_SIZE, self.name)
        told[6] = -1.0 if told[6] > 0.5 else 1.0
        seen, _, done, _ = self._env.step(told.tolist())
        return Step(self._view(seen), bool(done))

    def close(self) -> None:
        """Let go of the simulator."""
        if self._env is not None:
            self._env.close()
            self._env, self._task = None, None

    def _view(self, seen: Mapping[str, Any]) -> np.ndarray:
        return picture(seen["agentview_image"][::-1, ::-1], self.name)


def open_libero(name: str, each: int = STATES) -> LiberoWorld:
    """A suite of the installed package. Raises ValueError in one line where it is not installed, or not set up."""
    if name not in HORIZONS:
        raise ValueError(f"LIBERO has no suite {name!r}; it has {', '.join(HORIZONS)}")
    told = Path(os.environ.get("LIBERO_CONFIG_PATH", "~/.libero")).expanduser() / "config.yaml"
    if importlib.util.find_spec("libero") is None:
        raise ValueError("LIBERO is not installed: pip install 'interlace[vla]'")
    if not told.is_file():  # importing the package would ask for it on the terminal
        raise ValueError(
            f"{told}: no such file; LIBERO makes it when it is used first: python -c 'import libero.libero'"
        )
    try:
        from libero.libero import benchmark
        from libero.libero.envs import OffScreenRenderEnv
    except ImportError as error:
        raise ValueError(f"LIBERO is not installed whole ({error}): pip install 'interlace[vla]'") from None
    suite = benchmark.get_benchmark(name)()

    def make(bddl: str) -> Any:
        return OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=SIZE, camera_widths=SIZE)

    return LiberoWorld(name, suite, make, each)
