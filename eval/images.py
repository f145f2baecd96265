"""ImageNet-1K, ADE20K and NYU Depth v2 as they are unpacked, and as their protocols train and test on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from interlace.data_recipes import DataError
from interlace.data_recipes.media import decode_image, decode_values, read_bytes

from .augment import Box, cut, distorted, padded, random_box, resized, resized_crop_box, short_side, to_pixels
from .feed import Items
from .rooms import IGNORED


@dataclass(frozen=True)
class Pair:
    """An image with what is known of it: a class, or a file of classes or depth. ``unit``: what is resampled."""

    name: str
    unit: str
    image: Path
    known: Path | int


@dataclass(frozen=True)
class Data:
    """Training and test items of a protocol. ``aside``: training items that pick a rate; None: the test items do.

    ``units`` [n]: of the test items, what is resampled; ``unit``: what that is. ``left_out`` and ``missing``: name ->
    why of what is broken and so no item, in training and in test.
    """

    name: str
    classes: tuple[str, ...]
    train: Items
    test: Items
    units: Sequence[str]
    unit: str = "image"
    aside: Items | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def _read(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path}: no such image")
    return decode_image(read_bytes(path), str(path))


class ClassItems:
    """(uint8 [3, size, size], class). Training: random-resized crop, mirrored half the time; test: middle square."""

    def __init__(self, pairs: Sequence[Pair], size: int = 224, resize: int = 256) -> None:
        self.pairs, self.size, self.resize = pairs, size, resize
        self.names = [each.name for each in pairs]

    def read(self, index: int, rng: np.random.Generator | None) -> tuple[Tensor, int]:
        pair = self.pairs[index]
        assert isinstance(pair.known, int)
        return classified(to_pixels(_read(pair.image)), self.size, self.resize, rng), pair.known


def classified(pixels: Tensor, size: int, resize: int, rng: np.random.Generator | None) -> Tensor:
    """Pixels [3, H, W] uint8 as they are classified, [3, size, size], bicubic."""
    height, width = pixels.shape[-2:]
    if rng is None:
        whole = resized(pixels, short_side(height, width, resize), "bicubic")
        top, left = ((side - size) // 2 for side in whole.shape[-2:])
        return whole[:, top : top + size, left : left + size].contiguous()
    found = resized(cut(pixels, resized_crop_box(height, width, rng)), (size, size), "bicubic")
    return (found.flip(-1) if rng.random() < 0.5 else found).contiguous()


class MaskItems:
    """(uint8 [3, h, w], classes uint8 [H, W], 255 = ignored). The image of a test item has its own size."""

    def __init__(self, pairs: Sequence[Pair], size: int = 512) -> None:
        self.pairs, self.size = pairs, size
        self.names = [each.name for each in pairs]

    def read(self, index: int, rng: np.random.Generator | None) -> tuple[Tensor, Tensor]:
        pair = self.pairs[index]
        assert isinstance(pair.known, Path)
        pixels, mask = to_pixels(_read(pair.image)), read_ade_mask(pair.known)
        if mask.shape != pixels.shape[-2:]:
            raise DataError(f"{pair.known}: a mask {list(mask.shape)} that does not fit its image {pixels.shape[-2:]}")
        return segmented(pixels, torch.from_numpy(mask), self.size, rng)


def segmented(pixels: Tensor, mask: Tensor, size: int, rng: np.random.Generator | None) -> tuple[Tensor, Tensor]:
    """An image with its mask as it is segmented.

    Test: the short side ``size``, the mask as it is. Training: the short side 0.5 to 2 times that, a crop, mirrored
    half the time, distorted in colour.
    """
    height, width = mask.shape
    if rng is None:
        return resized(pixels, short_side(height, width, size), "bilinear").contiguous(), mask
    to = short_side(height, width, size * rng.uniform(0.5, 2.0))
    pixels = resized(pixels, to, "bilinear")
    mask = F.interpolate(mask[None, None], to, mode="nearest-exact")[0, 0]
    box = random_box(*to, (size, size), rng)
    pixels, mask = cut(pixels, box), cut(mask, box)
    if rng.random() < 0.5:
        pixels, mask = pixels.flip(-1), mask.flip(-1)
    return padded(distorted(pixels, rng), mask, (size, size), IGNORED)


def read_ade_mask(path: Path) -> np.ndarray:
    """[H, W] uint8: file values 1 to 150 become 0 to 149, and 0, which is "other", becomes 255, which is ignored."""
    found = _read_grey(path, ("L", "P"), "8-bit")
    if found.max() > ADE_CLASSES:
        raise DataError(f"{path}: class {found.max()}; masks of the 150 classes are needed, not of the full release")
    return (found.astype(np.uint8) - np.uint8(1)).astype(np.uint8)  # 0 - 1 wraps to 255


@dataclass(frozen=True)
class DepthRules:
    """``box``: of a training image, what it is cut to first. ``crop`` (height, width): of that, at random.

    ``judged``: the box of a test image that counts, or all of it. Depth in metres counts between the two ends of
    ``span``.
    """

    crop: tuple[int, int] = (416, 544)
    box: Box | None = (43, 45, 608, 472)
    judged: Box | None = (41, 45, 601, 471)
    size: tuple[int, int] | None = (480, 640)
    span: tuple[float, float] = (0.001, 10.0)


class DepthItems:
    """(uint8 [3, h, w], metres float32 [h, w], 0 = unknown or not judged)."""

    def __init__(self, pairs: Sequence[Pair], rules: DepthRules) -> None:
        self.pairs, self.rules = pairs, rules
        self.names = [each.name for each in pairs]

    def read(self, index: int, rng: np.random.Generator | None) -> tuple[Tensor, Tensor]:
        pair = self.pairs[index]
        assert isinstance(pair.known, Path)
        pixels, depth = to_pixels(_read(pair.image)), read_millimetres(pair.known)
        if depth.shape != pixels.shape[-2:] or depth.shape != (self.rules.size or depth.shape):
            raise DataError(
                f"{pair.known}: depth {list(depth.shape)}, image {list(pixels.shape[-2:])}, expected {self.rules.size}"
            )
        return measured(pixels, torch.from_numpy(depth), self.rules, rng)


def measured(
    pixels: Tensor, depth: Tensor, rules: DepthRules, rng: np.random.Generator | None
) -> tuple[Tensor, Tensor]:
    """An image with its depth as it is measured. Training: cropped, mirrored half the time, 0.75 to 1.25 as bright."""
    low, high = rules.span
    depth = torch.where((depth > low) & (depth <= high), depth, 0.0)
    if rng is None:
        if rules.judged is not None:
            inside = torch.zeros_like(depth)
            cut(inside, rules.judged).fill_(1.0)
            depth = depth * inside
        return pixels, depth
    if rules.box is not None:
        pixels, depth = cut(pixels, rules.box), cut(depth, rules.box)
    box = random_box(depth.shape[0], depth.shape[1], rules.crop, rng)
    pixels, depth = cut(pixels, box), cut(depth, box)
    if rng.random() < 0.5:
        pixels, depth = pixels.flip(-1), depth.flip(-1)
    bright = (pixels.float() * rng.uniform(0.75, 1.25)).round().clamp(0, 255).to(torch.uint8)
    return bright.contiguous(), depth.contiguous()


def read_millimetres(path: Path) -> np.ndarray:
    """A 16-bit PNG of millimetres -> [H, W] float32 metres, 0 = unknown."""
    return _read_grey(path, ("I;16", "I", "I;16B"), "16-bit").astype(np.float32) / 1000


def _read_grey(path: Path, modes: Sequence[str], kind: str) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return decode_values(read_bytes(path), str(path), modes, f"expected {kind} grey values")


ADE_CLASSES = 150


def read_imagenet(root: Path) -> Data:
    """train/WNID/*.JPEG; val/WNID/*.JPEG, or val/*.JPEG with ILSVRC2012_devkit_t12/data.

    A class is the place of its WNID among those of train, sorted. Raises DataError for what is missing.
    """
    classes = sorted(path.name for path in (root / "train").glob("n*") if path.is_dir())
    if len(classes) < 2:
        raise DataError(f"{root / 'train'}: holds no folders of classes; give the folder that holds train and val")
    place = {name: number for number, name in enumerate(classes)}
    train = [
        Pair(f"train/{name}/{path.name}", path.stem, path, place[name])
        for name in classes
        for path in sorted((root / "train" / name).glob("*.JPEG"))
    ]
    flat = sorted((root / "val").glob("*.JPEG"))
    if flat:
        truth = _imagenet_truth(root / "ILSVRC2012_devkit_t12" / "data", len(flat))
    else:
        flat = sorted((root / "val").glob("*/*.JPEG"))
        truth = [path.parent.name for path in flat]
    unknown = sorted(set(truth) - set(place))
    if unknown or not flat:
        raise DataError(f"{root / 'val'}: {'no images' if not flat else f'class {unknown[0]} is not in train'}")
    test = [Pair(f"val/{path.name}", path.stem, path, place[name]) for path, name in zip(flat, truth, strict=True)]
    units = [each.unit for each in test]
    return Data("ImageNet-1K val", tuple(classes), ClassItems(train), ClassItems(test), units)


