"""Views of rooms: exact geometry, one way of drawing against the other, and boxes and texts against the pixels."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from drawing import back_project, draw_samples, draw_views, project, prop_pixels
from small_world import SIZE, TIMES

from interlace.data_recipes.checks import check_sample
from interlace.data_recipes.worlds import language
from interlace.data_recipes.worlds.assets import PROPS
from interlace.data_recipes.worlds.render import RAYS, View
from interlace.data_recipes.worlds.rooms import LABELS, ClipShape
from interlace.data_recipes.worlds.scene import BACKGROUND, Room, Scene

FIRST = len(BACKGROUND)  # the instance of thing 0
Views = list[list[list[View]]]


def _static(view: View) -> np.ndarray:
    """Pixels of what never moves and is flat."""
    return (view.instances > 0) & (view.instances < FIRST)


def _smooth(depth: np.ndarray) -> np.ndarray:
    """Pixels whose neighbours lie on the same surface: the inverse depth of a plane is linear over the picture."""
    inverse = 1 / np.maximum(depth.astype(np.float64), 1e-6)
    bend = np.zeros_like(inverse)
    bend[1:-1] += np.abs(inverse[2:] + inverse[:-2] - 2 * inverse[1:-1])
    bend[:, 1:-1] += np.abs(inverse[:, 2:] + inverse[:, :-2] - 2 * inverse[:, 1:-1])
    smooth = bend < 2e-3 * inverse
    smooth[[0, -1]] = smooth[:, [0, -1]] = False
    return smooth


def test_static_points_reproject(views: Views) -> None:
    """A point of one frame, carried by depth and pose into another and found in its depth there, comes back."""
    errors = []
    for room in views:
        for path in room:
            here, there = path[0], path[-1]
            places, depth = project(there, back_project(here))
            inside = ((places > 1) & (places < SIZE - 1)).all(-1) & (depth > 0.1) & _static(here) & _smooth(here.depth)
            columns, rows = places[inside].astype(int).T
            same = _static(there)[rows, columns] & _smooth(there.depth)[rows, columns]
            # The point that the other frame sees along this very ray, from its inverse depth (linear on a plane).
            seen = _sample_inverse(there.depth, places[inside])
            visible = same & (np.abs(1 / seen - depth[inside]) < 0.03 * depth[inside])
            points = back_project(here)[inside]
            moved = there.pose[:3, 3] + (points - there.pose[:3, 3]) * ((1 / seen) / depth[inside])[:, None]
            back, _ = project(here, moved)
            origin = np.stack(np.nonzero(inside)[::-1], -1) + 0.5
            assert visible.sum() > 0.05 * SIZE * SIZE
            errors.append(np.linalg.norm(back - origin, axis=1)[visible])
    distances = np.concatenate(errors)
    assert np.median(distances) < 0.02
    assert np.quantile(distances, 0.99) < 0.5


def _sample_inverse(depth: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Bilinear inverse depth at places [n, 2] (column, row), pixel centres at +0.5."""
    inverse = 1 / np.maximum(depth.astype(np.float64), 1e-6)
    left, top = np.floor(places - 0.5).astype(int).T
    a, b = (places - 0.5 - np.stack([left, top], -1)).T
    upper = (1 - a) * inverse[top, left] + a * inverse[top, left + 1]
    lower = (1 - a) * inverse[top + 1, left] + a * inverse[top + 1, left + 1]
    return (1 - b) * upper + b * lower


def test_rendered_depth_is_ray_cast_depth(gl_views: Views, ray_views: Views) -> None:
    for drawn, cast in zip(_flat(gl_views), _flat(ray_views), strict=True):
        inner = _off_edges(cast.instances) & _off_edges(drawn.instances)
        difference = np.abs(drawn.depth - cast.depth) / cast.depth
        assert inner.mean() > 0.5
        assert (difference[inner] < 0.01).mean() > 0.99
        assert (drawn.instances == cast.instances)[inner].mean() > 0.99


def test_both_ways_draw_the_same_colours(gl_views: Views, ray_views: Views) -> None:
    """Textures, tints, signs and light, off the edges; props differ (the rays draw them in one colour)."""
    differences = []
    for drawn, cast in zip(_flat(gl_views), _flat(ray_views), strict=True):
        inner = _off_edges(cast.instances) & _off_edges(drawn.instances) & (cast.instances < FIRST)
        differences.append(np.abs(drawn.image.astype(int) - cast.image)[inner].mean())
    assert np.mean(differences) < 10
    assert max(differences) < 22


