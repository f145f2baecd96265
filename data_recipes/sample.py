"""What one sample is, and the conventions that every reader follows.

Video is [T, H, W, 3] uint8 RGB. Depth is z-depth in metres (scene units where ``metric`` is false), 0 = invalid.
``K`` is in pixels with pixel centres at +0.5. ``c2w`` is camera-to-world in OpenCV axes (x right, y down,
z forward). Boxes are normalised xyxy. Times are seconds. Quaternions, where a task derives them, are xyzw.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

#: What a source may offer and a task may need. "frames" is always there.
FIELDS = ("frames", "depth", "camera", "texts", "clusters", "labels", "episode")


@dataclass(frozen=True, kw_only=True)
class Text:
    """A question about a sample's frames, and its answer.

    ``kind``: "caption", "ocr", "grounding", "turn" (of a conversation, with the sample's others in their order), or a
    kind of question with one right answer: :data:`interlace.data_recipes.checks.TEXT_KINDS`. ``frame``: the frame it
    speaks of (the last one a decoder may see).
    ``boxes``: [n, 4] float32, normalised xyxy, for grounding; empty otherwise.
    """

    kind: str
    prompt: str
    answer: str
    frame: int
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))


@dataclass(frozen=True, kw_only=True)
class Episode:
    """What a robot was told and did: N steps, each with one action. All of it, whichever frames were decoded.

    The last number of an action is the gripper: 1 open, 0 closed. What the others are is the dataset's to say.
    ``steps``: the step at which each decoded frame was seen, before that step's action.
    """

    instruction: str
    actions: np.ndarray  # [N, A] float32
    proprio: np.ndarray  # [N, P] float32, what the robot knows of itself; P may be 0
    steps: np.ndarray  # [T] int64, ascending


@dataclass(kw_only=True)
class Sample:
    """One image (T = 1) or clip. Fields that a source lacks, or that were not asked for, are None or empty."""

    key: str  # unique inside its source, human-readable: "rooms/000123"
    source: str  # the source's name in the recipe
    frames: np.ndarray  # [T, H, W, 3] uint8
    times: np.ndarray  # [T] float64, seconds
    depth: np.ndarray | None = None  # [T, H, W] float32
    sky: np.ndarray | None = None  # [T, H, W] bool: at infinity, no depth
    K: np.ndarray | None = None  # [T, 3, 3] float32
    c2w: np.ndarray | None = None  # [T, 4, 4] float64
    metric: bool = True
    texts: list[Text] = field(default_factory=list)
    clusters: dict[str, np.ndarray] = field(default_factory=dict)  # bank ("object", "motion") -> [positives] int64
    labels: dict[str, int] = field(default_factory=dict)  # classes for held-out probes, e.g. {"floor": 3}
    episode: Episode | None = None
