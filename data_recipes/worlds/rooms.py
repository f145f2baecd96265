"""One room's scenes drawn, as samples with depth, camera, texts and labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..sample import Sample
from . import language
from .assets import FLOORS, WALLS
from .render import Renderer, View
from .scene import BACKGROUND, COLOURS, SHAPES, Room, Scene

#: Labels for probes, and the names of their classes. "colour" and "shape" are of the clip's largest coloured object,
#: if it is large.
LABELS: dict[str, tuple[str, ...]] = {
    "floor": tuple(FLOORS),
    "walls": tuple(WALLS),
    "colour": tuple(COLOURS),
    "shape": SHAPES,
}


_MIN_AREA = 0.015  # of the clip: a smaller object is no label


@dataclass(frozen=True)
class ClipShape:
    """Pixels a side, frames a clip, frames a second."""

    size: int
    frames: int
    fps: float

    @property
    def times(self) -> np.ndarray:
        """[frames] float64, seconds."""
        return np.arange(self.frames) / self.fps

    @property
    def duration(self) -> float:
        """From the first frame to the last, in seconds."""
        return float(self.times[-1])


def room_samples(room: Room, shape: ClipShape, backend: str, dataset: str) -> list[Sample]:
    """A sample for each scene. ``backend``: a GL backend or "rays"."""
    with Renderer(room, shape.size, backend) as renderer:
        samples = []
        for k, scene in enumerate(room.scenes):
            views = [renderer.view(k, float(time)) for time in shape.times]
            key = f"{dataset}/room-{room.number:07d}/scene-{k}"
            samples.append(_sample(room, scene, views, key, dataset))
    return samples


def _sample(room: Room, scene: Scene, views: list[View], key: str, dataset: str) -> Sample:
    texts = []
    for frame, view in enumerate(views):
        texts += language.texts(room, scene, frame, view.instances, view.depth, view.pose, view.intrinsics)
    return Sample(
        key=key,
        source=dataset,
        frames=np.stack([view.image for view in views]),
        times=np.array([view.time for view in views]),
        depth=np.stack([view.depth for view in views]),
        K=np.stack([view.intrinsics for view in views]).astype(np.float32),
        c2w=np.stack([view.pose for view in views]),
        texts=texts,
        labels=_labels(room, scene, np.stack([view.instances for view in views])),
    )


def _labels(room: Room, scene: Scene, instances: np.ndarray) -> dict[str, int]:
    labels = {"floor": LABELS["floor"].index(room.floor), "walls": LABELS["walls"].index(room.walls)}
    largest, area = None, _MIN_AREA
    for k, thing in enumerate(scene.things):
        share = float((instances == len(BACKGROUND) + k).mean())
        if thing.colour is not None and share > area:
            largest, area = thing, share
    if largest is not None and largest.colour is not None:
        labels["colour"] = LABELS["colour"].index(largest.colour)
        labels["shape"] = LABELS["shape"].index(largest.shape)
    return labels
