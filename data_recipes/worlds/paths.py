"""Camera paths through a room. Each starts anywhere and goes either way, so that no single path is a good guess.

Five kinds: "orbit" circles the middle, away from the sign, "pan" turns where it stands until it looks at the sign,
"dolly" drives towards the middle or away, "crane" rises or sinks, "read" passes before the sign. A camera that turns
far turns to the side where the sign is, and leans into its turn as a bicycle does: which way it turns can then be told
from one frame. To see it by motion alone takes far longer than the demo trains (measured: 4,000 clips moved nothing).
Metres, seconds, radians; the world is z up, poses are camera-to-world in OpenCV axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

#: By their shares; a third stands before the sign, for words are what takes longest to learn.
KINDS = ("orbit", "pan", "read", "orbit", "read", "pan", "dolly", "orbit", "read", "pan", "read", "crane")
NEAREST = 1.95  # a camera comes no nearer to the room's middle; objects reach to 1.66
WALL_GAP, FLOOR_GAP, CEILING_GAP = 0.25, 0.30, 0.25
_TURNS = {"orbit": (0.6, 1.2), "read": (0.2, 0.5)}  # radians about the middle over a clip
_PAN, _AIM = (0.45, 0.75), 0.1  # radians that a pan turns, and how far from the sign's direction it may end
_PAST = (0.15, 0.9)  # radians about the middle that an orbit begins past the sign
_LEAN = 0.35  # radians of roll for each radian that a camera turns over a clip


@dataclass(frozen=True)
class CameraPath:
    """A camera on a circle about the room's middle that looks at a target, turned by a yaw; all at constant rates.

    ``roll`` is constant: a camera that leans to its right has a positive one.
    """

    kind: str
    angle: float
    radius: float
    height: float
    target: tuple[float, ...]  # a point
    yaw: float  # added to the direction of the target
    angle_rate: float
    radius_rate: float
    height_rate: float
    yaw_rate: float
    fov: float  # both ways, the picture is square
    roll: float = 0.0

    def pose(self, time: float) -> np.ndarray:
        """[4, 4] float64 camera-to-world at a time."""
        angle, radius = self.angle + self.angle_rate * time, self.radius + self.radius_rate * time
        eye = np.array([radius * np.cos(angle), radius * np.sin(angle), self.height + self.height_rate * time])
        gaze = np.asarray(self.target) - eye
        azimuth = np.arctan2(gaze[1], gaze[0]) + self.yaw + self.yaw_rate * time
        elevation = np.arctan2(gaze[2], np.hypot(gaze[0], gaze[1]))
        forward = np.array(
            [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
        )
        right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
        down = np.cross(forward, right)
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1] = cos * right + sin * down, cos * down - sin * right
        pose[:3, 2], pose[:3, 3] = forward, eye
        return pose

    def intrinsics(self, size: int) -> np.ndarray:
        """[3, 3] float64, in pixels of a square picture, pixel centres at +0.5."""
        focal = size / 2 / np.tan(self.fov / 2)
        return np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])


def draw_path(
    rng: np.random.Generator,
    kind: str,
    half: tuple[float, float],
    height: float,
    duration: float,
    sign: tuple[float, float, float],
) -> CameraPath:
    """A path that keeps its distance from objects, walls, floor and ceiling for ``duration`` seconds.

    ``half``, ``height``: of the room. ``sign``: the middle of its board.
    """
    way = float(rng.choice((-1.0, 1.0)))
    total = duration if duration > 0 else 1.0  # rates are drawn as what happens over the whole clip

    def rate(low: float, high: float) -> float:
        return way * float(rng.uniform(low, high)) / total

    yaw_rate = rate(*_PAN) if kind == "pan" else 0.0
    angle_rate = rate(*_TURNS.get(kind, (0.0, 0.1)))
    facing = float(np.arctan2(sign[1], sign[0]))
    nearest, farthest, highest = NEAREST, min(half) - WALL_GAP, min(2.1, height - CEILING_GAP)
    angle = float(rng.uniform(0, 2 * np.pi))
    target: tuple[float, ...] = tuple(float(x) for x in rng.uniform((-0.3, -0.3, 0.2), (0.3, 0.3, 1.1)))
    yaw = float(rng.uniform(-0.25, 0.25))
    at_sign = tuple(float(x) for x in np.array(sign) + rng.uniform(-0.12, 0.12, 3))
    if kind == "orbit":
        angle = facing + way * float(rng.uniform(*_PAST))
    elif kind == "pan":
        yaw, target = -yaw_rate * total + float(rng.uniform(-_AIM, _AIM)), at_sign
    elif kind == "read":
        nearest, farthest, highest = NEAREST + 0.25, min(farthest, NEAREST + 0.75), 1.3
        angle, yaw, target = facing - angle_rate * total / 2 + float(rng.uniform(-0.2, 0.2)), 0.0, at_sign
    radius, radius_rate = _within(rng, nearest, farthest, way * (0.9 if kind == "dolly" else 0.1), total)
    eye, height_rate = _within(rng, FLOOR_GAP + 0.2, highest, way * (0.95 if kind == "crane" else 0.1), total)
    upright = CameraPath(
        kind=kind,
        angle=angle,
        radius=radius,
        height=eye,
        target=target,
        yaw=yaw,
        angle_rate=angle_rate,
        radius_rate=radius_rate,
        height_rate=height_rate,
        yaw_rate=yaw_rate,
        fov=float(np.radians(rng.uniform(52, 68))),
    )
    before, after = upright.pose(0.0)[:2, 2], upright.pose(total)[:2, 2]
    left_turn = np.arctan2(before[0] * after[1] - before[1] * after[0], before @ after)
    return replace(upright, roll=-_LEAN * float(left_turn))


def _within(rng: np.random.Generator, low: float, high: float, share: float, total: float) -> tuple[float, float]:
    """A start, and a rate that crosses ``share`` of [low, high] (signed) without leaving it."""
    change = share * (high - low) * float(rng.uniform(0.7, 1.0))
    start = float(rng.uniform(low - min(change, 0.0), high - max(change, 0.0)))
    return start, change / total
