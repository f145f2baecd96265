"""What stands in a room: a pure function of (seed, room number). No MuJoCo here, and nothing is drawn.

A room has a floor of a named material, walls of a named colour and pictures on them. It is furnished anew for each of
its scenes: two or three large objects and a standing sign around its middle, and one camera path (were a word always
seen in one room, the room would give it away). Every word that is spoken is drawn from blocks in which each choice
occurs once, so that no word is likelier than another. Metres, seconds, radians; z is up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..randomness import generator
from .assets import FLOORS, PROPS, WALL_TEXTURES, WALLS
from .paths import KINDS, CameraPath, draw_path

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.08, 0.08),
    "orange": (0.98, 0.50, 0.06),
    "yellow": (0.95, 0.88, 0.12),
    "green": (0.10, 0.62, 0.16),
    "blue": (0.10, 0.22, 0.88),
    "purple": (0.52, 0.12, 0.66),
    "white": (0.95, 0.95, 0.95),
    "black": (0.06, 0.06, 0.06),
}
SHAPES = ("box", "ball", "cylinder", "cone")
#: What a pixel may belong to besides objects, by number; objects follow.
BACKGROUND = ("nothing", "floor", "walls", "ceiling", "posters", "stand", "sign")
#: From one letter to eight, so that 64 pixels tell them apart: a word is as large as its board allows.
WORDS = ("P", "GO", "ZOO", "CAFE", "HOTEL", "MUSEUM", "LIBRARY", "PHARMACY")
#: Of signs, independent of the word. Letters are white and boards dark: what is bright within the frame is the word.
BOARDS = ((0, 0, 0), (20, 60, 190), (190, 20, 20), (10, 110, 40), (110, 60, 20))

#: The colour of every sign's frame, and of nothing else: what makes a sign known as one, whatever stands on it.
SIGN_FRAME = (240, 0, 200)

#: Scenes a room may have: MuJoCo tells six groups of geoms apart, and one of them is the room.
MOST_SCENES = 5

#: Objects and the sign stand in slots on a circle of this radius; discs of SLOT_REACH about slots do not meet.
SLOT_RADIUS, SLOT_REACH = 1.0, 0.66
#: Half extents of the sign's board, and the height of its middle.
SIGN_HALF, SIGN_HEIGHT = (0.60, 0.38), 0.78

_Choice = TypeVar("_Choice")


@dataclass(frozen=True)
class Motion:
    """How an object moves about the place where it stands. ``kind``: "still", "bounce", "slide" or "turn"."""

    kind: str
    amplitude: float = 0.0  # metres
    rate: float = 0.0  # radians a second

    def at(self, time: float) -> tuple[float, float, float]:
        """(shift along the object's own x, shift upwards, turn) at a time."""
        if self.kind == "bounce":
            return 0.0, self.amplitude * abs(float(np.sin(self.rate * time))), 0.0
        if self.kind == "slide":
            return self.amplitude * float(np.sin(self.rate * time)), 0.0, 0.0
        return 0.0, 0.0, self.rate * time


@dataclass(frozen=True)
class Thing:
    """An object: a coloured primitive (``shape`` in :data:`SHAPES`) or a prop (``colour`` None, ``shape`` its name)."""

    colour: str | None
    shape: str
    half: tuple[float, float, float]  # half extents; a prop's own if colour is None
    position: tuple[float, float]
    yaw: float
    motion: Motion

    @property
    def name(self) -> str:
        """What captions call it: "red box", "rubber duck"."""
        return self.shape if self.colour is None else f"{self.colour} {self.shape}"

    def pose(self, time: float) -> tuple[np.ndarray, float]:
        """The lowest point under its middle [3], and how it is turned, at a time."""
        along, up, turn = self.motion.at(time)
        x, y = self.position
        return np.array([x + along * np.cos(self.yaw), y + along * np.sin(self.yaw), up]), self.yaw + turn


@dataclass(frozen=True)
class Sign:
    """A board on a stand with one word on both faces. ``yaw``: where its front face looks."""

    word: str
    board: tuple[int, int, int]
    position: tuple[float, float]
    yaw: float


@dataclass(frozen=True)
class Poster:
    """A picture on a wall (0 +x, 1 -x, 2 +y, 3 -y), ``along`` metres right of the wall's middle as one faces it."""

    photograph: str  # its name in :func:`interlace.data_recipes.worlds.assets.photographs`
    wall: int
    along: float
    height: float
    half: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """How a room is furnished for one camera path."""

    things: tuple[Thing, ...]
    sign: Sign
    path: CameraPath

    @property
    def instances(self) -> tuple[str, ...]:
        """What each instance number stands for: :data:`BACKGROUND`, then "thing 0", "thing 1", ..."""
        return (*BACKGROUND, *(f"thing {k}" for k in range(len(self.things))))


@dataclass(frozen=True)
class Room:
    """Everything there is to draw and to say. Its scenes share floor, walls, posters and light, and nothing else."""

    number: int
    half: tuple[float, float]
    height: float
    floor: str  # the word
    floor_texture: tuple[str, str]
    walls: str  # the word
    wall_texture: tuple[str, str]
    posters: tuple[Poster, ...]
    light: tuple[float, float]  # where the lamp hangs
    brightness: float
    scenes: tuple[Scene, ...]


def balanced(seed: int, name: str, index: int, choices: Sequence[_Choice]) -> _Choice:
    """The ``index``-th draw of an endless sequence made of shuffled blocks that hold every choice once."""
    block, place = divmod(index, len(choices))
    return choices[int(generator(seed, name, block).permutation(len(choices))[place])]


def draw_room(seed: int, number: int, posters: Sequence[str], scenes: int, duration: float) -> Room:
    """Room ``number``, with pictures drawn from ``posters`` and ``scenes`` scenes of ``duration`` seconds.

    ValueError for more than :data:`MOST_SCENES`.
    """
    if scenes > MOST_SCENES:
        raise ValueError(f"room {number}: {scenes} scenes asked for; a room has at most {MOST_SCENES}")
    rng = generator(seed, "room", number)
    half = (float(rng.uniform(2.9, 3.8)), float(rng.uniform(2.9, 3.8)))
    height = float(rng.uniform(2.4, 3.2))
    floor = balanced(seed, "floor", number, tuple(FLOORS))
    return Room(
        number=number,
        half=half,
        height=height,
        floor=floor,
        floor_texture=FLOORS[floor][int(rng.integers(len(FLOORS[floor])))],
        walls=balanced(seed, "walls", number, tuple(WALLS)),
        wall_texture=WALL_TEXTURES[int(rng.integers(len(WALL_TEXTURES)))],
        posters=tuple(_draw_poster(rng, wall, half, height, posters) for wall in range(4)) if posters else (),
        light=(float(rng.uniform(-1.0, 1.0)), float(rng.uniform(-1.0, 1.0))),
        brightness=float(rng.uniform(0.85, 1.1)),
        scenes=tuple(_draw_scene(seed, scenes * number + k, half, height, duration) for k in range(scenes)),
    )


def _draw_scene(seed: int, index: int, half: tuple[float, float], height: float, duration: float) -> Scene:
    """Scene ``index`` among those of all rooms."""
    rng = generator(seed, "scene", index)
    slots = rng.uniform(0, 2 * np.pi) + np.arange(4) * np.pi / 2 + rng.uniform(-0.03, 0.03, 4)
    places = [(SLOT_RADIUS * float(np.cos(a)), SLOT_RADIUS * float(np.sin(a))) for a in slots]
    word = balanced(seed, "word", index, WORDS)
    kind = balanced(seed, "path", index, KINDS)
    return Scene(
        things=_draw_things(seed, index, rng, places[1:]),
        sign=Sign(word, balanced(seed, "board", index, BOARDS), places[0], float(slots[0] + rng.uniform(-0.3, 0.3))),
        path=draw_path(rng, kind, half, height, duration, (*places[0], SIGN_HEIGHT)),
    )


def _draw_things(
    seed: int, scene: int, rng: np.random.Generator, places: Sequence[tuple[float, float]]
) -> tuple[Thing, ...]:
    """Two or three objects, one a slot; in every seventh scene the second is like the first in colour and shape."""
    count = 2 + int(rng.integers(2))
    things: list[Thing] = []
    for k in range(count):
        index = 3 * scene + k
        twin = k == 1 and scene % 7 == 3
        colour: str | None
        if twin and things[0].colour is not None:
            colour, shape = things[0].colour, things[0].shape
        else:
            is_prop = balanced(seed, "prop or primitive", index, (True, False, False, False))
            colour = None if is_prop else balanced(seed, "colour", index, tuple(COLOURS))
            shape = balanced(seed, "prop", index // 4, PROPS) if is_prop else balanced(seed, "shape", index, SHAPES)
        half = _draw_size(rng, shape) if colour is not None else (0.0, 0.0, 0.0)
        yaw = float(rng.uniform(0, 2 * np.pi))
        things.append(Thing(colour, shape, half, places[k], yaw, _draw_motion(rng, shape)))
    return tuple(things)


def _draw_size(rng: np.random.Generator, shape: str) -> tuple[float, float, float]:
    if shape == "box":
        x, y, z = rng.uniform((0.24, 0.24, 0.28), (0.40, 0.40, 0.46))
        return float(x), float(y), float(z)
    radius = float(rng.uniform(0.30, 0.42) if shape != "cylinder" else rng.uniform(0.24, 0.34))
    tall = radius if shape == "ball" else float(rng.uniform(0.36, 0.50))
    return radius, radius, tall


def _draw_motion(rng: np.random.Generator, shape: str) -> Motion:
    """Two of five objects move. Shifts stay within what SLOT_REACH leaves free."""
    kind = ("still", "still", "still", "move", "move")[int(rng.integers(5))]
    rate = float(rng.uniform(1.2, 2.4))
    if kind == "still":
        return Motion("still")
    if shape == "ball":
        return Motion("bounce", float(rng.uniform(0.35, 0.7)), rate)
    if shape in SHAPES:
        return Motion("slide", float(rng.uniform(0.06, 0.10)), rate)
    return Motion("turn", rate=rate)


def _draw_poster(
    rng: np.random.Generator, wall: int, room: tuple[float, float], height: float, posters: Sequence[str]
) -> Poster:
    half = (float(rng.uniform(0.45, 0.75)), float(rng.uniform(0.45, 0.7)))
    reach = room[1 if wall < 2 else 0] - half[0] - 0.2
    return Poster(
        photograph=posters[int(rng.integers(len(posters)))],
        wall=wall,
        along=float(rng.uniform(-reach, reach)),
        height=float(rng.uniform(half[1] + 0.3, height - half[1] - 0.1)),
        half=half,
    )
