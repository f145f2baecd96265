"""Drawing a room or the robot table without OpenGL: the world says what rays hit, the colours are computed here.

What has a texture that lies flat is coloured by it, everything else plainly
(a prop's texture becomes its mean colour); light is ambient, a headlight and one lamp, with its shadows.
"""

from __future__ import annotations

from typing import Protocol

import mujoco
import numpy as np

from .mjcf import Lamp, Surface


class Drawable(Protocol):
    """What rays are cast at: :class:`~.mjcf.World`, or :class:`~.table_rays.TableWorld`.

    ``surfaces``: one a geom. ``lamp``: where light comes from.
    """

    model: mujoco.MjModel
    data: mujoco.MjData
    surfaces: list[Surface]

    @property
    def lamp(self) -> Lamp: ...

    def hit(self, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of rays [n, 3] from ``origin`` [3]: distances [n], in lengths of the ray, and geoms [n] int32 (-1: none)."""
        ...

    def background(self, rays: np.ndarray) -> np.ndarray:
        """Colours [n, 3] in 0...1 of rays [n, 3] that hit nothing."""
        ...


def cast(world: Drawable, pose: np.ndarray, intrinsics: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """z-depth [size, size] float64 in metres (0 where nothing is hit) and geoms [size, size] int32 (-1: none)."""
    directions = _directions(intrinsics, size)
    # Distances are in lengths of the ray vector, and these have z = 1 in the camera.
    distance, geoms = world.hit(pose[:3, 3], directions @ pose[:3, :3].T)
    return np.where(geoms < 0, 0.0, distance).reshape(size, size), geoms.reshape(size, size)


def draw(world: Drawable, pose: np.ndarray, intrinsics: np.ndarray, size: int) -> np.ndarray:
    """[size, size, 3] uint8 RGB."""
    depth, geoms = cast(world, pose, intrinsics, size)
    rays = _directions(intrinsics, size) @ pose[:3, :3].T
    points = pose[:3, 3] + rays * depth.reshape(-1, 1)
    view = -rays / np.linalg.norm(rays, axis=1, keepdims=True)
    colours, normals = world.background(rays), _normals(points.reshape(size, size, 3), view)
    pixel = depth.ravel() / intrinsics[0, 0]  # metres that a pixel spans on a surface that faces the camera
    for geom in np.unique(geoms[geoms >= 0]):
        here = geoms.ravel() == geom
        rotation = world.data.geom_xmat[geom].reshape(3, 3)
        local = (points[here] - world.data.geom_xpos[geom]) @ rotation
        surface = world.surfaces[geom]
        normals[here] = _primitive_normals(world, geom, local, rotation, normals[here])
        if surface.texture is None:
            colours[here] = surface.colour
        else:
            slant = np.maximum(np.abs(view[here] @ rotation[:, 2]), 0.05)
            colours[here] = _textured(surface, local, world.model.geom_size[geom], pixel[here] / slant)
    hit = geoms.ravel() >= 0
    colours[hit] *= _light(world, points[hit], normals[hit], view[hit])[:, None]
    return (np.clip(colours, 0, 1) * 255 + 0.5).astype(np.uint8).reshape(size, size, 3)


def _directions(intrinsics: np.ndarray, size: int) -> np.ndarray:
    """[size * size, 3] rays through the pixels' centres, in the camera, with z = 1."""
    centres = np.arange(size) + 0.5
    x = (centres - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (centres - intrinsics[1, 2]) / intrinsics[1, 1]
    grid = np.meshgrid(x, y)
    return np.stack([*grid, np.ones_like(grid[0])], -1).reshape(-1, 3)


def _textured(surface: Surface, local: np.ndarray, half: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """Colours [n, 3] of points of a plane, or of a box's top. The texture lies as OpenGL lays it: centred and upright.

    ``pixel``: metres a pixel spans at each point. As in a mip map, the texture is halved until its texels are as large.
    """
    assert surface.texture is not None
    texture = surface.texture
    place = np.stack(
        [1 + local[:, 0] / half[0] * surface.repeats[0], 1 - local[:, 1] / half[1] * surface.repeats[1]], 1
    )
    texels = pixel * texture.shape[1] * max(surface.repeats[0] / half[0], surface.repeats[1] / half[1]) / 2
    level = np.clip(np.floor(np.log2(np.maximum(texels, 1)) + 0.5), 0, np.log2(min(texture.shape[:2])))
    colours = np.empty((len(local), 3))
    for step in range(int(level.max(initial=0)) + 1):
        here = level == step
        colours[here] = _bilinear(texture, place[here] / 2 % 1.0)
        texture = texture[: len(texture) // 2 * 2].reshape(-1, 2, max(texture.shape[1] // 2, 1), 2, 3).mean((1, 3))
    return colours * surface.colour


def _bilinear(texture: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Colours [n, 3] at places [n, 2] (column, row) in [0, 1] of a texture that repeats."""
    height, width = texture.shape[:2]
    u, v = place[:, 0] * width - 0.5, place[:, 1] * height - 0.5
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    a, b = (u - left)[:, None], (v - top)[:, None]
    upper = (1 - a) * texture[top % height, left % width] + a * texture[top % height, (left + 1) % width]
    low = (top + 1) % height
    lower = (1 - a) * texture[low, left % width] + a * texture[low, (left + 1) % width]
    return (1 - b) * upper + b * lower


def _normals(points: np.ndarray, view: np.ndarray) -> np.ndarray:
    """[n, 3] unit normals by differences of neighbouring points, turned to the camera: good enough for meshes."""
    across, down = np.gradient(points, axis=1), np.gradient(points, axis=0)
    normals = np.cross(down, across).reshape(-1, 3)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.where(length > 1e-12, normals / np.maximum(length, 1e-12), view)
    return normals * np.where((normals * view).sum(1, keepdims=True) < 0, -1.0, 1.0)


def _primitive_normals(
    world: Drawable, geom: int, local: np.ndarray, rotation: np.ndarray, otherwise: np.ndarray
) -> np.ndarray:
    """Exact normals of planes, spheres, boxes and cylinders from points in their own frame; else ``otherwise``."""
    kind, size = mujoco.mjtGeom(world.model.geom_type[geom]), world.model.geom_size[geom]
    if kind == mujoco.mjtGeom.mjGEOM_PLANE:
        own = np.array([[0.0, 0.0, 1.0]])
    elif kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        own = local / size[0]
    elif kind == mujoco.mjtGeom.mjGEOM_BOX:
        face = np.abs(local / size).argmax(1)
        own = np.zeros_like(local)
        rows = np.arange(len(local))
        own[rows, face] = np.sign(local[rows, face])
    elif kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        side = np.concatenate([local[:, :2] / size[0], np.zeros((len(local), 1))], 1)
        cap = np.array([0, 0, 1.0]) * np.sign(local[:, 2:])
        own = np.where(np.abs(local[:, 2:]) > size[1] - 1e-6, cap, side)
    else:
        return otherwise
    return own @ rotation.T


def _light(world: Drawable, points: np.ndarray, normals: np.ndarray, view: np.ndarray) -> np.ndarray:
    """[n] brightness of surfaces with these normals. The lamp reaches only what it sees."""
    lamp = world.lamp
    rays = points - lamp.place
    distance, geoms = world.hit(lamp.place, rays)
    lit = (geoms < 0) | (distance > 1 - lamp.slack)
    away = rays / np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-9)
    spot = np.ones(len(rays))
    if lamp.axis is not None:
        spot = away @ (lamp.axis / np.linalg.norm(lamp.axis))
        spot = np.where(spot > np.cos(np.radians(lamp.cutoff)), spot, 0.0)  # falls off with the cosine: exponent 1
    lamp_share = np.clip(-(normals * away).sum(1), 0, 1) * spot * lit
    head_share = np.clip((normals * view).sum(1), 0, 1)
    return lamp.ambient + lamp.diffuse * lamp_share + lamp.headlight * head_share
