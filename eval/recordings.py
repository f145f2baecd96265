"""Sequences with true depth or camera paths, as their authors lay them out; frames as CUT3R chooses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from interlace.data_recipes import DataError
from interlace.data_recipes.media import decode_image, decode_values, read_bytes
from interlace.tasks.geometry.targets import rotation_matrices

#: Frames of a sequence at most; ScanNet's and TUM's poses are 90 frames, every third.
LONGEST, POSED, EVERY = 110, 90, 3
#: What begins Sintel's binary files, and how far an image and a pose of TUM may be apart, in seconds.
_TAG, _APART = 202021.25, 0.02

SINTEL = (
    *("alley_2", "ambush_4", "ambush_5", "ambush_6", "cave_2", "cave_4", "market_2", "market_5", "market_6"),
    *("shaman_3", "sleeping_1", "sleeping_2", "temple_2", "temple_3"),
)
BONN = ("balloon2", "crowd2", "crowd3", "person_tracking2", "synchronous")
KITTI = (
    *(f"2011_09_26_drive_{drive}_sync" for drive in ("0002", "0005", "0013", "0020", "0023", "0036", "0079", "0095")),
    *("2011_09_26_drive_0113_sync", "2011_09_28_drive_0037_sync", "2011_09_29_drive_0026_sync"),
    *("2011_09_30_drive_0016_sync", "2011_10_03_drive_0047_sync"),
)
TUM = tuple(f"{how}_{path}" for how in ("sitting", "walking") for path in ("halfsphere", "rpy", "static", "xyz"))
SCANNET = tuple(f"scene{number:04d}_00" for number in range(707, 807))


@dataclass(frozen=True)
class Recording:
    """``frames`` [T, H, W, 3] uint8; ``depth`` [T, h, w] float32, 0 = invalid; ``c2w`` [T, 4, 4] float64, OpenCV axes.

    Depth and cameras are in the data set's unit; a sequence that is read for one of them lacks the other.
    """

    frames: np.ndarray
    depth: np.ndarray | None = None
    c2w: np.ndarray | None = None


@dataclass(frozen=True)
class Benchmark:
    """A list of sequences and how to read one. ``deepest``, ``clip``: see :func:`~.depth_error.depth_error`."""

    title: str
    names: Sequence[str]
    read: Callable[[Path, str], Recording]
    deepest: float | None = None
    clip: float | None = None


def read_sintel_depth(root: Path, name: str) -> Recording:
    """MPI Sintel, pass "final": ``training/{final,depth}/NAME/frame_0001.{png,dpt}``."""
    pictures = _listed(root / "training" / "final" / name, "*.png")[:LONGEST]
    depth = [_sintel(root / "training" / "depth" / name / f"{each.stem}.dpt", _dpt) for each in pictures]
    return Recording(_images(pictures), depth=_stacked(depth, pictures))


def read_sintel_pose(root: Path, name: str) -> Recording:
    """MPI Sintel with ``training/camdata_left/NAME/frame_0001.cam``, world-to-camera."""
    pictures = _listed(root / "training" / "final" / name, "*.png")[:LONGEST]
    poses = [_sintel(root / "training" / "camdata_left" / name / f"{each.stem}.cam", _cam) for each in pictures]
    return Recording(_images(pictures), c2w=_finite(np.stack(poses), [str(each) for each in pictures]))


def _sintel(path: Path, read: Callable[[Path, bytes], np.ndarray]) -> np.ndarray:
    data = _bytes(path)
    if len(data) < 4 or np.frombuffer(data, "<f4", 1)[0] != _TAG:
        raise DataError(f"{path}: does not begin with Sintel's tag {_TAG}")
    return read(path, data[4:])


def _dpt(path: Path, data: bytes) -> np.ndarray:
    width, height = np.frombuffer(data, "<i4", 2) if len(data) >= 8 else (0, 0)
    if len(data) != 8 + 4 * int(width) * int(height) or width < 1 or height < 1:
        raise DataError(f"{path}: {len(data)} bytes do not hold {width} x {height} depths")
    depth = np.frombuffer(data, "<f4", offset=8).reshape(height, width)
    return np.where(np.isfinite(depth), depth, 0).astype(np.float32)


def _cam(path: Path, data: bytes) -> np.ndarray:
    if len(data) != 8 * (9 + 12):
        raise DataError(f"{path}: {len(data)} bytes do not hold intrinsics and a pose")
    world_to_camera = np.eye(4)
    world_to_camera[:3] = np.frombuffer(data, "<f8", offset=72).reshape(3, 4)
    if not np.isfinite(world_to_camera).all() or abs(np.linalg.det(world_to_camera)) < 1e-9:
        raise DataError(f"{path}: the pose is not finite, or no pose")
    return np.linalg.inv(world_to_camera)


def read_bonn(root: Path, name: str) -> Recording:
    """BONN: ``rgbd_bonn_NAME/{rgb,depth}/TIME.png``, depth / 5000 m; frames 30 to 139 of each list, paired by place."""
    folder = root / f"rgbd_bonn_{name}"
    pictures, depths = (
        sorted(_listed(folder / kind, "*.png"), key=_seconds)[30 : 30 + LONGEST] for kind in ("rgb", "depth")
    )
    if not pictures or len(pictures) != len(depths):
        raise DataError(f"{folder}: {len(pictures)} images and {len(depths)} depth maps after the first 30")
    return Recording(_images(pictures), depth=_stacked([_png16(each) / 5000 for each in depths], depths))


def read_kitti(root: Path, name: str) -> Recording:
    """KITTI: ``val/DRIVE/proj_depth/groundtruth/image_02/N.png``, / 256 m, ``DATE/DRIVE/image_02/data/N.png``."""
    maps = _listed(root / "val" / name / "proj_depth" / "groundtruth" / "image_02", "*.png")[:LONGEST]
    pictures = [root / name[:10] / name / "image_02" / "data" / each.name for each in maps]
    depths = []
    for each in maps:
        raw = _png16(each)
        if raw.max() <= 255:
            raise DataError(f"{each}: no value above 255, so these are no depths of 16 bits")
        depths.append(raw / 256)
    return Recording(_images(pictures), depth=_stacked(depths, maps))


def read_tum(root: Path, name: str) -> Recording:
    """TUM: ``rgbd_dataset_freiburg3_NAME`` with rgb.txt, groundtruth.txt; every third associated pair, the first 90."""
    folder = root / f"rgbd_dataset_freiburg3_{name}"
    images, truth = _table(folder / "rgb.txt", 2), _table(folder / "groundtruth.txt", 8)
    times = [np.array([_number(folder, row[0]) for row in table]) for table in (images, truth)]
    pairs = associate(times[0], times[1])[::EVERY][:POSED]
    if len(pairs) < 2:
        raise DataError(f"{folder}: {len(pairs)} images have a pose within {_APART} s")
    numbers = np.array([[_number(folder, value) for value in truth[j][1:]] for _, j in pairs])
    poses = _finite(_from_quaternions(numbers), [images[i][1] for i, _ in pairs])
    return Recording(_images([folder / images[i][1] for i, _ in pairs]), c2w=poses)


def associate(first: np.ndarray, second: np.ndarray, apart: float = _APART) -> list[tuple[int, int]]:
    """Pairs (i, j) of times less than ``apart`` seconds apart, nearest first, each used once; in the order of i."""
    candidates = []
    order = np.argsort(second)
    for i, time in enumerate(first):
        low, high = np.searchsorted(second[order], (time - apart, time + apart))
        candidates += [(abs(time - second[j]), i, int(j)) for j in order[low:high] if abs(time - second[j]) < apart]
    used_i: set[int] = set()
    used_j: set[int] = set()
    pairs = []
    for _, i, j in sorted(candidates):
        if i not in used_i and j not in used_j:
            used_i.add(i)
            used_j.add(j)
            pairs.append((i, j))
    return sorted(pairs)


def read_scannet(root: Path, name: str) -> Recording:
    """ScanNet as exported: ``NAME/color/N.jpg``, ``NAME/pose/N.txt`` (4 x 4); every third of the first 270."""
    pictures = sorted(_listed(root / name / "color", "*.jpg"), key=_seconds)[: POSED * EVERY : EVERY]
    poses = []
    for each in pictures:
        path = root / name / "pose" / f"{each.stem}.txt"
        rows = [_number(path, value) for value in _text(path).split()]
        if len(rows) != 16:
            raise DataError(f"{path}: {len(rows)} numbers; a pose has 16")
        poses.append(np.array(rows).reshape(4, 4))
    return Recording(_images(pictures), c2w=_finite(np.stack(poses), [str(each) for each in pictures]))


DEPTH = {
    "sintel": Benchmark("Sintel (final, 14 sequences)", SINTEL, read_sintel_depth, deepest=70, clip=70),
    "bonn": Benchmark("BONN (5 sequences)", BONN, read_bonn, deepest=70, clip=70),
    "kitti": Benchmark("KITTI (13 drives)", KITTI, read_kitti),
}
POSE = {
    "sintel": Benchmark("Sintel (final, 14 sequences)", SINTEL, read_sintel_pose),
    "tum": Benchmark("TUM dynamics (8 sequences)", TUM, read_tum),
    "scannet": Benchmark("ScanNet (100 test scenes)", SCANNET, read_scannet),
}


def _listed(folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if not found:
        raise DataError(f"{folder}: no {pattern} there")
    return found


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return read_bytes(path)


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode()
    except UnicodeDecodeError:
        raise DataError(f"{path}: not text in UTF-8") from None


def _images(paths: Sequence[Path]) -> np.ndarray:
    frames = [decode_image(_bytes(path), str(path)) for path in paths]
    for path, frame in zip(paths, frames, strict=True):
        if frame.shape != frames[0].shape:
            raise DataError(f"{path}: {frame.shape[:2]} pixels, the first frame has {frames[0].shape[:2]}")
    return np.stack(frames)


def _stacked(depths: Sequence[np.ndarray], paths: Sequence[Path]) -> np.ndarray:
    for path, depth in zip(paths, depths, strict=True):
        if depth.shape != depths[0].shape:
            raise DataError(f"{path}: a depth map {depth.shape}, the first is {depths[0].shape}")
    return np.stack(depths).astype(np.float32)


def _png16(path: Path) -> np.ndarray:
    """[H, W] float32 of a PNG of 16 bits."""
    found = decode_values(_bytes(path), str(path), ("I;16", "I", "I;16B"), "depth is stored in 16 bits")
    return found.astype(np.float32)


def _table(path: Path, columns: int) -> list[list[str]]:
    """Rows of a text file of TUM's, comments left out."""
    rows = [line.split() for line in _text(path).splitlines() if line.strip() and line[0] != "#"]
    for number, row in enumerate(rows):
        if len(row) != columns:
            raise DataError(f"{path}: row {number} has {len(row)} columns, not {columns}")
    return rows


def _number(path: Path, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{path}: {text!r} is no number") from None


def _seconds(path: Path) -> float:
    """The number that a file is called by."""
    return _number(path, path.stem)


def _from_quaternions(rows: np.ndarray) -> np.ndarray:
    """[T, 4, 4] of rows (tx ty tz qx qy qz qw), quaternions of any length but zero."""
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3] = rotation_matrices(torch.from_numpy(rows[:, 3:])).numpy()
    poses[:, :3, 3] = rows[:, :3]
    return poses


def _finite(poses: np.ndarray, names: Sequence[str]) -> np.ndarray:
    bad = np.flatnonzero(~np.isfinite(poses).all((1, 2)))
    if len(bad):
        raise DataError(f"{names[bad[0]]}: its pose is not finite")
    return poses
