"""DAVIS 2017 as it is unpacked: JPEGImages, Annotations (palette PNG, a pixel is an object's id), ImageSets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from interlace.data_recipes import DataError
from interlace.data_recipes.media import decode_image, decode_values, read_bytes

#: An annotation's id for pixels that are neither; the semi-supervised benchmark counts them as background.
VOID = 255
RESOLUTION = "480p"


@dataclass(frozen=True)
class MaskedClip:
    """``frames`` [T, H, W, 3] uint8, ``masks`` [T, H, W] uint8: 0 is background, objects are 1 to K."""

    name: str
    frames: np.ndarray
    masks: np.ndarray


def sequence_names(root: Path, split: str = "val") -> list[str]:
    """The sequences of a split, sorted. Raises DataError where the list is missing or empty."""
    file = root / "ImageSets" / "2017" / f"{split}.txt"
    if not file.is_file():
        raise DataError(f"{file}: no such file; give the folder that holds JPEGImages, Annotations and ImageSets")
    names = sorted({line.strip() for line in file.read_text().splitlines() if line.strip()})
    if not names:
        raise DataError(f"{file}: names no sequence")
    return names


def read_sequence(root: Path, name: str) -> MaskedClip:
    """One sequence. Raises DataError, naming the file, for one that is missing, broken or does not fit the others."""
    folder = root / "JPEGImages" / RESOLUTION / name
    pictures = sorted(folder.glob("*.jpg"))
    if len(pictures) < 3:
        raise DataError(f"{folder}: {len(pictures)} frames; the first and last do not count, so it must have 3")
    frames, masks = [], []
    for picture in pictures:
        frames.append(decode_image(read_bytes(picture), str(picture)))
        masks.append(_read_mask(root / "Annotations" / RESOLUTION / name / f"{picture.stem}.png"))
        if masks[-1].shape != frames[-1].shape[:2] or masks[-1].shape != masks[0].shape:
            raise DataError(
                f"{picture}: frame {frames[-1].shape[:2]} and mask {masks[-1].shape} do not fit each other or frame 0 "
                f"{masks[0].shape}"
            )
    if not masks[0].any():
        raise DataError(f"{folder}: the first mask holds no object, so there is nothing to follow")
    return MaskedClip(name, np.stack(frames), np.stack(masks))


def _read_mask(path: Path) -> np.ndarray:
    """Ids [H, W] uint8. A mask converted to RGB has lost them."""
    if not path.is_file():
        raise DataError(f"{path}: no such annotation")
    ids = decode_values(read_bytes(path), str(path), ("P", "L"), "masks are palette PNG files with ids")
    return np.where(ids == VOID, 0, ids).astype(np.uint8)


def write_sequence(root: Path, clip: MaskedClip) -> None:
    """Write a clip in this layout; the list of names is the caller's."""
    rng = np.random.default_rng(0)
    palette = np.concatenate(([[0, 0, 0]], rng.integers(60, 256, (255, 3)))).astype(np.uint8)
    for kind in ("JPEGImages", "Annotations"):
        (root / kind / RESOLUTION / clip.name).mkdir(parents=True, exist_ok=True)
    for number, (frame, mask) in enumerate(zip(clip.frames, clip.masks, strict=True)):
        Image.fromarray(frame).save(
            root / "JPEGImages" / RESOLUTION / clip.name / f"{number:05d}.jpg", quality=95, subsampling=0
        )
        image = Image.fromarray(mask, mode="P")
        image.putpalette(palette.tobytes())
        image.save(root / "Annotations" / RESOLUTION / clip.name / f"{number:05d}.png")
