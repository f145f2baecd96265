"""SimplerEnv's WidowX tasks as a world for policies trained on BridgeData V2 (visual matching).

The package ``simpler_env`` is installed from its repository; it is on no package index, and its renderer needs a GPU
with Vulkan. Written against its interface, and tested with a stand-in that has its keys and shapes: it was not run
itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .policy import UNVERIFIED, Order, Step, picture, told_as

#: Task -> actions that it has.
HORIZONS = {
    "widowx_spoon_on_towel": 60,
    "widowx_carrot_on_plate": 60,
    "widowx_stack_cube": 60,
    "widowx_put_eggplant_in_basket": 120,
}
#: Places of the objects in each task.
PLACES = 24
#: Numbers of an action: (dx, dy, dz, droll, dpitch, dyaw, gripper), in metres and radians.
ACTION_SIZE = 7
_CAMERA = "3rd_view_camera"


class SimplerWorld:
    """Episode n: place n % ``each`` of task n // ``each``.

    ``make``: name of a task -> its environment. An episode runs to its end, and counts if it is done then, as in
    SimplerEnv's own evaluation. Euler angles of an action become a rotation vector; the gripper, 1 for open and 0 for
    closed, becomes 1 and -1.
    """

    name, fps = "SimplerEnv WidowX", 5.0
    groups: Mapping[str, frozenset[str]] = {}

    def __init__(self, make: Callable[[str], Any], each: int = PLACES) -> None:
        if not 1 <= each <= PLACES:
            raise ValueError(f"SimplerEnv: {each} episodes of each task; it has 1 to {PLACES} places of the objects")
        self.make, self.each = make, each
        self.settings: Mapping[str, object] = {"episodes of each task": each, **UNVERIFIED}
        self._env: Any = None
        self._task: str | None = None

    @property
    def episodes(self) -> int:
        return len(HORIZONS) * self.each

    @property
    def horizon(self) -> int:
        return HORIZONS[str(self._task)]

    def start(self, number: int) -> tuple[np.ndarray, Sequence[Order]]:
        place, where = divmod(number, self.each)
        task = list(HORIZONS)[place]
        if task != self._task:
            self.close()
            self._env, self._task = self.make(task), task
        seen, _ = self._env.reset(options={"obj_init_options": {"episode_id": where}})
        return self._view(seen), [Order(task, str(self._env.get_language_instruction()))]

    def begin(self, order: Order) -> None:
        """The simulator itself knows what is to be done."""

    def act(self, action: np.ndarray) -> Step:
        told = told_as(action, ACTION_SIZE, self.name)
        gripper = 1.0 if told[6] > 0.5 else -1.0
        seen, _, done, cut, _ = self._env.step(np.array([*told[:3], *rotation_vector(told[3:6]), gripper]))
        return Step(self._view(seen), bool(done and cut), bool(cut))

    def close(self) -> None:
        """Let go of the simulator."""
        if self._env is not None:
            self._env.close()
            self._env, self._task = None, None

    def _view(self, seen: Mapping[str, Any]) -> np.ndarray:
        return picture(seen["image"][_CAMERA]["rgb"], self.name)


def rotation_vector(angles: np.ndarray) -> np.ndarray:
    """[3], radians: axis times angle of turning about the fixed x, then y, then z by these angles [3]."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles / 2), np.sin(angles / 2)
    w = cx * cy * cz + sx * sy * sz
    axis = np.array([sx * cy * cz - cx * sy * sz, cx * sy * cz + sx * cy * sz, cx * cy * sz - sx * sy * cz])
    length = np.linalg.norm(axis)
    if length == 0:
        return np.zeros(3)
    angle = 2 * np.arctan2(length, abs(w)) * np.sign(w or 1.0)  # the shorter way round
    return axis / length * angle


def open_simpler(each: int = PLACES) -> SimplerWorld:
    """The installed package. Raises ValueError in one line where it is not installed."""
    try:
        import simpler_env
    except ImportError as error:
        raise ValueError(
            f"SimplerEnv is not installed ({error}): clone github.com/simpler-env/SimplerEnv with its submodules and "
            "install ManiSkill2_real2sim and simpler_env from there"
        ) from None
    return SimplerWorld(simpler_env.make, each)
