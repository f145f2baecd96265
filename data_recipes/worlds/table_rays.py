"""The robot table without OpenGL: what rays hit, how it looks to them, and the camera as a pose.

Boxes, cylinders and capsules are met here: ``mj_multiRay`` leaves out what is large and near, as the table's top is.

Imports MuJoCo, so import it only where MUJOCO_GL is set (see render.py).
"""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import numpy as np

from . import rays
from .mjcf import Lamp, Surface
from .table import Layout, Table

_RGB = int(mujoco.mjtTextureRole.mjTEXROLE_RGB)
#: Metres to the lamp that stands for the directional light: far enough that its rays are parallel on the table.
_FAR = 100.0
#: Metres that a shadow's caster must be before what it shades.
_NEAR = 0.002


class TableWorld:
    """What rays are cast at: everything that is on a table, as it is now."""

    def __init__(self, table: Table) -> None:
        self.model, self.data = table.model, table.data
        self.surfaces = [_surface(self.model, geom) for geom in range(self.model.ngeom)]
        self.lamp = _lamp(self.model)
        sky = int(np.flatnonzero(self.model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX)[0])
        faces = _texture(self.model, sky).reshape(6, -1, 3).mean(1)  # right, left, up, down, front, back; up is +z
        self._sides, self._below = faces[0], faces[3]

    def hit(self, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of rays [n, 3] from ``origin`` [3]: distances [n], in lengths of the ray, and geoms [n] int32 (-1: none)."""
        distance, geoms = np.full(len(rays), np.inf), np.full(len(rays), -1, np.int32)
        to_centres = self.data.geom_xpos - origin
        off = (to_centres**2).sum(1) - (rays @ to_centres.T) ** 2 / (rays**2).sum(1, keepdims=True)
        may = off <= self.model.geom_rbound**2  # [n, geoms]: the ray passes through the geom's bounding sphere
        for geom in range(self.model.ngeom):
            here = np.flatnonzero(may[:, geom])
            rotation, size = self.data.geom_xmat[geom].reshape(3, 3), self.model.geom_size[geom]
            meets = _MEETS[int(self.model.geom_type[geom])]
            found = meets(-to_centres[geom] @ rotation, rays[here] @ rotation, size)
            nearer = found < distance[here]
            distance[here[nearer]], geoms[here[nearer]] = found[nearer], geom
        return np.where(geoms < 0, 0.0, distance), geoms

    def background(self, directions: np.ndarray) -> np.ndarray:
        """The sky: one colour around, another on the face of its cube that is below."""
        down = -directions[:, 2] > np.abs(directions[:, :2]).max(1)
        return np.where(down[:, None], self._below, self._sides)


def pose_of(layout: Layout) -> np.ndarray:
    """[4, 4] camera-to-world of a layout's camera: x right, y down, z forward."""
    azimuth, elevation = np.radians(layout.camera[:2])
    forward = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    pose[:3, 3] = np.array(layout.looks_at) - layout.camera[2] * forward
    return pose


def intrinsics_of(model: mujoco.MjModel, size: int) -> np.ndarray:
    """[3, 3] in pixels, of a free camera whose picture is ``size`` pixels a side."""
    focal = size / 2 / np.tan(np.radians(model.vis.global_.fovy) / 2)
    return np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])


def draw(world: TableWorld, layout: Layout, size: int) -> np.ndarray:
    """[size, size, 3] uint8 RGB."""
    return rays.draw(world, pose_of(layout), intrinsics_of(world.model, size), size)


def _box(start: np.ndarray, rays: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Where rays [n, 3] from outside first meet a box, in lengths of the ray; inf: nowhere. All in the box's frame."""
    with np.errstate(divide="ignore"):
        one, other = (-size - start) / rays, (size - start) / rays
    enter, leave = np.minimum(one, other).max(1), np.maximum(one, other).min(1)
    return np.where((enter <= leave) & (enter > 0), enter, np.inf)


def _cylinder(start: np.ndarray, rays: np.ndarray, size: np.ndarray) -> np.ndarray:
    """As :func:`_box`, of a cylinder of radius ``size[0]`` and half length ``size[1]`` along z."""
    with np.errstate(divide="ignore", invalid="ignore"):
        caps = [(end - start[2]) / rays[:, 2] for end in (-size[1], size[1])]
        on_caps = [
            np.where(((start[:2] + at[:, None] * rays[:, :2]) ** 2).sum(1) <= size[0] ** 2, at, np.inf) for at in caps
        ]
    return _first(_side(start, rays, size), *on_caps)


def _capsule(start: np.ndarray, rays: np.ndarray, size: np.ndarray) -> np.ndarray:
    """As :func:`_box`, of a capsule whose axis is ``size[1]`` long either way along z."""
    ends = [_ball(start - (0, 0, end), rays, size[0]) for end in (-size[1], size[1])]
    return _first(_side(start, rays, size), *ends)


def _side(start: np.ndarray, rays: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The round side of a cylinder."""
    at = _roots((rays[:, :2] ** 2).sum(1), rays[:, :2] @ start[:2], start[:2] @ start[:2] - size[0] ** 2)
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(start[2] + at * rays[:, 2]) <= size[1], at, np.inf)


def _ball(start: np.ndarray, rays: np.ndarray, radius: float) -> np.ndarray:
    return _roots((rays**2).sum(1), rays @ start, start @ start - radius**2)


def _roots(a: np.ndarray, b: np.ndarray, c: float) -> np.ndarray:
    """The smaller root of a t² + 2 b t + c; inf: none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        root = (-b - np.sqrt(b * b - a * c)) / a
    return np.where(np.isfinite(root), root, np.inf)


def _first(*distances: np.ndarray) -> np.ndarray:
    """The smallest that is before the camera."""
    return np.min([np.where(at > 0, at, np.inf) for at in distances], 0)


_MEETS: dict[int, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    int(mujoco.mjtGeom.mjGEOM_BOX): _box,
    int(mujoco.mjtGeom.mjGEOM_CYLINDER): _cylinder,
    int(mujoco.mjtGeom.mjGEOM_CAPSULE): _capsule,
}


def _surface(model: mujoco.MjModel, geom: int) -> Surface:
    material = int(model.geom_matid[geom])
    if material < 0:
        return Surface(model.geom_rgba[geom, :3].astype(np.float64))
    colour, picture = model.mat_rgba[material, :3].astype(np.float64), int(model.mat_texid[material, _RGB])
    if picture < 0:
        return Surface(colour)
    across, along = (float(number) for number in model.mat_texrepeat[material])
    return Surface(colour, _texture(model, picture), (across, along))


def _texture(model: mujoco.MjModel, number: int) -> np.ndarray:
    """[h, w, 3] float64 in 0...1."""
    shape = int(model.tex_height[number]), int(model.tex_width[number]), int(model.tex_nchannel[number])
    start = int(model.tex_adr[number])
    pixels: np.ndarray = model.tex_data[start : start + int(np.prod(shape))].reshape(shape)[..., :3] / 255.0
    return pixels


def _lamp(model: mujoco.MjModel) -> Lamp:
    """The one light is directional: it shines alike everywhere."""
    direction, head = model.light_dir[0], model.vis.headlight
    return Lamp(
        place=model.light_pos[0] - _FAR * direction / np.linalg.norm(direction),
        axis=None,
        ambient=float(head.ambient[0]),
        diffuse=float(model.light_diffuse[0, 0]),
        headlight=float(head.diffuse[0]),
        slack=_NEAR / _FAR,
    )
