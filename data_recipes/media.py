"""Pictures and videos from and to bytes, and the one error every reader raises for data it cannot read."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose

#: How a frame may be stored: "jpeg" (quality 95, no chroma subsampling) or "png" (lossless).
CODECS = ("jpeg", "png")

#: What Pillow's decoders are seen to raise for damaged bytes.
_BAD_BYTES = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
_ORIENTATION = 0x0112
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


class DataError(ValueError):
    """Data that cannot be read, used or written: the message names the file or sample, what is wrong and what to do.

    It is the one error that costs a sample and not the run: what reads a sample, or a task that refuses one, raises
    this where the data is at fault, and another error where the program or the recipe is.
    """


def read_bytes(file: Path) -> bytes:
    """All of a file. Raises :class:`DataError`."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); copy it again") from error


def encode_image(image: np.ndarray, codec: str) -> bytes:
    """[H, W, 3] uint8 RGB -> the bytes of a JPEG or PNG file."""
    stream = io.BytesIO()
    if codec == "jpeg":
        # 4:4:4: with subsampled chroma, small coloured objects and letters bleed into their neighbours.
        Image.fromarray(image).save(stream, "JPEG", quality=95, subsampling=0)
    else:
        Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def decode_image(data: bytes, name: str, *, upright: bool = False) -> np.ndarray:
    """The bytes of an image file -> [H, W, 3] uint8 RGB. The content decides the format, not a file name.

    ``upright`` applies the rotation that a camera stored in EXIF. Raises :class:`DataError` that begins with ``name``
    when the bytes are no image, are cut off, are damaged where the format can tell, or have more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):
                # Pillow would clip it to white; and it is a depth map or a scan more often than a photograph
                raise DataError(f"{name}: an image of mode {image.mode}, not of 8 bits a channel")
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1)) if upright else None
            return np.array((image if turn is None else image.transpose(turn)).convert("RGB"))
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{name}: not an image that Pillow knows") from None
    except _BAD_BYTES as error:
        raise DataError(f"{name}: broken image ({error})") from error


def decode_values(data: bytes, name: str, modes: Sequence[str], wanted: str) -> np.ndarray:
    """The bytes of an image file whose numbers mean something, a mask or a map of depths -> [H, W] as they are stored.

    ``modes``: those of Pillow that are allowed; ``wanted`` tells of them. Raises :class:`DataError` that begins with
    ``name`` for another mode and for damaged bytes.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode not in modes:
                raise DataError(f"{name}: an image of mode {image.mode}; {wanted}")
            return np.array(image)
    except DataError:
        raise
    except _BAD_BYTES as error:
        raise DataError(f"{name}: broken image ({error})") from error
