"""Photographs and clips made ready for an exported backbone: resized as in training, normalised. Needs Pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_base import ImageProcessingMixin

from ..preprocess import MEAN, STD, fit, normalise

#: What transformers' own processors let their user change. The model and a stream prepare uint8 in this way, whatever a
#: processor says, and were trained on it.
_FIXED = {
    "image_mean": list(MEAN),
    "image_std": list(STD),
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_center_crop": False,
    "do_pad": False,
    "resample": 2,  # Pillow's bilinear
}


class Settings(TypedDict, total=False):
    """What ``from_pretrained`` may change."""

    size: dict[str, int] | int | None
    patch_size: int
    do_normalize: bool


class InterlaceImageProcessor(ImageProcessingMixin):
    """Pillow images, arrays or tensors -> ``pixel_values``.

    ``size``: {"shortest_edge": s}, or s for short, or {"height": h, "width": w}, see :func:`fit`; None keeps the size,
    rounded to whole patches. ``do_normalize`` false leaves uint8, which a stream and the model normalise themselves.
    ``image_mean``, ``image_std`` and the like are there to be read: ValueError for any other value than theirs.
    """

    model_input_names = ("pixel_values",)
    valid_kwargs = Settings

    def __init__(
        self, size: dict[str, int] | int | None = None, patch_size: int = 16, do_normalize: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**{**_FIXED, **kwargs})
        self.size = size
        self.patch_size = patch_size
        self.do_normalize = do_normalize
        _fitted_size(size)

    def __setattr__(self, name: str, value: Any) -> None:
        # transformers sets what a file or a caller says as an attribute, whatever the class does with it.
        if name in _FIXED and np.asarray(value).tolist() != _FIXED[name]:
            raise ValueError(
                f"processor: {name} {value}: the backbone was trained with {_FIXED[name]}, which a stream keeps to; "
                f"leave {name} out"
            )
        super().__setattr__(name, value)

    def __call__(self, images: Any = None, **kwargs: Any) -> BatchFeature:
        """As :meth:`preprocess`."""
        return self.preprocess(images, **kwargs)

    def preprocess(
        self,
        images: Any = None,
        *,
        videos: Any = None,
        size: dict[str, int] | int | None = None,
        do_normalize: bool | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """``pixel_values``: [B, 3, h, w] of ``images``, or [B, T, 3, h, w] of ``videos``; float32, or uint8.

        An image is a Pillow image or uint8 [H, W, 3] (arrays) or [3, H, W] (tensors); ``images`` is one or a list. A
        video is a list of those, or uint8 [T, H, W, 3] or [T, 3, H, W]; ``videos`` is one or a list. Raises ValueError
        for anything else, and where the results have different sizes.
        """
        if (images is None) == (videos is None):
            raise ValueError("processor: give images or videos, one of them")
        if return_tensors != "pt":
            raise ValueError(f"processor: return_tensors {return_tensors!r}: allowed is 'pt'")
        clips = [_frames(image) for image in _listed(images, 3)] if videos is None else _clips(videos)
        wanted = _fitted_size(self.size if size is None else size)
        fitted = [fit(clip, wanted, self.patch_size) for clip in clips]
        shapes = sorted({tuple(clip.shape) for clip in fitted})
        if len(shapes) > 1:
            raise ValueError(
                f"processor: {len(fitted)} inputs become {', '.join(map(str, shapes))}: give them one by one, or "
                "size={'height': ..., 'width': ...}"
            )
        pixels = torch.stack(fitted)
        wanted_floats = self.do_normalize if do_normalize is None else do_normalize
        return BatchFeature({"pixel_values": normalise(pixels) if wanted_floats else pixels})


def _fitted_size(size: Any) -> int | tuple[int, int] | None:
    if size is None:
        return None
    named = size if isinstance(size, Mapping) else {"shortest_edge": size}
    if all(isinstance(side, int) and side > 0 for side in named.values()):
        if set(named) == {"shortest_edge"}:
            return int(named["shortest_edge"])
        if set(named) == {"height", "width"}:
            return named["height"], named["width"]
    raise ValueError(f"processor: size {size}: allowed are shortest_edge, or height and width, in pixels, or a number")


def _clips(videos: Any) -> list[Tensor]:
    """[T, 3, H, W] uint8 each."""
    if isinstance(videos, (np.ndarray, Tensor)):
        return [_frames(video) for video in _listed(videos, 4)]
    listed = list(videos)
    if not listed:
        raise ValueError("processor: no video")
    one = isinstance(listed[0], Image.Image) or (isinstance(listed[0], (np.ndarray, Tensor)) and listed[0].ndim == 3)
    clips = []
    for video in [listed] if one else listed:
        whole = isinstance(video, (np.ndarray, Tensor))
        clips.append(_frames(video) if whole else torch.stack([_frames(frame) for frame in video]))
    return clips


def _listed(inputs: Any, rank: int) -> Sequence[Any]:
    """Inputs of ``rank`` axes each, where one may stand alone."""
    if isinstance(inputs, Image.Image) or (isinstance(inputs, (np.ndarray, Tensor)) and inputs.ndim == rank):
        return [inputs]
    listed = list(inputs)
    if not listed:
        raise ValueError("processor: no input")
    return listed


def _frames(pixels: Any) -> Tensor:
    """uint8 [..., 3, H, W] of an image, or of an array or tensor of images."""
    if isinstance(pixels, Image.Image):
        return torch.from_numpy(np.array(pixels.convert("RGB"))).permute(2, 0, 1)
    if isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.ndim >= 3 and pixels.shape[-1] == 3:
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, -3)))
    if isinstance(pixels, Tensor) and pixels.dtype == torch.uint8 and pixels.ndim >= 3 and pixels.shape[-3] == 3:
        return pixels.cpu()
    found = f"{getattr(pixels, 'dtype', '')} {list(getattr(pixels, 'shape', []))}".strip()
    raise ValueError(
        f"processor: {type(pixels).__name__} {found}: allowed are Pillow images, uint8 arrays [..., H, W, 3] and "
        "uint8 tensors [..., 3, H, W]"
    )