def _imagenet_truth(folder: Path, count: int) -> list[str]:
    """WNIDs of the flat validation images: a number of the development kit is not the place among sorted WNIDs."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ModuleNotFoundError:
        raise DataError(
            f"{folder}: meta.mat is read by SciPy, which is not there; pip install interlace[eval]"
        ) from None

    lines, meta = folder / "ILSVRC2012_validation_ground_truth.txt", folder / "meta.mat"
    if not (lines.is_file() and meta.is_file()):
        raise DataError(f"{folder}: a flat val needs {lines.name} and meta.mat; or put val's images into class folders")
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        names = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in np.atleast_1d(synsets)}
        truth = [names[int(line)] for line in lines.read_text().split()]
    except (KeyError, ValueError, MatReadError) as error:
        raise DataError(f"{folder}: broken development kit ({error})") from None
    if len(truth) != count:
        raise DataError(f"{lines}: {len(truth)} labels of {count} images")
    return truth


def read_ade20k(root: Path) -> Data:
    """ADEChallengeData2016: images/{training,validation}/*.jpg, annotations/ alike as *.png, objectInfo150.txt."""
    parts = {}
    for split in ("training", "validation"):
        images = sorted((root / "images" / split).glob("*.jpg"))
        if not images:
            raise DataError(f"{root / 'images' / split}: holds no images; give ADEChallengeData2016")
        masks = root / "annotations" / split
        parts[split] = [Pair(f"{split}/{path.stem}", path.stem, path, masks / f"{path.stem}.png") for path in images]
    names = tuple(f"class {number + 1}" for number in range(ADE_CLASSES))
    info = root / "objectInfo150.txt"
    if info.is_file():
        rows = [line.split("\t") for line in info.read_text().splitlines()[1:] if line.strip()]
        names = tuple(row[-1].split(",")[0].strip() for row in rows) if len(rows) == ADE_CLASSES else names
    train, test = MaskItems(parts["training"]), MaskItems(parts["validation"])
    return Data("ADE20K val", names, train, test, [each.unit for each in parts["validation"]])


def read_nyu(root: Path, rules: DepthRules | None = None) -> Data:
    """BTS's layout: lists "image depth focal", official_splits/test/SCENE, sync/SCENE; 16-bit PNG in millimetres.

    The unit is a test image's folder.
    """
    rules = rules or DepthRules()
    parts = {}
    for split in ("train", "test"):
        lists = [root / f"nyu_{split}.txt", root / f"nyudepthv2_{split}_files_with_gt.txt"]
        file = next((each for each in lists if each.is_file()), None)
        if file is None:
            raise DataError(f"{lists[0]}: no such list, nor {lists[1].name}; NYUv2 is read in BTS's layout")
        rows = [line.split() for line in file.read_text().splitlines() if line.strip()]
        if not rows or any(len(row) < 2 for row in rows):
            raise DataError(f"{file}: its lines are not `image depth focal`")
        home = root / ("sync" if split == "train" else "official_splits/test")
        parts[split] = [
            Pair(f"{split}/{image}", str(Path(image).parent), *(_nyu_path(root, home, each) for each in (image, depth)))
            for image, depth, *_ in rows
        ]
    train, test = DepthItems(parts["train"], rules), DepthItems(parts["test"], rules)
    return Data("NYU Depth v2 test", (), train, test, [each.unit for each in parts["test"]], "folder")


def _nyu_path(root: Path, home: Path, listed: str) -> Path:
    """Lists begin their paths at the root or at the split's own folder; some begin them with a slash."""
    path = listed.lstrip("/")
    return root / path if (root / path).is_file() else home / path
