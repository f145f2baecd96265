"""The robot table: one scene, twelve instructions, a simulator that says what was done and what was disturbed.

Everything that may be named stands on every table, so that only the instruction says what to do. An action is
(x, y, z, gripper): where the hand is to go, in metres, and whether the gripper is open (1) or closed (0). Ten actions
a second, in each of which the hand comes nearer by 2 cm along each axis at most. x points right, y away from the
camera, z up.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..randomness import generator
from . import render
from .table_mjcf import BAR, BLOCK, BLOCKS, BUTTON_DEPTH, BUTTON_TOP, FINGER_REACH, XML

if TYPE_CHECKING:
    import mujoco

FPS = 10.0
#: Metres that the hand goes, at most, along each axis in one action.
STEP = 0.02
#: (x, y, z, gripper)
ACTION_SIZE = 4
#: Where the hand may be sent, in metres: the lowest and the highest (x, y, z).
REACH = ((-0.38, -0.34, 0.006), (0.38, 0.3, 0.3))
#: The hand's place (x, y, z) and how far its fingers are apart, in metres.
PROPRIO_SIZE = 4
#: Actions after which an instruction that is not done has failed.
HORIZON = 120

#: What an instruction asks for: a verb, and the thing that it names.
Verb = Literal["lift", "left", "right", "open", "close", "press"]


@dataclass(frozen=True)
class Instruction:
    """``text`` is what a policy reads; ``target`` is a block's colour, "drawer" or "button"."""

    name: str
    text: str
    verb: Verb
    target: str


def _instructions() -> dict[str, Instruction]:
    said = {"lift": "pick up the {} block", "left": "push the {} block to the left"}
    said["right"] = "push the {} block to the right"
    verbs: tuple[Verb, ...] = ("lift", "left", "right")
    about = [Instruction(f"{verb}_{c}", said[verb].format(c), verb, c) for c in BLOCKS for verb in verbs]
    about += [
        Instruction("open_drawer", "pull the drawer open", "open", "drawer"),
        Instruction("close_drawer", "push the drawer shut", "close", "drawer"),
        Instruction("press_button", "press the button", "press", "button"),
    ]
    return {one.name: one for one in about}


#: name -> instruction; the nine about blocks come first.
INSTRUCTIONS = _instructions()
BLOCK_INSTRUCTIONS = tuple(name for name, one in INSTRUCTIONS.items() if one.target in BLOCKS)

LIFTED, PUSHED = 0.06, 0.08  # metres that a block must have moved up, or sideways
OPENED, SHUT = 0.08, 0.02  # metres that the drawer is out, at least and at most
PRESSED = 0.6 * BUTTON_DEPTH
BLOCK_STILL, DRAWER_STILL = 0.03, 0.02  # metres that what is not named may move

_SUBSTEPS = 25


@dataclass(frozen=True)
class Layout:
    """Where everything is when an episode begins. Metres and degrees."""

    blocks: tuple[tuple[float, float], ...]  # (x, y) in the order of BLOCKS
    cabinet: tuple[float, float]
    drawer: float  # how far it is out
    button: tuple[float, float]
    hand: tuple[float, float, float]
    camera: tuple[float, float, float, float, float]  # azimuth, elevation, distance, and x, y that it looks at

    @property
    def looks_at(self) -> tuple[float, float, float]:
        """The point in the middle of the picture."""
        return (*self.camera[3:], 0.02)


