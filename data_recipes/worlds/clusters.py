"""Pseudo-classes: k-means centres of a pretrained encoder's features, and each sample's nearest.

Two banks, as in OneVision: "object", of single frames, and "motion", of clips, whose feature is the frames' features
one after another (each of length 1), brought to length 1 again. A sample's positives are its nearest centres.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .encoder import FEATURES
from .prepared import write_whole

POSITIVES = 10
#: Frames of a clip, spread over it, that the encoder sees.
CLIP_FRAMES = 4


def chosen_frames(count: int) -> np.ndarray:
    """Which frames of a clip of ``count`` are encoded: [min(count, CLIP_FRAMES)] int64, spread evenly."""
    number = min(count, CLIP_FRAMES)
    return ((np.arange(number) + 0.5) * count / number).astype(np.int64)


def motion_feature(features: np.ndarray) -> np.ndarray:
    """[n, 1280] features of a clip's frames -> [n * 1280], of length 1."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    joined = unit.reshape(-1)
    return joined / np.linalg.norm(joined)


def object_feature(features: np.ndarray) -> np.ndarray:
    """[n, 1280] features of a sample's frames -> [1280], their mean, of length 1."""
    mean = (features / np.linalg.norm(features, axis=1, keepdims=True)).mean(0)
    return mean / np.linalg.norm(mean)


def fit(features: np.ndarray, centres: int, seed: int) -> np.ndarray:
    """[n, D] -> [min(centres, n), D] float32, by mini-batch k-means."""
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    count = min(centres, len(features))
    model = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=1024, max_iter=60)
    with threadpool_limits(1):  # the batches are small: threads cost more than they bring, a hundredfold on busy cores
        return model.fit(features).cluster_centers_.astype(np.float32)


def nearest(feature: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """[min(POSITIVES, centres)] int64 numbers of the centres nearest to a feature [D], nearest first."""
    distance = (centres * centres).sum(1) - 2 * centres @ feature
    return np.argsort(distance, kind="stable")[:POSITIVES].astype(np.int64)


def fit_banks(clips: Sequence[np.ndarray], objects: int, motions: int, seed: int) -> dict[str, np.ndarray]:
    """The centres of both banks from the frame features of all training samples, [n_i, 1280] each."""
    moving = [motion_feature(features) for features in clips if len(features) == CLIP_FRAMES]
    return {
        "object": fit(np.concatenate(clips), objects, seed),
        "motion": fit(np.stack(moving), motions, seed),
    }


def positives(features: np.ndarray, banks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A sample's nearest centres by bank; an image (one frame) has none in the motion bank."""
    found = {"object": nearest(object_feature(features), banks["object"])}
    if len(features) == CLIP_FRAMES:
        found["motion"] = nearest(motion_feature(features), banks["motion"])
    return found


def save_banks(file: Path, banks: dict[str, np.ndarray]) -> None:
    """Write the centres; the file appears whole or not at all."""
    stream = io.BytesIO()
    np.savez(stream, **banks)
    write_whole(file, stream.getvalue())


def load_banks(file: Path) -> dict[str, np.ndarray]:
    """The centres of both banks, [centres, D]. Raises ValueError for a file that is none of ours."""
    with np.load(file) as archive:
        banks = {name: archive[name] for name in ("object", "motion")}
    if banks["object"].shape[1] != FEATURES:
        raise ValueError(f"{file}: centres of {banks['object'].shape[1]} numbers, not {FEATURES}; remove it")
    return banks
