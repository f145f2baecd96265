"""What can be said of a view, and is true: captions, the sign's word, and where things are.

Every text follows from the room's state and from the pixels that each object really has in the frame.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..sample import Text
from .scene import BACKGROUND, SIGN_HALF, SIGN_HEIGHT, Room, Scene, Sign

CAPTION_PROMPT = "describe the room"
OCR_PROMPT = "what does the sign say?"
BOX = "<box>"  # a grounding answer: whoever reads it writes the text's box in its own way

_MIN_AREA = 0.012  # of the frame: smaller objects are not spoken of
_MIN_SURFACE = 0.08  # of the frame: less of the walls or the floor is not spoken of
_APART = 0.10  # of the frame's width: nearer than this, neither is left of the other
_DEEPER = 0.5  # metres
# Smaller or more slanted than this, letters of 64-pixel frames are no wider than a pixel or two.
_MIN_SIGN, _MIN_SIGN_SHOWN, _MIN_FACING = 0.12, 0.85, 0.7


@dataclass(frozen=True)
class Seen:
    """An object of the room as one frame shows it."""

    index: int  # among the scene's things
    name: str
    box: np.ndarray  # [4] float32 normalised xyxy, of its visible pixels
    area: float  # share of the frame
    column: float  # mean column of its visible pixels, 0 left to 1 right
    depth: float  # median, metres


def article(name: str) -> str:
    """The name with "a" or "an"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def plural(name: str) -> str:
    """ "orange box" -> "orange boxes"."""
    return name + ("es" if name.endswith("x") else "s")


def see(scene: Scene, instances: np.ndarray, depth: np.ndarray) -> list[Seen]:
    """The objects that have any pixel, largest first. ``instances`` are numbers into ``scene.instances``."""
    height, width = instances.shape
    seen = []
    for k, thing in enumerate(scene.things):
        rows, columns = np.nonzero(instances == len(BACKGROUND) + k)
        if len(rows):
            box = np.array(
                [
                    columns.min() / width,
                    rows.min() / height,
                    (columns.max() + 1) / width,
                    (rows.max() + 1) / height,
                ],
                np.float32,
            )
            column = float((columns.mean() + 0.5) / width)
            middle = float(np.median(depth[rows, columns]))
            seen.append(Seen(k, thing.name, box, len(rows) / instances.size, column, middle))
    return sorted(seen, key=lambda one: (-one.area, one.index))


def relation(one: Seen, other: Seen) -> str | None:
    """How ``one`` stands to ``other`` as the camera sees it, or None where that is not clear."""
    if abs(one.column - other.column) >= _APART:
        return "left of" if one.column < other.column else "right of"
    if abs(one.depth - other.depth) >= _DEEPER:
        return "in front of" if one.depth < other.depth else "behind"
    return None


def caption(room: Room, seen: list[Seen], floor_area: float, walls_area: float) -> str:
    """ "a red box left of an orange ball, blue walls, wooden floor": the two largest objects, and what is around."""
    large = [one for one in seen if one.area >= _MIN_AREA][:2]
    phrases = []
    if len(large) == 2:
        one, other = large
        word = relation(one, other)
        if one.name == other.name:
            phrases.append(f"two {plural(one.name)}")
        else:
            phrases.append(f"{article(one.name)} {word or 'and'} {article(other.name)}")
    elif large:
        phrases.append(article(large[0].name))
    if walls_area >= _MIN_SURFACE:
        phrases.append(f"{room.walls} walls")
    if floor_area >= _MIN_SURFACE:
        phrases.append(f"{room.floor} floor")
    return ", ".join(phrases) if phrases else "nothing to name"


def grounding(seen: list[Seen]) -> list[tuple[str, Seen]]:
    """Questions that have one answer in this frame: "where is the left one of the two orange boxes?" included."""
    counts = Counter(one.name for one in seen)
    questions = []
    for name in dict.fromkeys(one.name for one in seen):
        named = sorted((one for one in seen if one.name == name), key=lambda one: one.column)
        if any(one.area < _MIN_AREA for one in named):
            continue  # a speck beside it would make the answer doubtful
        if counts[name] == 1:
            questions.append((f"where is the {name}?", named[0]))
        elif counts[name] == 2 and named[1].column - named[0].column >= _APART:
            for side, one in zip(("left", "right"), named, strict=True):
                questions.append((f"where is the {side} one of the two {plural(name)}?", one))
    return questions


def sign_corners(sign: Sign, front: bool) -> np.ndarray:
    """[4, 3] corners of a face of the sign's board."""
    way = 1 if front else -1
    normal = way * np.array([np.cos(sign.yaw), np.sin(sign.yaw), 0.0])
    right = np.array([-normal[1], normal[0], 0.0])
    middle = np.array([*sign.position, SIGN_HEIGHT]) + 0.03 * normal
    x, z = SIGN_HALF
    return np.stack(
        [middle + a * x * right + b * z * np.array([0, 0, 1.0]) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    )


def legible(sign: Sign, pose: np.ndarray, intrinsics: np.ndarray, shown: float) -> bool:
    """Whether the word can be read: large, turned to the camera, whole in the frame, and not hidden.

    ``shown``: share of the (square) frame's pixels that are the sign's.
    """
    eye = pose[:3, 3]
    normal = np.array([np.cos(sign.yaw), np.sin(sign.yaw), 0.0])
    to_eye = eye - np.array([*sign.position, SIGN_HEIGHT])
    facing = float(to_eye @ normal / np.linalg.norm(to_eye))
    if shown < _MIN_SIGN or abs(facing) < _MIN_FACING:
        return False
    corners = (sign_corners(sign, facing > 0) - eye) @ pose[:3, :3]
    if (corners[:, 2] <= 0.05).any():
        return False
    side = 2 * intrinsics[0, 2]
    places = (corners[:, :2] / corners[:, 2:] * intrinsics[0, 0] + intrinsics[0, 2]) / side
    x, y = places.T
    polygon = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return bool((places >= 0).all() and (places <= 1).all() and shown >= _MIN_SIGN_SHOWN * polygon)


def texts(
    room: Room,
    scene: Scene,
    frame: int,
    instances: np.ndarray,
    depth: np.ndarray,
    pose: np.ndarray,
    intrinsics: np.ndarray,
) -> list[Text]:
    """Everything to be said of one frame: a caption, the word if it can be read, and where each thing is."""
    share = [float((instances == BACKGROUND.index(name)).mean()) for name in ("floor", "walls", "sign")]
    seen = see(scene, instances, depth)
    said = [Text(kind="caption", prompt=CAPTION_PROMPT, answer=caption(room, seen, share[0], share[1]), frame=frame)]
    if legible(scene.sign, pose, intrinsics, share[2]):
        said.append(Text(kind="ocr", prompt=OCR_PROMPT, answer=scene.sign.word, frame=frame))
    for prompt, one in grounding(seen):
        said.append(Text(kind="grounding", prompt=prompt, answer=BOX, frame=frame, boxes=one.box[None]))
    return said
