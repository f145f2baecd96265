"""Draws views in a process of its own: MuJoCo's backend is chosen when it is imported, and tests need two."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np

from interlace.data_recipes.sample import Sample
from interlace.data_recipes.worlds.render import RAYS, Renderer, View, set_backend
from interlace.data_recipes.worlds.rooms import ClipShape, room_samples
from interlace.data_recipes.worlds.scene import BACKGROUND, Motion, Room, Thing, draw_room
from interlace.data_recipes.worlds.table import Layout, Table, TableCamera


def draw_views(rooms: list[Room], times: list[float], size: int, backend: str) -> list[list[list[View]]]:
    """[room][scene][time], drawn in a new process."""
    return _elsewhere(_views, rooms, times, size, backend)


def draw_samples(rooms: list[Room], shape: ClipShape, backend: str) -> list[list[Sample]]:
    """The samples of each room, drawn in a new process."""
    return _elsewhere(_samples, rooms, shape, backend)


def prop_pixels(names: tuple[str, ...], backend: str) -> dict[str, int]:
    """How many pixels of three views each prop covers, standing with two others in a room."""
    return _elsewhere(_prop_pixels, names, backend)


def _elsewhere(function, *arguments):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _views(rooms: list[Room], times: list[float], size: int, backend: str) -> list[list[list[View]]]:
    set_backend(backend)
    drawn = []
    for room in rooms:
        with Renderer(room, size, backend) as renderer:
            drawn.append([[renderer.view(k, time) for time in times] for k in range(len(room.scenes))])
    return drawn


def _samples(rooms: list[Room], shape: ClipShape, backend: str) -> list[list[Sample]]:
    set_backend(backend)
    return [room_samples(room, shape, backend, "test") for room in rooms]


def _prop_pixels(names: tuple[str, ...], backend: str) -> dict[str, int]:
    set_backend(backend)
    plain = draw_room(0, 0, (), 3, 1.0)
    pixels = {}
    for start in range(0, len(names), 3):
        group = names[start : start + 3]
        places = [(float(np.cos(2.1 * k)), float(np.sin(2.1 * k))) for k in range(3)]
        things = [Thing(None, name, (0, 0, 0), places[k], 0.3, Motion("still")) for k, name in enumerate(group)]
        scenes = [
            replace(scene, things=tuple(things), sign=replace(scene.sign, position=(0.0, 0.0)))
            for scene in plain.scenes
        ]
        room = replace(plain, scenes=tuple(scenes))
        with Renderer(room, 64, backend) as renderer:
            seen = np.stack([renderer.view(k, 0.5).instances for k in range(3)])
        pixels |= {name: int((seen == len(BACKGROUND) + k).sum()) for k, name in enumerate(group)}
    return pixels


def back_project(view: View) -> np.ndarray:
    """[size, size, 3] world points of a view's pixel centres."""
    size = len(view.depth)
    columns, rows = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(view.intrinsics).T
    return rays * view.depth[..., None].astype(np.float64) @ view.pose[:3, :3].T + view.pose[:3, 3]


def project(view: View, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixel places [..., 2] and depths [...] of world points."""
    camera = (points - view.pose[:3, 3]) @ view.pose[:3, :3]
    flat = camera @ view.intrinsics.T
    return flat[..., :2] / flat[..., 2:], camera[..., 2]


def draw_tables(layouts: list[Layout], size: int, backend: str) -> list[np.ndarray]:
    """The first picture of each layout of the robot table, drawn in a new process."""
    return _elsewhere(_tables, layouts, size, backend)


def table_views(layouts: list[Layout], size: int, backend: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Picture, z-depth and geoms (-1: none) of each layout, drawn in a new process."""
    return _elsewhere(_table_views, layouts, size, backend)


def _table_views(layouts: list[Layout], size: int, backend: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    set_backend(backend)
    from interlace.data_recipes.worlds import rays, table_rays

    table = Table()
    world, intrinsics = table_rays.TableWorld(table), table_rays.intrinsics_of(table.model, size)
    drawn = []
    with TableCamera(table, size) as camera:
        for layout in layouts:
            table.reset(layout)
            image = camera.draw()
            if backend == RAYS:
                depth, geoms = rays.cast(world, table_rays.pose_of(layout), intrinsics, size)
            else:
                depth, geoms = _rendered(table, layout, size)
            drawn.append((image, depth, geoms))
    return drawn


def _rendered(table: Table, layout: Layout, size: int) -> tuple[np.ndarray, np.ndarray]:
    """OpenGL's z-depth and geoms, from a camera that is set here and not by what is tested."""
    import mujoco

    camera = mujoco.MjvCamera()
    camera.azimuth, camera.elevation, camera.distance = layout.camera[:3]
    camera.lookat[:] = (*layout.camera[3:], 0.02)
    with mujoco.Renderer(table.model, size, size) as renderer:
        renderer.update_scene(table.data, camera)
        renderer.enable_depth_rendering()
        depth = renderer.render().copy()
        renderer.disable_depth_rendering()
        renderer.enable_segmentation_rendering()
        return depth, renderer.render()[..., 0].copy()


def _tables(layouts: list[Layout], size: int, backend: str) -> list[np.ndarray]:
    set_backend(backend)
    table = Table()
    images = []
    with TableCamera(table, size) as camera:
        for layout in layouts:
            table.reset(layout)
            images.append(camera.draw())
    return images
