"""That a sample keeps the conventions of :mod:`interlace.data_recipes.sample`, told before it is written anywhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from .media import DataError
from .sample import Sample

Demand = Callable[["bool | np.bool_", str], None]

#: Captions, a word to read, boxes; one turn of a conversation; and questions with one right answer.
TEXT_KINDS = (
    *("caption", "ocr", "grounding", "turn"),
    *("count", "colour", "left of", "nearer", "moved", "sign", "where", "distance"),
)


def check_sample(
    sample: Sample, fields: Collection[str], classes: Mapping[str, Sequence[str]], banks: Mapping[str, int]
) -> None:
    """Raise :class:`DataError` naming the sample's key and the first convention that it breaks.

    ``fields``: what it must have; ``classes`` and ``banks``: what its labels and cluster numbers may be.
    """

    def demand(holds: bool | np.bool_, rule: str) -> None:
        if not holds:
            raise DataError(f"sample {sample.key!r}: {rule}")

    demand(bool(sample.key), "the key is empty")
    shape, frames = sample.frames.shape, sample.frames
    demand(
        frames.dtype == np.uint8 and len(shape) == 4 and shape[3] == 3,
        f"frames are {frames.dtype} {shape}, not uint8 [T, H, W, 3]",
    )
    demand(0 not in shape, f"frames are empty: {shape}")
    times = np.asarray(sample.times)
    demand(times.shape == shape[:1] and np.isfinite(times).all(), f"times {times.shape} are not [T] finite seconds")
    demand((np.diff(times) > 0).all(), "times do not increase")
    if "depth" in fields:
        _check_depth(sample, demand)
    if "camera" in fields:
        _check_camera(sample, demand)
    if "texts" in fields:
        _check_texts(sample, demand)
    if "episode" in fields:
        _check_episode(sample, demand)
    if "clusters" in fields:
        demand(bool(sample.clusters), "no clusters")
        for bank, centres in sample.clusters.items():
            demand(bank in banks, f"clusters of bank {bank!r}; the dataset has {', '.join(banks)}")
            demand(centres.ndim == 1 and np.issubdtype(centres.dtype, np.integer), f"bank {bank!r}: not [n] integers")
            demand(
                len(centres) > 0 and centres.min() >= 0 and centres.max() < banks[bank],
                f"bank {bank!r}: centres outside 0..{banks[bank] - 1}, or none",
            )
    if "labels" in fields:
        demand(bool(sample.labels), "no labels")
        for label, value in sample.labels.items():
            demand(label in classes, f"label {label!r}; the dataset has {', '.join(classes)}")
            demand(0 <= value < len(classes[label]), f"label {label!r} is {value}, of {len(classes[label])} classes")


def _check_depth(sample: Sample, demand: Demand) -> None:
    depth, sky, shape = sample.depth, sample.sky, sample.frames.shape[:3]
    if depth is None:
        return demand(False, "no depth")
    demand(
        depth.dtype == np.float32 and depth.shape == shape, f"depth is {depth.dtype} {depth.shape}, not float32 {shape}"
    )
    demand(np.isfinite(depth).all() and (depth >= 0).all(), "depth is negative or not finite (0 marks invalid)")
    if sky is not None:
        demand(sky.dtype == np.bool_ and sky.shape == shape, f"sky is {sky.dtype} {sky.shape}, not bool {shape}")
        demand(not depth[sky].any(), "sky has depth (it must be 0 there)")


def _check_camera(sample: Sample, demand: Demand) -> None:
    K, c2w, count = sample.K, sample.c2w, len(sample.frames)
    if K is None or c2w is None:
        return demand(False, "no camera (K and c2w)")
    demand(K.shape == (count, 3, 3) and np.isfinite(K).all(), f"K is not finite [{count}, 3, 3]")
    demand(
        (K[:, [0, 1], [0, 1]] > 0).all() and (K[:, 2] == (0, 0, 1)).all(), "K has no positive focal lengths in pixels"
    )
    demand(c2w.shape == (count, 4, 4) and np.isfinite(c2w).all(), f"c2w is not finite [{count}, 4, 4]")
    turn = c2w[:, :3, :3]
    orthonormal = np.abs(turn @ turn.transpose(0, 2, 1) - np.eye(3)).max() < 1e-4 and (np.linalg.det(turn) > 0).all()
    demand(orthonormal and (c2w[:, 3] == (0, 0, 0, 1)).all(), "c2w is not a rotation and a translation")


def _check_episode(sample: Sample, demand: Demand) -> None:
    episode = sample.episode
    if episode is None:
        return demand(False, "no episode (instruction, actions, proprio and steps)")
    actions, proprio, steps = episode.actions, episode.proprio, np.asarray(episode.steps)
    demand(actions.ndim == 2 and 0 not in actions.shape, f"actions {actions.shape} are not [N, A] of at least one step")
    demand(bool(np.isfinite(actions).all()), "an action is not finite")
    gripper = actions[:, -1]
    demand((gripper >= 0).all() and (gripper <= 1).all(), "the last number of an action (the gripper) is outside 0...1")
    demand(proprio.ndim == 2 and len(proprio) == len(actions), f"proprio {proprio.shape} is not [{len(actions)}, P]")
    demand(bool(np.isfinite(proprio).all()), "proprio is not finite")
    demand(
        steps.shape == sample.frames.shape[:1] and np.issubdtype(steps.dtype, np.integer), "steps are not [T] integers"
    )
    ascending = (np.diff(steps) > 0).all() and steps[0] >= 0 and steps[-1] < len(actions)
    demand(ascending, f"steps {steps.tolist()} do not ascend within the {len(actions)} of the episode")


def _check_texts(sample: Sample, demand: Demand) -> None:
    for text in sample.texts:
        demand(text.kind in TEXT_KINDS, f"text of kind {text.kind!r}; known are {', '.join(TEXT_KINDS)}")
        demand(0 <= text.frame < len(sample.frames), f"text of frame {text.frame}, of {len(sample.frames)} frames")
        boxes = text.boxes
        demand(boxes.ndim == 2 and boxes.shape[1] == 4, f"boxes {boxes.shape} are not [n, 4]")
        inside = (boxes >= 0).all() and (boxes <= 1).all() and (boxes[:, :2] <= boxes[:, 2:]).all()
        demand(inside, f"boxes {boxes.tolist()} are not normalised xyxy")
