"""An analytic scene for the tests of geometry: a textured plane, seen exactly, by cameras that wander about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from interlace.backbone import Backbone, BackboneConfig
from interlace.data_recipes import Sample
from interlace.tasks.geometry import Geometry, GeometryOptions
from interlace.tasks.interface import TaskContext

TINY = BackboneConfig(hidden_size=64, depth=2, heads=2, mlp_size=128, patch_size=8, registers=1, layer_scale=0.5)
SMALL = {"widths": (8, 8, 16, 16), "features": 16, "ray_neck": 1}


@dataclass(frozen=True)
class Plane:
    """World points X with normal . X = offset, coloured smoothly."""

    normal: np.ndarray
    offset: float
    waves: np.ndarray  # [3, 3]: the colour of X is 128 + 90 sin(waves X)

    def depth(self, K: np.ndarray, c2w: np.ndarray, height: int, width: int) -> np.ndarray:
        """z-depth [height, width] at pixel centres, pixel by pixel."""
        depth = np.zeros((height, width))
        for v in range(height):
            for u in range(width):
                direction = c2w[:3, :3] @ np.linalg.inv(K) @ np.array([u + 0.5, v + 0.5, 1])
                depth[v, u] = (self.offset - self.normal @ c2w[:3, 3]) / (self.normal @ direction)
        return depth

    def colour(self, points: np.ndarray) -> np.ndarray:
        return 128 + 90 * np.sin(points @ self.waves.T)


def back_project(depth: np.ndarray, K: np.ndarray, c2w: np.ndarray) -> np.ndarray:
    """World points [H, W, 3] the long way: pixel -> camera -> world, homogeneous."""
    points = np.zeros((*depth.shape, 3))
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            camera = np.linalg.solve(K, np.array([u + 0.5, v + 0.5, 1.0])) * depth[v, u]
            points[v, u] = (c2w @ np.append(camera, 1))[:3]
    return points


def plane_scene(
    seed: int, *, count: int = 4, height: int = 24, width: int = 32, skew: float = 0.0
) -> tuple[Sample, Plane]:
    """A sample in float64 (so that tests can be strict) and the plane it shows. Depth is between about 2 and 10."""
    rng = np.random.default_rng(seed)
    world = Rotation.random(random_state=seed).as_matrix()
    plane = Plane(world @ np.array([0.3, -0.2, 1.0]), 5 + rng.random(), rng.normal(size=(3, 3)) * 0.5)
    frames, depths, Ks, poses = [], [], [], []
    turn, slide = rng.normal(size=3) * 0.08, rng.normal(size=3) * 0.3
    for t in range(count):
        c2w = np.eye(4)
        c2w[:3, :3] = world @ Rotation.from_rotvec(turn * t).as_matrix()
        c2w[:3, 3] = world @ (slide * t)
        K = np.array([[width * 0.9, skew, width / 2 + 1.0], [0, height * 1.1, height / 2 - 0.5], [0, 0, 1]])
        depth = plane.depth(K, c2w, height, width)
        frames.append(np.rint(plane.colour(back_project(depth, K, c2w))).astype(np.uint8))
        depths.append(depth)
        Ks.append(K)
        poses.append(c2w)
    sample = Sample(
        key=f"planes/{seed:06d}",
        source="planes",
        frames=np.stack(frames),
        times=np.arange(count) / 8,
        depth=np.stack(depths),
        sky=np.zeros((count, height, width), bool),
        K=np.stack(Ks),
        c2w=np.stack(poses),
    )
    return sample, plane


def tiny_task(config: BackboneConfig = TINY, **options: object) -> tuple[Geometry, Backbone]:
    """A task and a backbone of a few thousand parameters, 24 x 32 pixels, four frames."""
    fields: dict[str, object] = {"size": (24, 32), "frames": 4, **SMALL, **options}
    return Geometry(GeometryOptions(**fields), TaskContext(config, seed=0)), Backbone(config)  # type: ignore[arg-type]
