"""The robot table drawn by rays: against MuJoCo's own ray, and against OpenGL."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest
from drawing import table_views

from interlace.data_recipes import ShardReader
from interlace.data_recipes.worlds.render import RAYS, describe_table
from interlace.data_recipes.worlds.table import INSTRUCTIONS, Table, draw_layout
from interlace.data_recipes.worlds.table_episodes import TableSettings, prepare_table
from interlace.data_recipes.worlds.table_experts import expert
from interlace.data_recipes.worlds.table_rays import TableWorld, pose_of

SIZE = 96
LIFT = INSTRUCTIONS["lift_red"]
LAYOUTS = [draw_layout(0, episode, LIFT) for episode in range(4)]


Views = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def rendered(gl: str) -> Views:
    return table_views(LAYOUTS, SIZE, gl)


@pytest.fixture(scope="module")
def cast() -> Views:
    return table_views(LAYOUTS, SIZE, RAYS)


def off_edges(geoms: np.ndarray) -> np.ndarray:
    """Pixels that all eight neighbours belong with."""
    same = np.ones_like(geoms, bool)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            same &= np.roll(geoms, (down, right), (0, 1)) == geoms
    same[[0, -1]] = same[:, [0, -1]] = False
    return same


def test_rays_hit_what_mujocos_ray_hits() -> None:
    """Cast from the camera, and from beside the hand, while it lifts a block: nothing lies square then."""
    table, rng = Table(), np.random.default_rng(0)
    table.reset(draw_layout(0, 3, INSTRUCTIONS["close_drawer"]))  # open: its inside shows
    state = table.begin(LIFT)
    for _ in range(16):
        state, _ = table.act(expert(LIFT, state))
    world, seen = TableWorld(table), set()
    assert table.layout is not None
    for origin in (pose_of(table.layout)[:3, 3], state.hand + np.array([0.1, -0.2, 0.08])):
        targets = rng.uniform([-0.4, -0.3, -0.03], [0.4, 0.45, 0.2], (1500, 3))
        rays = (targets - origin) * rng.uniform(0.2, 2, (1500, 1))
        distances, geoms = world.hit(origin, rays)
        hit = np.zeros(1, np.int32)
        for ray, distance, geom in zip(rays, distances, geoms, strict=True):
            expected = mujoco.mj_ray(table.model, table.data, origin, ray, np.ones(6, np.uint8), 1, -1, hit)
            assert geom == hit[0]
            assert geom < 0 or distance == pytest.approx(expected, rel=1e-9)
        seen |= set(geoms.tolist())
    assert seen == set(range(-1, table.model.ngeom))


def test_rendered_depth_is_ray_cast_depth(rendered: Views, cast: Views) -> None:
    for (_, drawn, seen), (_, depth, geoms) in zip(rendered, cast, strict=True):
        inner = off_edges(geoms) & (geoms >= 0)
        assert inner.mean() > 0.5
        assert (np.abs(drawn - depth)[inner] < 0.01 * depth[inner]).mean() > 0.99
        assert (seen == geoms)[inner].mean() > 0.99
        assert 0.4 < depth[inner].min() < depth[inner].max() < 2


def test_both_ways_draw_the_same_colours(rendered: Views, cast: Views) -> None:
    for (drawn, _, _), (image, _, geoms) in zip(rendered, cast, strict=True):
        difference = np.abs(drawn.astype(int) - image).mean(-1)
        inner = off_edges(geoms)
        assert difference[inner].mean() < 8
        assert np.quantile(difference[inner], 0.98) < 25  # shadows lie where they lie
        assert difference[inner & (geoms < 0)].mean() < 1


def test_a_table_is_prepared_without_opengl(tmp_path: Path) -> None:
    """The same episodes, drawn otherwise, and it is said."""
    said: list[str] = []
    few = TableSettings(size=32, train=1, glances=1, held_out=1)
    prepare_table(tmp_path, settings=few, backend=RAYS, workers=1, say=said.append)
    assert said == [describe_table(RAYS)]
    assert "no OpenGL" in said[0]
    frames = ShardReader(tmp_path / "table_train").read(0).frames
    assert frames.shape[1:] == (32, 32, 3)
    assert frames.std() > 20
    prepare_table(tmp_path, settings=few, backend=RAYS, workers=1, say=said.append)
    assert len(said) == 1
