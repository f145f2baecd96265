"""Kinetics-400 and Something-Something V2 as they are unpacked, and the views that a video is seen in."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interlace.data_recipes import DataError
from interlace.data_recipes.video import Video
from interlace.tasks.frames import random_crop, resize

#: A training crop's share of the frame and its width / height: V-JEPA 2.
CROP_AREA, CROP_ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Views:
    """How a video is seen: ``segments`` clips of ``frames`` frames, ``stride`` apart, in ``crops`` squares each."""

    segments: int
    crops: int
    frames: int = 16
    stride: int = 4
    size: int = 256

    def settings(self) -> dict[str, Any]:
        return {
            "views": f"{self.segments} x {self.crops}",
            "frames": f"{self.frames} x {self.stride}",
            "size": self.size,
        }


@dataclass(frozen=True)
class Listed:
    """A video of a list. ``path`` None: it is not there. ``label``: its class."""

    name: str
    path: Path | None
    label: int


def clip_indices(length: int, views: Views, rng: np.random.Generator | None = None) -> np.ndarray:
    """[segments, frames] frames of a video of ``length``.

    The video is cut into equal segments, and a clip of frames * stride lies in the middle of each, or with ``rng``
    anywhere in it. Where segments are shorter than that, clips are spread over the video and overlap; past its end the
    last frame is repeated.
    """
    span, count = views.frames * views.stride, views.segments
    part = length // count
    if part >= span:
        room = part - span
        within = np.full(count, room // 2) if rng is None else rng.integers(0, room + 1, count)
        starts = np.arange(count) * part + within
    else:
        starts = np.arange(count) * (max(length - span, 0) // max(count - 1, 1))
    return np.minimum(starts[:, None] + views.stride * np.arange(views.frames), length - 1)


def crops_of(height: int, width: int, count: int) -> list[tuple[int, int, int, int]]:
    """``count`` largest squares (left, top, right, bottom) along the long side, from end to end; one: the middle."""
    side = min(height, width)
    over = max(height, width) - side
    places = [over // 2] if count == 1 else [number * over // (count - 1) for number in range(count)]
    if height > width:
        return [(0, place, side, place + side) for place in places]
    return [(place, 0, place + side, side) for place in places]


class VideoItems:
    """Videos of a list in their views. An item: (uint8 views [crops, segments, T, 3, S, S], class)."""

    def __init__(self, listed: Sequence[Listed], views: Views) -> None:
        self.listed, self.views = listed, views
        self.names = [each.name for each in listed]

    def read(self, index: int, rng: np.random.Generator | None) -> tuple[Tensor, int]:
        """With ``rng``: one random crop a segment, not mirrored (some classes tell left from right)."""
        one, views = self.listed[index], self.views
        if one.path is None:
            raise DataError(f"{one.name}: no such video")
        video = Video(one.path, one.name)
        wanted = clip_indices(len(video.times), views, rng)
        decoded, place = np.unique(wanted, return_inverse=True)
        frames = video.read(decoded)
        height, width = frames.shape[1:3]
        size = (views.size, views.size)
        segments = []
        for rows in place.reshape(wanted.shape):
            if rng is None:
                boxes = crops_of(height, width, views.crops)
            else:
                boxes = [random_crop(height, width, rng, area=CROP_AREA, aspect=CROP_ASPECT)]
            segments.append(np.stack([resize(frames[rows], size, box=box) for box in boxes]))
        return torch.from_numpy(np.stack(segments, 1)), one.label


@dataclass(frozen=True)
class Actions:
    """A benchmark of videos of actions. ``classes``: their names in the order of the labels."""

    name: str
    classes: tuple[str, ...]
    train: Sequence[Listed]
    test: Sequence[Listed]


def read_k400(root: Path) -> Actions:
    """CVDF's layout: annotations/{train,val}.csv, {train,val}/ID_START_END.mp4, replacement/ for corrupted files.

    A class is its place among the sorted names of train.csv. Raises DataError for a list that is missing or broken.
    """
    rows = {split: _k400_rows(root / "annotations" / f"{split}.csv") for split in ("train", "val")}
    classes = sorted({label for label, _ in rows["train"]})
    place = {label: number for number, label in enumerate(classes)}
    better = {path.stem: path for path in sorted(root.glob("replacement/**/*.mp4"))}
    listed: dict[str, list[Listed]] = {}
    for split, found in rows.items():
        there = {path.stem: path for path in sorted((root / split).glob("**/*.mp4"))} | better
        for label, stem in found:
            if label not in place:
                raise DataError(f"{root / 'annotations'}: class {label!r} of {split}.csv is not in train.csv")
            listed.setdefault(split, []).append(Listed(f"{split}/{stem}", there.get(stem), place[label]))
    return Actions("Kinetics-400 val", tuple(classes), listed["train"], listed["val"])


def _k400_rows(file: Path) -> list[tuple[str, str]]:
    """(class, stem) of every video of a list; a row that is there twice counts once."""
    if not file.is_file():
        raise DataError(f"{file}: no such file; give the folder that holds annotations, train and val")
    with file.open(newline="") as lines:
        try:
            rows = [
                (row["label"], f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}")
                for row in csv.DictReader(lines)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file}: not label,youtube_id,time_start,time_end,split ({error})") from None
    if not rows:
        raise DataError(f"{file}: names no video")
    return [(label, stem) for stem, label in {stem: label for label, stem in rows}.items()]


def read_ssv2(root: Path) -> Actions:
    """20bn-something-something-v2/ID.webm, something-something-v2-{train,validation,labels}.json (or labels/).

    Raises DataError for a list that is missing or broken.
    """
    numbers = _json(root, "labels")
    if sorted(int(number) for number in numbers.values()) != list(range(len(numbers))):
        raise DataError(f"{root}: the labels are not numbered from 0 without a gap")
    listed: dict[str, list[Listed]] = {}
    for split in ("train", "validation"):
        for row in _json(root, split):
            try:
                template = row["template"].replace("[", "").replace("]", "")
                label, name = int(numbers[template]), str(row["id"])
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{root}: {split}: a video without id or known template ({error})") from None
            path = root / "20bn-something-something-v2" / f"{name}.webm"
            listed.setdefault(split, []).append(Listed(name, path if path.is_file() else None, label))
        if not listed.get(split):
            raise DataError(f"{root}: the list {split} names no video")
    names = sorted(numbers, key=lambda name: int(numbers[name]))
    return Actions("Something-Something V2 validation", tuple(names), listed["train"], listed["validation"])


def _json(root: Path, part: str) -> Any:
    places = [root / f"something-something-v2-{part}.json", root / "labels" / f"{part}.json"]
    for place in places:
        if place.is_file():
            try:
                return json.loads(place.read_text())
            except ValueError as error:
                raise DataError(f"{place}: not JSON ({error})") from None
    raise DataError(f"{places[0]}: no such file; give the folder that holds the lists and 20bn-something-something-v2")