def _flat(views: Views) -> list[View]:
    return [view for room in views for path in room for view in path]


def _scenes(rooms: list[Room], views: Views) -> list[tuple[Room, Scene, list[View]]]:
    pairs = zip(rooms, views, strict=True)
    return [(room, *pair) for room, drawn in pairs for pair in zip(room.scenes, drawn, strict=True)]


def _off_edges(instances: np.ndarray) -> np.ndarray:
    """Pixels that all eight neighbours belong with."""
    same = np.ones_like(instances, bool)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            same &= np.roll(instances, (down, right), (0, 1)) == instances
    same[[0, -1]] = same[:, [0, -1]] = False
    return same


def test_every_listed_prop_is_drawn_by_rays() -> None:
    pixels = prop_pixels(PROPS, RAYS)
    assert set(pixels) == set(PROPS)
    assert min(pixels.values()) > 40


def test_every_listed_prop_is_drawn_by_gl(gl: str) -> None:
    assert min(prop_pixels(PROPS, gl).values()) > 40


@pytest.mark.parametrize("way", ["rays", "gl"])
def test_same_room_same_pixels(way: str, rooms: list[Room], request: pytest.FixtureRequest) -> None:
    backend = RAYS if way == "rays" else request.getfixturevalue("gl")
    before: Views = request.getfixturevalue("ray_views" if way == "rays" else "gl_views")
    again = draw_views(rooms[:1], TIMES, SIZE, backend)
    for one, other in zip(_flat(before[:1]), _flat(again), strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.depth, other.depth)


def test_objects_are_where_their_state_says(rooms: list[Room], views: Views) -> None:
    """The world points of an object's pixels lie within its extent about its pose at that time; some have moved."""
    moved = 0
    for _, scene, drawn in _scenes(rooms, views):
        for view in drawn:
            for k, thing in enumerate(scene.things):
                points = back_project(view)[view.instances == FIRST + k]
                if thing.colour is None or not len(points):
                    continue
                offset = points - thing.pose(view.time)[0]
                assert (np.linalg.norm(offset[:, :2], axis=1) < np.hypot(*thing.half[:2]) + 0.02).all()
                assert (offset[:, 2] > -0.02).all()
                assert (offset[:, 2] < 2 * thing.half[2] + 0.02).all()
                moved += bool(np.linalg.norm(thing.pose(view.time)[0] - thing.pose(0.0)[0]) > 0.1)
    assert moved > 0


def test_boxes_hold_their_objects(rooms: list[Room], views: Views) -> None:
    checked = 0
    for _, scene, drawn in _scenes(rooms, views):
        for view in drawn:
            for seen in language.see(scene, view.instances, view.depth):
                rows, columns = np.nonzero(view.instances == FIRST + seen.index)
                left, top, right, bottom = seen.box * SIZE
                assert left <= columns.min() < columns.max() + 1 <= right
                assert top <= rows.min() < rows.max() + 1 <= bottom
                assert (right - left) * (bottom - top) <= (np.ptp(columns) + 1) * (np.ptp(rows) + 1)
                checked += 1
    assert checked > 20


def test_texts_are_true_of_the_state(rooms: list[Room], views: Views) -> None:
    """Read every text back and compare it with the room's description and 3D places, not with how it was made."""
    counts = {"caption": 0, "left of": 0, "ocr": 0, "grounding": 0}
    for room, scene, drawn in _scenes(rooms, views):
        for view in drawn:
            arguments = (view.instances, view.depth, view.pose, view.intrinsics)
            for text in language.texts(room, scene, 0, *arguments):
                counts[text.kind] += 1
                if text.kind == "caption":
                    counts["left of"] += _check_caption(text.answer, room, scene, view)
                elif text.kind == "ocr":
                    assert text.answer == scene.sign.word
                else:
                    _check_grounding(text.prompt, text.boxes[0], scene, view)
    assert min(counts.values()) > 3


