"""Words for scenes that are made by hand, so that every answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from interlace.data_recipes.worlds import language
from interlace.data_recipes.worlds.paths import CameraPath
from interlace.data_recipes.worlds.scene import BACKGROUND, Motion, Room, Sign, Thing, draw_room

FIRST = len(BACKGROUND)


def _room(*names: str) -> Room:
    things = []
    for name in names:
        colour, _, shape = name.rpartition(" ")
        things.append(Thing(colour or None, shape, (0.3, 0.3, 0.3), (0.0, 0.0), 0.0, Motion("still")))
    room = draw_room(0, 0, (), 1, 1.0)
    return replace(room, scenes=(replace(room.scenes[0], things=tuple(things)),), walls="blue", floor="wooden")


def _picture(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """[32, 32] instances: wall above, floor below, and thing k in box k (left, top, right, bottom)."""
    instances = np.full((32, 32), BACKGROUND.index("walls"), np.int32)
    instances[16:] = BACKGROUND.index("floor")
    for k, (left, top, right, bottom) in enumerate(boxes):
        instances[top:bottom, left:right] = FIRST + k
    return instances


def _say(room: Room, instances: np.ndarray, depth: np.ndarray | None = None) -> tuple[str, dict[str, list[float]]]:
    """The caption, and the boxes that grounding questions are answered with, in pixels."""
    depth = np.full(instances.shape, 2.0, np.float32) if depth is None else depth
    texts = language.texts(room, room.scenes[0], 3, instances, depth, np.eye(4), np.diag([16.0, 16, 1]))
    assert all(text.frame == 3 for text in texts)
    boxes = {text.prompt: (text.boxes[0] * 32).tolist() for text in texts if text.kind == "grounding"}
    return next(text.answer for text in texts if text.kind == "caption"), boxes


def test_a_caption_names_the_two_largest_and_what_is_around() -> None:
    room = _room("red box", "orange ball", "green cone")
    caption, boxes = _say(room, _picture((2, 14, 10, 24), (20, 14, 30, 24), (14, 12, 18, 16)))
    assert caption == "an orange ball right of a red box, blue walls, wooden floor"
    assert boxes == {
        "where is the red box?": [2, 14, 10, 24],
        "where is the orange ball?": [20, 14, 30, 24],
        "where is the green cone?": [14, 12, 18, 16],
    }


def test_depth_speaks_where_columns_do_not() -> None:
    room = _room("red box", "blue ball")
    instances = _picture((10, 16, 22, 30), (12, 8, 20, 16))
    depth = np.where(instances == FIRST, 1.5, 3.0).astype(np.float32)
    assert _say(room, instances, depth)[0].startswith("a red box in front of a blue ball")
    assert _say(room, instances, 4.5 - depth)[0].startswith("a red box behind a blue ball")
    assert _say(room, instances)[0].startswith("a red box and a blue ball")


def test_the_left_one_of_two_orange_boxes() -> None:
    room = _room("orange box", "red ball", "orange box")
    caption, boxes = _say(room, _picture((20, 8, 30, 20), (14, 2, 17, 8), (1, 10, 9, 20)))
    assert caption == "two orange boxes, blue walls, wooden floor"
    assert boxes["where is the left one of the two orange boxes?"] == [1, 10, 9, 20]
    assert boxes["where is the right one of the two orange boxes?"] == [20, 8, 30, 20]
    assert "where is the orange box?" not in boxes
    # With one of them out of sight there is one answer again, and with a speck of it there is none.
    assert _say(room, _picture((22, 12, 30, 20), (14, 2, 17, 8)))[1]["where is the orange box?"] == [22, 12, 30, 20]
    assert not any(
        "orange" in prompt for prompt in _say(room, _picture((22, 12, 30, 20), (14, 2, 17, 8), (0, 9, 2, 11)))[1]
    )


def test_what_is_hardly_seen_is_not_named() -> None:
    room = _room("red box")
    assert _say(room, np.full((32, 32), BACKGROUND.index("walls"), np.int32))[0] == "blue walls"
    assert _say(room, np.full((32, 32), BACKGROUND.index("ceiling"), np.int32))[0] == "nothing to name"
    assert _say(room, _picture((2, 2, 5, 5)))[0] == "blue walls, wooden floor"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("orange box", "an orange box"), ("red box", "a red box"), ("office chair", "an office chair"), ("mug", "a mug")],
)
def test_articles(name: str, expected: str) -> None:
    assert language.article(name) == expected


@pytest.mark.parametrize(("name", "expected"), [("orange box", "orange boxes"), ("red ball", "red balls")])
def test_plurals(name: str, expected: str) -> None:
    assert language.plural(name) == expected


def _path(angle: float, radius: float) -> CameraPath:
    return CameraPath("pan", angle, radius, 0.78, (0.0, 0.0, 0.78), 0.0, 0.0, 0.0, 0.0, 0.0, float(np.radians(60)))


def test_a_sign_is_legible_from_the_front_and_the_back_but_not_from_the_side() -> None:
    sign = Sign("HOTEL", (190, 20, 20), (0.0, 0.0), 0.4)
    outline = 1.2 * 0.76 / (2 * 2.2 * np.tan(np.radians(30))) ** 2
    for angle, expected in ((0.4, True), (0.4 + np.pi, True), (0.4 + np.pi / 2, False), (0.4 + np.radians(70), False)):
        path = _path(angle, 2.2)
        assert language.legible(sign, path.pose(0.0), path.intrinsics(64), outline) == expected
    path = _path(0.4, 2.2)
    assert not language.legible(sign, path.pose(0.0), path.intrinsics(64), 0.7 * outline)  # something is before it
    near = _path(0.4, 0.9)  # it does not fit into the frame
    assert not language.legible(sign, near.pose(0.0), near.intrinsics(64), 0.9)
