"""Rooms and paths as plain descriptions: balanced, free of collisions, the same for the same seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from interlace.data_recipes.worlds.assets import FLOORS, PROPS, WALLS, photographs
from interlace.data_recipes.worlds.paths import KINDS, draw_path
from interlace.data_recipes.worlds.scene import (
    COLOURS,
    SHAPES,
    SIGN_HEIGHT,
    SLOT_RADIUS,
    SLOT_REACH,
    WORDS,
    Room,
    balanced,
    draw_room,
)

DURATION = 1.75


@pytest.fixture(scope="module")
def many() -> list[Room]:
    return [draw_room(0, number, ("china",), 3, DURATION) for number in range(240)]


def test_same_seed_same_room() -> None:
    assert draw_room(3, 17, ("china",), 2, DURATION) == draw_room(3, 17, ("china",), 2, DURATION)
    assert draw_room(3, 17, ("china",), 2, DURATION) != draw_room(4, 17, ("china",), 2, DURATION)
    assert draw_room(3, 17, ("china",), 2, DURATION) != draw_room(3, 18, ("china",), 2, DURATION)


def test_a_block_holds_every_choice_once() -> None:
    drawn = [balanced(0, "word", index, WORDS) for index in range(5 * len(WORDS))]
    for start in range(0, len(drawn), len(WORDS)):
        assert sorted(drawn[start : start + len(WORDS)]) == sorted(WORDS)
    assert drawn[: len(WORDS)] != drawn[len(WORDS) : 2 * len(WORDS)]


def test_words_are_equally_frequent(many: list[Room]) -> None:
    for drawn, choices in (
        ([scene.sign.word for room in many for scene in room.scenes], WORDS),
        ([room.floor for room in many], tuple(FLOORS)),
        ([room.walls for room in many], tuple(WALLS)),
    ):
        assert Counter(drawn) == dict.fromkeys(choices, len(drawn) // len(choices))
    things = [thing for room in many for scene in room.scenes for thing in scene.things]
    for found, choices in (
        ([thing.colour for thing in things if thing.colour], tuple(COLOURS)),
        ([thing.shape for thing in things if thing.colour], SHAPES),
    ):
        share = len(found) / len(choices)
        assert all(abs(Counter(found)[choice] - share) < 0.25 * share for choice in choices)


def test_every_prop_is_used(many: list[Room]) -> None:
    things = [thing for room in many for scene in room.scenes for thing in scene.things]
    assert {thing.shape for thing in things if thing.colour is None} == set(PROPS)


def test_some_scenes_have_twins(many: list[Room]) -> None:
    scenes = [scene for room in many for scene in room.scenes]
    assert sum(len({thing.name for thing in scene.things}) < len(scene.things) for scene in scenes) >= len(scenes) // 10


def test_a_room_does_not_give_its_words_away(many: list[Room]) -> None:
    """Its scenes have signs and objects of their own: who knows the room does not know what is written in it."""
    assert np.mean([len({scene.sign.word for scene in room.scenes}) for room in many]) > 2.3
    assert np.mean([len({scene.things[0].name for scene in room.scenes}) for room in many]) > 2.8


def test_too_many_scenes_are_refused() -> None:
    with pytest.raises(ValueError, match="room 7: 6 scenes asked for; a room has at most 5"):
        draw_room(0, 7, ("china",), 6, DURATION)


def test_slots_are_apart(many: list[Room]) -> None:
    for scene in (scene for room in many for scene in room.scenes):
        places = np.array([scene.sign.position, *(thing.position for thing in scene.things)])
        assert np.allclose(np.linalg.norm(places, axis=1), SLOT_RADIUS)
        gaps = np.linalg.norm(places[:, None] - places[None], axis=2)[np.triu_indices(len(places), 1)]
        assert gaps.min() > 2 * SLOT_REACH
        for thing in scene.things:
            slide = thing.motion.amplitude * (thing.motion.kind == "slide")
            extent = np.hypot(*thing.half[:2]) if thing.shape == "box" else thing.half[0]
            assert extent + slide < SLOT_REACH


def test_cameras_keep_their_distance(many: list[Room]) -> None:
    for room in many:
        for path in (scene.path for scene in room.scenes):
            eyes = np.stack([path.pose(time)[:3, 3] for time in np.linspace(0, DURATION, 8)])
            assert (np.abs(eyes[:, :2]) < np.array(room.half) - 0.2).all()
            assert (np.linalg.norm(eyes[:, :2], axis=1) > SLOT_RADIUS + SLOT_REACH + 0.2).all()
            assert (eyes[:, 2] > 0.25).all()
            assert (eyes[:, 2] < room.height - 0.2).all()


def test_poses_are_rotations() -> None:
    path = draw_path(np.random.default_rng(0), "crane", (3.0, 3.2), 2.6, DURATION, (1.0, 0.0, 0.8))
    for time in (0.0, 0.6, DURATION):
        turn = path.pose(time)[:3, :3]
        assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.isclose(np.linalg.det(turn), 1)
        assert turn[2, 1] < 0  # the picture's columns run downwards


def test_a_camera_leans_into_its_turn(many: list[Room]) -> None:
    """To the right, its right side lower, when it turns to the right; one that does not turn stands level."""
    for path in (scene.path for room in many for scene in room.scenes):
        before, after = (complex(*path.pose(time)[:2, 2]) for time in (0.0, DURATION))
        to_the_right = -np.angle(after / before)
        lean = np.arctan2(-path.pose(0.0)[2, 0], -path.pose(0.0)[2, 1])
        assert np.isclose(lean, 0.35 * to_the_right, atol=0.02)


def test_the_picture_ends_where_the_field_of_view_does() -> None:
    path = draw_path(np.random.default_rng(0), "pan", (3.0, 3.2), 2.6, DURATION, (1.0, 0.0, 0.8))
    edge = path.intrinsics(64) @ [np.tan(path.fov / 2), -np.tan(path.fov / 2), 1]
    assert np.allclose(edge, [64, 0, 1])


def test_no_single_motion_is_a_good_guess(many: list[Room]) -> None:
    """Turns go both ways equally, and the blind guess "no turn" is off by tens of degrees."""
    turns, kinds = [], Counter()
    for room in many:
        for path in (scene.path for scene in room.scenes):
            first, last = path.pose(0.0)[:3, :3], path.pose(DURATION)[:3, :3]
            ahead = first.T @ last[:, 2]
            turns.append(np.degrees(np.arctan2(ahead[0], ahead[2])))
            kinds[path.kind] += 1
    moving = np.abs(turns) > 10
    assert 0.45 < (np.array(turns)[moving] > 0).mean() < 0.55
    assert np.abs(turns).mean() > 22
    assert set(kinds) == set(KINDS)


def test_a_camera_that_turns_far_turns_to_the_signs_side(many: list[Room]) -> None:
    """Seen in its first frame, whichever way it turns; a pan ends where the sign is in the middle."""
    agree: dict[str, list[bool]] = {"orbit": [], "pan": []}
    for scene in (scene for room in many for scene in room.scenes if scene.path.kind in agree):
        first, last = scene.path.pose(0.0), scene.path.pose(DURATION)
        turned = (first[:3, :3].T @ last[:3, 2])[0]
        sides = []
        for pose in (first, last):
            sign = pose[:3, :3].T @ ((*scene.sign.position, SIGN_HEIGHT) - pose[:3, 3])
            sides.append(float(np.arctan2(sign[0], sign[2])))
        agree[scene.path.kind].append(sides[0] * turned > 0)
        if scene.path.kind == "pan":
            assert abs(sides[1]) < 0.3 < abs(sides[0])
    assert all(agree["pan"])
    assert np.mean(agree["orbit"]) > 0.9


def test_photographs_are_split_by_content() -> None:
    found = photographs()
    assert len(found) == len({photograph.digest for photograph in found})
    share = np.mean([photograph.held_out for photograph in found])
    assert 0.1 < share < 0.4