def _check_caption(caption: str, room: Room, scene: Scene, view: View) -> bool:
    """The names are things in view, walls and floor are the room's, and "left of" holds of their 3D middles."""
    things, *around = caption.split(", ")
    assert set(around) <= {f"{room.walls} walls", f"{room.floor} floor"}
    for word in (" left of ", " right of "):
        if word in things:
            one, other = (name.split(" ", 1)[1] for name in things.split(word))
            columns = [[_column(view, k) for k in _in_view(scene, view, name)] for name in (one, other)]
            pairs = [(a, b) for a in columns[0] for b in columns[1]]
            assert any((a < b) == (word == " left of ") for a, b in pairs)
            return word == " left of "
    return False


def _in_view(scene: Scene, view: View, name: str) -> list[int]:
    found = [k for k, thing in enumerate(scene.things) if thing.name == name and (view.instances == FIRST + k).any()]
    assert found, name
    return found


def _column(view: View, k: int) -> float:
    """Where the visible part of a thing lies, from its world points: a column of the picture."""
    points = back_project(view)[view.instances == FIRST + k]
    return float(np.median(project(view, points)[0][:, 0]))


def _check_grounding(prompt: str, box: np.ndarray, scene: Scene, view: View) -> None:
    words = prompt.removesuffix("?").split()
    if "two" in words:
        name, side = words[-2] + " " + words[-1], words[3]
        pair = [k for k in range(len(scene.things)) if language.plural(scene.things[k].name) == name]
        pair.sort(key=lambda k: _column(view, k))
        assert len(pair) == 2
        expected = pair[0] if side == "left" else pair[1]
    else:
        (expected,) = _in_view(scene, view, " ".join(words[3:]))
    rows, columns = np.nonzero(view.instances == FIRST + expected)
    tight = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / SIZE
    assert np.allclose(box, tight)


def test_a_legible_sign_fills_its_outline(rooms: list[Room], views: Views) -> None:
    """Where the word is asked for, the board is whole in the frame: its pixels are its projected outline."""
    legible = hidden = 0
    for _, scene, drawn in _scenes(rooms, views):
        for view in drawn:
            sign = view.instances == BACKGROUND.index("sign")
            if language.legible(scene.sign, view.pose, view.intrinsics, float(sign.mean())):
                legible += 1
                assert not sign[[0, -1]].all(axis=1).any()
                assert sign.sum() > 0.05 * SIZE * SIZE
            else:
                hidden += 1
    assert legible > 2
    assert hidden > 2


def test_samples_keep_the_conventions(rooms: list[Room]) -> None:
    (samples,) = draw_samples(rooms[:1], ClipShape(32, 3, 4.0), RAYS)
    assert [sample.key for sample in samples] == ["test/room-0000000/scene-0", "test/room-0000000/scene-1"]
    for sample in samples:
        check_sample(sample, ("frames", "depth", "camera", "texts", "labels"), LABELS, {})
        assert sample.frames.shape == (3, 32, 32, 3)
        assert {text.frame for text in sample.texts} == {0, 1, 2}
        assert sample.labels["floor"] == LABELS["floor"].index(rooms[0].floor)


def test_the_parent_process_stays_as_it_was(rooms: list[Room], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mujoco"]:  # another test may need it
        monkeypatch.delitem(sys.modules, name)
    draw_views(rooms[:1], TIMES[:1], SIZE, RAYS)
    assert "mujoco" not in sys.modules
    assert os.environ.get("LP_NUM_THREADS") is None


def test_labels_are_of_the_largest_coloured_object(rooms: list[Room]) -> None:
    shape = ClipShape(SIZE, 2, 1.0)
    named = 0
    drawn = draw_views(rooms, list(shape.times), SIZE, RAYS)
    for room, samples, views in zip(rooms, draw_samples(rooms, shape, RAYS), drawn, strict=True):
        for sample, scene, path in zip(samples, room.scenes, views, strict=True):
            seen = np.stack([view.instances for view in path])
            areas = {k: (seen == FIRST + k).mean() for k, thing in enumerate(scene.things) if thing.colour}
            large = max(areas, key=lambda k: areas[k])
            assert ("colour" in sample.labels) == (areas[large] > 0.015)
            if "colour" in sample.labels:
                named += 1
                name = f"{LABELS['colour'][sample.labels['colour']]} {LABELS['shape'][sample.labels['shape']]}"
                assert name == scene.things[large].name
    assert named > 2
