"""Questions about a clip of a room that have one right answer, and answers of which none is likelier than another.

Six kinds: how many objects there are, of what colour one is, whether one is left of another, which is nearer, whether
one moves (the camera does, so one frame cannot tell), and what the sign says. Two more ask for what comparing takes:
where one is, and how far. All but what moves and the sign are about the last frame that is shown. Every answer follows
from the room's state and from the pixels that each object really has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..randomness import generator
from ..sample import Text
from .language import OCR_PROMPT, Seen, legible, see
from .render import View
from .scene import BACKGROUND, Scene

KINDS = ("count", "colour", "left of", "nearer", "moved", "sign", "where", "distance")

_MIN_AREA = 0.012  # of the frame: what is smaller can hardly be seen, and a question about it is not asked
_APART = 0.10  # of the frame's width: nearer than this, neither is left of the other
_DEEPER = 0.5  # metres
#: Parts of the frame's width that are clearly on one side, or in the middle.
_PLACES = {"left": (0.0, 0.3), "middle": (0.37, 0.63), "right": (0.7, 1.0)}
_WHOLE = 0.35  # metres: what is not so near to a whole number of them is not asked how far it is
#: An answer that is rarer than this share of the commonest one is never asked for: balancing would cost too much.
_RARE = 0.25


@dataclass(frozen=True)
class Asked:
    """A question and its answer. ``side``: what must be as frequent as the kind's other sides, the answer mostly.

    ``frame``: the last that whoever answers may see.
    """

    kind: str
    prompt: str
    answer: str
    side: str
    frame: int


def ask(scene: Scene, views: Sequence[View], rng: np.random.Generator) -> list[Asked]:
    """Every question that these frames of a clip, its first ones, answer clearly.

    ``rng`` decides who of two is named first.
    """
    number = len(views) - 1
    frames = [see(scene, view.instances, view.depth) for view in views]
    last, counts = frames[-1], Counter(thing.name for thing in scene.things)
    clear = [one for one in last if one.area >= _MIN_AREA]
    found = []
    if len(clear) == len(last):
        found.append(_plain("count", "how many objects are there?", str(len(clear)), number))
    shapes = Counter(scene.things[one.index].shape for one in last)
    for one in clear:
        thing = scene.things[one.index]
        if thing.colour is not None and shapes[thing.shape] == 1:
            found.append(_plain("colour", f"what colour is the {thing.shape}?", thing.colour, number))
    named = [one for one in clear if counts[one.name] == 1]
    found += [asked for one in named for asked in _single(one, number)]
    for pair in combinations(named, 2):
        found += _pair(*(pair if rng.integers(2) else pair[::-1]), number)
    for one in named if len(views) > 1 else []:  # one frame shows no motion
        if all(any(other.index == one.index and other.area >= _MIN_AREA for other in seen) for seen in frames):
            moves = scene.things[one.index].motion.kind != "still"
            found.append(_plain("moved", f"does the {one.name} move?", "yes" if moves else "no", number))
    sign = BACKGROUND.index("sign")
    if any(legible(scene.sign, v.pose, v.intrinsics, float((v.instances == sign).mean())) for v in views):
        found.append(_plain("sign", OCR_PROMPT, scene.sign.word, number))
    return found


def _plain(kind: str, prompt: str, answer: str, frame: int) -> Asked:
    return Asked(kind, prompt, answer, answer, frame)


def _single(one: Seen, frame: int) -> list[Asked]:
    """What can be asked of where one object is."""
    found = [
        _plain("where", f"where is the {one.name}?", place, frame)
        for place, (low, high) in _PLACES.items()
        if low <= one.column <= high
    ]
    metres = round(one.depth)
    if abs(one.depth - metres) <= _WHOLE:
        found.append(_plain("distance", f"how many metres away is the {one.name}?", str(metres), frame))
    return found


def _pair(one: Seen, other: Seen, frame: int) -> list[Asked]:
    """What can be asked of two objects, ``one`` named first."""
    found = []
    if abs(one.column - other.column) >= _APART:
        left = "yes" if one.column < other.column else "no"
        found.append(_plain("left of", f"is the {one.name} left of the {other.name}?", left, frame))
    if abs(one.depth - other.depth) >= _DEEPER:
        side, nearer = ("first", one) if one.depth < other.depth else ("second", other)
        prompt = f"which is nearer, the {one.name} or the {other.name}?"
        found.append(Asked("nearer", prompt, nearer.name, side, frame))
    return found


def balanced(clips: Sequence[Sequence[Asked]], seed: int) -> list[list[Text]]:
    """The clips' questions, so that of each kind every side is equally frequent.

    Which questions stay is drawn from ``seed``. Sides that are rarer than a quarter of the commonest are left out.
    """
    chosen: list[list[Text]] = [[] for _ in clips]
    for kind in KINDS:
        sides: dict[str, list[tuple[int, Asked]]] = {}
        for clip, asked in enumerate(clips):
            for one in asked:
                if one.kind == kind:
                    sides.setdefault(one.side, []).append((clip, one))
        most = max((len(found) for found in sides.values()), default=0)
        common = {side: found for side, found in sorted(sides.items()) if len(found) >= _RARE * most}
        least = min((len(found) for found in common.values()), default=0)
        for side, found in common.items():
            order = generator(seed, "questions", kind, side).permutation(len(found))[:least]
            for clip, one in (found[index] for index in sorted(order)):
                chosen[clip].append(Text(kind=kind, prompt=one.prompt, answer=one.answer, frame=one.frame))
    return chosen
