"""Pictures of rooms: OpenGL where there is any, rays where there is none.

``MUJOCO_GL`` is read when mujoco is imported, so :func:`find_backend` tries each backend in a process of its own, and
:func:`set_backend` must run in a worker before anything there imports mujoco. The parent's environment stays as it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from .scene import Room

if TYPE_CHECKING:
    import mujoco

RAYS = "rays"
_SUPERSAMPLING = 2
_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
with mujoco.Renderer(model, 16, 16) as renderer:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer.update_scene(data)
    assert renderer.render().any()
print('drawn')
"""


@dataclass(frozen=True)
class View:
    """One picture of a room and what is in it."""

    image: np.ndarray  # [size, size, 3] uint8
    depth: np.ndarray  # [size, size] float32, metres along z
    instances: np.ndarray  # [size, size] int32, numbers into Scene.instances
    pose: np.ndarray  # [4, 4] camera-to-world
    intrinsics: np.ndarray  # [3, 3]
    time: float


def backends() -> tuple[str, ...]:
    """What to try here, in this order. A ``MUJOCO_GL`` that the user has set is the only one."""
    if chosen := os.environ.get("MUJOCO_GL"):
        return (chosen.lower(),)
    if sys.platform == "linux":
        return ("egl", "osmesa", "glfw")
    return ("cgl", "glfw") if sys.platform == "darwin" else ("wgl", "glfw")


def find_backend() -> str:
    """The first GL backend that draws, or "rays". Takes about a second for each try."""
    return next((backend for backend in backends() if _draws(backend)), RAYS)


def _draws(backend: str) -> bool:
    environment = os.environ | {"MUJOCO_GL": backend, "LP_NUM_THREADS": "1"}
    try:
        result = subprocess.run(
            [sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return result.returncode == 0 and "drawn" in result.stdout


def describe(backend: str) -> str:
    """The one line that says how rooms are drawn."""
    if backend == RAYS:
        return "rooms: no OpenGL here (EGL, OSMesa, GLFW); drawn by ray casting, props in plain colours"
    return f"rooms: drawn with OpenGL through {backend}"


def describe_table(backend: str) -> str:
    """The one line that says how the robot table is drawn."""
    if backend == RAYS:
        return "robot table: no OpenGL here (EGL, OSMesa, GLFW); drawn by ray casting"
    return f"robot table: drawn with OpenGL through {backend}"


def rays_chosen() -> bool:
    """Whether :func:`set_backend` chose rays for this process."""
    return os.environ.get("MUJOCO_GL") == "disable"


def set_backend(backend: str) -> None:
    """Choose for this process; call it before mujoco is imported."""
    if "mujoco" in sys.modules:
        raise RuntimeError("set_backend must be called before mujoco is imported")
    os.environ["MUJOCO_GL"] = "disable" if backend == RAYS else backend
    os.environ["LP_NUM_THREADS"] = "1"  # llvmpipe's threads would fight over the cores with the other workers


class Renderer:
    """Draws one room's scenes at any time. A context manager, so that GL is let go of."""

    def __init__(self, room: Room, size: int, backend: str) -> None:
        from .mjcf import World

        self.world, self.size = World(room), size
        self._gl = None if backend == RAYS else _Gl(self.world, size)

    def view(self, scene: int, time: float) -> View:
        """What the camera of a scene sees at a time, in seconds."""
        from . import rays

        camera = self.world.room.scenes[scene].path
        pose, intrinsics = camera.pose(time), camera.intrinsics(self.size)
        self.world.set(scene, time)
        if self._gl is not None:
            image, depth, geoms = self._gl.draw(pose, camera.fov, self.world.groups)
        else:
            depth, geoms = rays.cast(self.world, pose, intrinsics, self.size)
            fine = self.size * _SUPERSAMPLING
            image = _shrink(rays.draw(self.world, pose, camera.intrinsics(fine), fine))
        instances = np.where(geoms < 0, 0, self.world.instance[geoms])
        return View(image, depth.astype(np.float32), instances, pose, intrinsics, time)

    def __enter__(self) -> Renderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._gl is not None:
            self._gl.close()


class _Gl:
    """MuJoCo's renderers: a fine one for colour, which is averaged down, and one for depth and geoms."""

    def __init__(self, world: object, size: int) -> None:
        import mujoco

        self._model: mujoco.MjModel = world.model  # type: ignore[attr-defined]
        self._data: mujoco.MjData = world.data  # type: ignore[attr-defined]
        self._fine = mujoco.Renderer(self._model, size * _SUPERSAMPLING, size * _SUPERSAMPLING)
        self._plain = mujoco.Renderer(self._model, size, size)
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        self._camera.distance = 1.0

    def draw(self, pose: np.ndarray, fov: float, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image uint8, z-depth, and geoms (-1: none) of these groups, from a camera-to-world pose."""
        forward = pose[:3, 2]
        self._camera.lookat[:] = pose[:3, 3] + forward
        self._camera.azimuth = np.degrees(np.arctan2(forward[1], forward[0]))
        self._camera.elevation = np.degrees(np.arcsin(forward[2]))
        self._model.vis.global_.fovy = np.degrees(fov)
        self._option.geomgroup[:] = groups
        self._look(self._fine, pose)
        image = _shrink(self._fine.render())
        self._look(self._plain, pose)
        self._plain.enable_depth_rendering()
        depth = self._plain.render().copy()
        self._plain.disable_depth_rendering()
        self._plain.enable_segmentation_rendering()
        geoms = self._plain.render()[..., 0].copy()
        self._plain.disable_segmentation_rendering()
        return image, depth, geoms

    def _look(self, renderer: mujoco.Renderer, pose: np.ndarray) -> None:
        """What the free camera sees; it knows no roll, so that both its eyes are turned upright in the pose's sense."""
        renderer.update_scene(self._data, self._camera, self._option)
        for eye in renderer.scene.camera:
            eye.up[:] = -pose[:3, 1]

    def close(self) -> None:
        self._fine.close()
        self._plain.close()


def _shrink(image: np.ndarray) -> np.ndarray:
    """Mean over blocks of _SUPERSAMPLING x _SUPERSAMPLING pixels."""
    height, width = (side // _SUPERSAMPLING for side in image.shape[:2])
    blocks = image.reshape(height, _SUPERSAMPLING, width, _SUPERSAMPLING, 3).astype(np.uint16)
    return ((blocks.sum((1, 3)) + _SUPERSAMPLING**2 // 2) // _SUPERSAMPLING**2).astype(np.uint8)