def draw_layout(seed: int, episode: int, instruction: Instruction) -> Layout:
    """The layout of an episode: a pure function of (seed, episode), but for the drawer where it is what is named.

    Blocks stand in three rows, which of them in which is drawn, so that each can be pushed either way past the
    others. The cabinet stands on the left or on the right, the button on the other side. The camera's place varies a
    little: with five times as much, 480 episodes taught a small policy nothing that held on other layouts.
    """
    rng = generator(seed, "table", episode)
    rows = np.array([-0.215, -0.13, -0.045]) + rng.uniform(-0.005, 0.005, 3)
    blocks = tuple(
        (float(x), float(y)) for x, y in zip(rng.uniform(-0.16, 0.16, 3), rng.permutation(rows), strict=True)
    )
    side = 1.0 if rng.random() < 0.5 else -1.0
    cabinet = (side * rng.uniform(0.2, 0.3), rng.uniform(0.29, 0.33))
    button = (-side * rng.uniform(0.18, 0.3), rng.uniform(0.08, 0.26))
    is_open = bool(rng.random() < 0.5)
    out = rng.uniform(0.095, 0.115)
    if instruction.verb in ("open", "close"):
        is_open = instruction.verb == "close"
    hand = (rng.uniform(-0.05, 0.05), rng.uniform(-0.1, 0.0), rng.uniform(0.17, 0.21))
    camera = (
        90.0 + rng.uniform(-3.6, 3.6),
        rng.uniform(-56, -54),
        rng.uniform(0.89, 0.91),
        rng.uniform(-0.006, 0.006),
        rng.uniform(0.016, 0.024),
    )
    return Layout(blocks, cabinet, out if is_open else 0.0, button, hand, camera)


@dataclass(frozen=True)
class State:
    """What is where, in metres. ``bar``: the middle of the drawer's handle. ``knob``: the top of the button."""

    hand: np.ndarray  # [3], between the tips of the fingers
    gap: float  # between the fingers
    blocks: dict[str, np.ndarray]  # colour -> [3]
    drawer: float  # how far it is out
    bar: np.ndarray  # [3]
    button: float  # how deep it is pressed
    knob: np.ndarray  # [3]

    @property
    def proprio(self) -> np.ndarray:
        """[PROPRIO_SIZE] float32: what a robot knows of itself."""
        return np.array([*self.hand, self.gap], np.float32)


@dataclass(frozen=True)
class Outcome:
    """``done``: the named thing was moved as asked, and nothing else was. ``disturbed``: what else moved, if any."""

    done: bool
    disturbed: tuple[str, ...]


