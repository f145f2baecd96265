"""Pictures and videos from and to bytes, and the one error every reader raises for data it cannot read."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

#: How a frame may be stored: "jpeg" (quality 95, no chroma subsampling) or "png" (lossless).
CODECS = ("jpeg", "png")


class DataError(ValueError):
    """Data that cannot be read or written: the message names the file or sample, what is wrong and what to do."""


def encode_image(image: np.ndarray, codec: str) -> bytes:
    """[H, W, 3] uint8 RGB -> the bytes of a JPEG or PNG file."""
    stream = io.BytesIO()
    if codec == "jpeg":
        # 4:4:4: with subsampled chroma, small coloured objects and letters bleed into their neighbours.
        Image.fromarray(image).save(stream, "JPEG", quality=95, subsampling=0)
    else:
        Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def decode_image(data: bytes, name: str) -> np.ndarray:
    """The bytes of an image file -> [H, W, 3] uint8 RGB. The content decides the format, not a file name.

    Stored EXIF rotation is not applied. Raises :class:`DataError` that begins with ``name`` when the bytes are no
    image, are cut off, or are damaged where the format can tell.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError:
        raise DataError(f"{name}: not an image that Pillow knows") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: broken image ({error})") from error
