"""What the tests of worlds draw once and share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from drawing import draw_views
from small_world import SIZE, TIMES, TINY

from interlace.data_recipes.worlds import render
from interlace.data_recipes.worlds.demo import prepare_demo
from interlace.data_recipes.worlds.render import RAYS, View
from interlace.data_recipes.worlds.scene import Room, draw_room


@pytest.fixture(scope="session")
def rooms() -> list[Room]:
    """Four rooms with two scenes each; some have twins."""
    return [draw_room(5, number, ("coffee", "china", "chelsea"), 2, 1.0) for number in (0, 1, 3, 4)]


@pytest.fixture(scope="session")
def gl() -> str:
    """A GL backend; tests that need one are skipped where there is none."""
    backend = render.find_backend()
    if backend == RAYS:
        pytest.skip("no OpenGL on this machine")
    return backend


@pytest.fixture(scope="session")
def ray_views(rooms: list[Room]) -> list[list[list[View]]]:
    return draw_views(rooms, TIMES, SIZE, RAYS)


@pytest.fixture(scope="session")
def gl_views(rooms: list[Room], gl: str) -> list[list[list[View]]]:
    return draw_views(rooms, TIMES, SIZE, gl)


@pytest.fixture(scope="session", params=["gl", "rays"])
def views(request: pytest.FixtureRequest) -> list[list[list[View]]]:
    """The rooms' views, [room][scene][time], drawn in either way."""
    drawn: list[list[list[View]]] = request.getfixturevalue(f"{'gl' if request.param == 'gl' else 'ray'}_views")
    return drawn


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny demo, drawn by rays (so that it is the same on every machine)."""
    folder = tmp_path_factory.mktemp("data") / "demo"
    known = "mujoco" in sys.modules  # another test may have needed it
    prepare_demo(folder, settings=TINY, backend=RAYS, workers=2)
    assert known or "mujoco" not in sys.modules
    return folder