class Table:
    """The simulator. :meth:`reset`, then :meth:`begin` an instruction, then :meth:`act`; all deterministic."""

    def __init__(self) -> None:
        import mujoco

        self._mujoco = mujoco
        self.model: mujoco.MjModel = mujoco.MjModel.from_xml_string(XML)
        self.data: mujoco.MjData = mujoco.MjData(self.model)
        self.layout: Layout | None = None
        self._address = {
            name: int(self.model.joint(name).qposadr[0])
            for name in (*BLOCKS, "hand_x", "hand_y", "hand_z", "finger_left", "finger_right", "drawer", "button")
        }

    def reset(self, layout: Layout) -> State:
        """Put everything where the layout says, the gripper open."""
        model, data = self.model, self.data
        model.body("cabinet").pos = (*layout.cabinet, 0.0)
        model.body("button_box").pos = (*layout.button, 0.0)
        self._mujoco.mj_resetData(model, data)
        for name, place in zip(BLOCKS, layout.blocks, strict=True):
            at = self._address[name]
            data.qpos[at : at + 7] = (*place, BLOCK, 1.0, 0.0, 0.0, 0.0)
        for axis, value in zip("xyz", layout.hand, strict=True):
            data.qpos[self._address[f"hand_{axis}"]] = value
        data.qpos[self._address["drawer"]] = layout.drawer
        for finger in ("finger_left", "finger_right"):
            data.qpos[self._address[finger]] = FINGER_REACH
        self.layout = layout
        self._run(np.array(layout.hand), 1.0)
        return self.state()

    def begin(self, instruction: Instruction) -> State:
        """What happens from here on is judged against how things are now. A button that is still down is not pressed
        until it was let go of."""
        self.instruction = instruction
        self._before = self.state()
        self._disturbed: set[str] = set()
        self._pressed, self._released = False, self._before.button < PRESSED
        return self._before

    def act(self, action: np.ndarray) -> tuple[State, Outcome]:
        """Do one action [ACTION_SIZE] for a tenth of a second. What lies beyond REACH is cut; others than finite
        numbers, or another number of them, raise ValueError."""
        action = np.asarray(action, np.float64)
        if action.shape != (ACTION_SIZE,) or not np.isfinite(action).all():
            raise ValueError(f"an action of the table is {ACTION_SIZE} finite numbers (x, y, z, gripper): {action}")
        hand = self.state().hand
        self._run(hand + np.clip(np.clip(action[:3], *REACH) - hand, -STEP, STEP), float(action[3] > 0.5))
        state = self.state()
        self._disturbed.update(self._moved(state))
        return state, Outcome(self._as_asked(state) and not self._disturbed, tuple(sorted(self._disturbed)))

    def state(self) -> State:
        """How things are now."""
        data, at = self.data, self._address
        drawer, button = float(data.qpos[at["drawer"]]), float(data.qpos[at["button"]])
        return State(
            hand=np.array([data.qpos[at[f"hand_{axis}"]] for axis in "xyz"]),
            gap=float(data.qpos[at["finger_left"]] + data.qpos[at["finger_right"]]),
            blocks={name: data.qpos[at[name] : at[name] + 3].copy() for name in BLOCKS},
            drawer=drawer,
            bar=self.model.body("cabinet").pos + np.array(BAR) - (0.0, drawer, 0.0),
            button=button,
            knob=self.model.body("button_box").pos + np.array(BUTTON_TOP) - (0.0, 0.0, button),
        )

    def _run(self, target: np.ndarray, open_share: float) -> None:
        data = self.data
        data.ctrl[:3] = target
        data.ctrl[3:] = open_share * FINGER_REACH
        for _ in range(_SUBSTEPS):
            self._mujoco.mj_step(self.model, data)
            if hasattr(self, "_before"):
                down = data.qpos[self._address["button"]] > PRESSED
                self._pressed |= bool(down and self._released)
                self._released |= not down
        self._mujoco.mj_forward(self.model, data)

    def _as_asked(self, now: State) -> bool:
        verb, target, before = self.instruction.verb, self.instruction.target, self._before
        if verb == "open":
            return now.drawer > OPENED
        if verb == "close":
            return now.drawer < SHUT
        if verb == "press":
            return self._pressed
        moved = now.blocks[target] - before.blocks[target]
        if verb == "lift":
            return bool(moved[2] > LIFTED)
        sideways = -moved[0] if verb == "left" else moved[0]
        return bool(sideways > PUSHED and abs(moved[2]) < BLOCK / 2)

    def _moved(self, now: State) -> list[str]:
        """What is not named, and is not where it was when the instruction began."""
        before, target = self._before, self.instruction.target
        moved = [
            name
            for name in BLOCKS
            if name != target and np.linalg.norm(now.blocks[name] - before.blocks[name]) > BLOCK_STILL
        ]
        if target != "drawer" and abs(now.drawer - before.drawer) > DRAWER_STILL:
            moved.append("drawer")
        if target != "button" and self._pressed:
            moved.append("button")
        return moved


def possible(instruction: Instruction, state: State) -> bool:
    """Whether there is anything to do: a drawer that is open cannot be opened, a block at the edge not be pushed on."""
    verb = instruction.verb
    if verb in ("open", "close"):
        return state.drawer < SHUT if verb == "open" else state.drawer > OPENED
    if verb == "press":
        return True
    place = state.blocks[instruction.target]
    side = {"lift": 0.0, "left": -1.0, "right": 1.0}[verb]
    return bool(place[2] < 2 * BLOCK and abs(place[0] + side * PUSHED) < 0.3)


class TableCamera:
    """Draws a table with what ``render.set_backend`` chose, OpenGL or rays. A context manager."""

    def __init__(self, table: Table, size: int) -> None:
        import mujoco

        from .table_rays import TableWorld

        self._table, self._size = table, size
        self._world = TableWorld(table) if render.rays_chosen() else None
        self._renderer = None if render.rays_chosen() else mujoco.Renderer(table.model, size, size)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FREE

    def draw(self) -> np.ndarray:
        """[size, size, 3] uint8 of how things are now, from the layout's camera."""
        from . import table_rays

        layout, camera = self._table.layout, self._camera
        if layout is None:
            raise RuntimeError("reset the table before it is drawn")
        if self._world is not None:
            return table_rays.draw(self._world, layout, self._size)
        assert self._renderer is not None
        camera.azimuth, camera.elevation, camera.distance = layout.camera[:3]
        camera.lookat[:] = layout.looks_at
        self._renderer.update_scene(self._table.data, camera)
        return self._renderer.render().copy()

    def __enter__(self) -> TableCamera:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._renderer is not None:
            self._renderer.close()
