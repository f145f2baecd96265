"""A backbone, and the geometry heads that were trained with it, watching footage frame by frame."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interlace import backbone as backbones
from interlace.backbone import Backbone, Features, Stream
from interlace.backbone.folder import read_json
from interlace.backbone.locate import PROCESSOR, RECIPE, locate
from interlace.backbone.preprocess import fit, whole_patches
from interlace.tasks.geometry import Prediction
from interlace.tasks.geometry.heads import GeometryHeads
from interlace.tasks.geometry.saved import find_heads, load_heads, read_options

from .export import read_recipe, trained_size
from .footage import Footage, open_footage

#: Short side of the frames that a backbone is shown, where neither its user nor its run or export says one.
SHORT_SIDE = 224
#: Frames that a frame sees, itself included, and first ones that stay in view, where nothing else is said.
WINDOW, SINK = 64, 1
#: What keys and values may be kept in.
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}


@dataclass(frozen=True)
class Options:
    """How footage is watched: with ``window`` and ``sink``, :data:`WINDOW` and :data:`SINK` where nothing is said, or
    with ``max_frames``.

    ``size``: the short side in pixels; :func:`trained_side` or :data:`SHORT_SIDE` where nothing is said. ``fps``: frame
    units of the model's time in a second. ``frames``: how many are watched. ``dtype``: of keys and values, a name of
    :data:`DTYPES`.
    """

    size: int | None = None
    fps: float | None = None
    frames: int | None = None
    window: int | None = None
    sink: int | None = None
    max_frames: int | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and not (self.fps > 0 and np.isfinite(self.fps)):
            raise ValueError(f"--fps {self.fps:g}: must be a number above 0")
        if self.frames is not None and self.frames < 1:
            raise ValueError(f"--frames {self.frames}: must be at least 1")
        if self.max_frames is not None and (self.window is not None or self.sink is not None):
            raise ValueError("--max-frames keeps all frames in view: leave out --window and --sink, or leave it out")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(f"--dtype {self.dtype}: allowed are {', '.join(DTYPES)}")


@dataclass(frozen=True)
class Seen:
    """One frame, as it was shown and what the model said: ``image`` [H, W, 3] uint8, ``features`` of one frame.

    ``seconds`` since the first frame; ``time`` in the model's frame units; ``took`` seconds to compute.
    """

    image: np.ndarray
    seconds: float
    time: float
    features: Features
    geometry: Prediction | None
    took: float


class Alone:
    """In a stream's place, for a model of images: it sees every frame by itself and keeps nothing."""

    cache_bytes = 0

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    @torch.no_grad()
    def __call__(self, frames: Tensor, times: Tensor, layers: Sequence[int]) -> Features:
        pixels = frames.to(self._backbone.norm.weight.device)
        return self._backbone(backbones.normalise(pixels), layers=layers)

    def close(self) -> None:
        """There is nothing to let go of."""


class Watch:
    """A stream that is about to see footage; iterate it once. Close it, or use it in a ``with``.

    ``height``, ``width``: of the frames as shown. ``fps``: how many units of the model's time a second is: as asked,
    or as the model's config says, or the footage's own, so that a frame is one unit; a folder's pictures are always one
    unit apart. ``side``: short side of the frames, where ``options`` and ``heads`` say none. ``keeps``: what the stream
    keeps, nothing of a model of images. ``dtype``: the name of what keys and values are kept in, None where there are
    none.
    """

    def __init__(
        self,
        backbone: Backbone,
        source: str,
        options: Options,
        heads: tuple[GeometryHeads, int] | None = None,
        side: int | None = None,
    ) -> None:
        self.backbone, self.options = backbone, options
        self.geometry = None if heads is None else heads[0]
        patch = backbone.config.patch_size
        short_side = max(patch, (side or SHORT_SIDE) // patch * patch) if heads is None else heads[1]
        self.footage: Footage = open_footage(source, options.fps or backbone.config.fps)
        counts = [count for count in (self.footage.count, options.frames) if count is not None]
        #: frames that will be seen; None of a camera
        self.count = min(counts) if counts else None
        if options.max_frames is not None and self.count is None:
            raise ValueError(
                f"{source}: a camera has no end, which --max-frames {options.max_frames} would come to; say how many "
                "frames with --frames, or keep a --window"
            )
        if options.max_frames is not None and (self.count or 0) > options.max_frames:
            raise ValueError(
                f"{source}: {self.count} frames, more than --max-frames {options.max_frames}; raise it, watch fewer "
                "with --frames, or keep a --window"
            )
        short_side = short_side if options.size is None else options.size
        footage = self.footage
        if short_side < patch or short_side % patch:
            nearest = max(patch, round(short_side / patch) * patch)
            raise ValueError(
                f"--size {short_side}: must be a multiple of the patch, {patch} pixels; the nearest is {nearest}"
            )
        self.height, self.width = whole_patches((footage.height, footage.width), short_side, patch)
        self.fps = options.fps or backbone.config.fps or footage.fps
        self.keeps: dict[str, int] = {}
        self.dtype: str | None = None
        if backbone.config.is_image_model:
            if any(given is not None for given in (options.window, options.sink, options.max_frames, options.dtype)):
                raise ValueError(
                    "--window, --sink, --max-frames and --dtype are of a stream's keys and values; this backbone is a "
                    "model of images, which keeps none: leave them out"
                )
            if options.fps is not None and footage.timed:
                raise ValueError(
                    f"--fps {options.fps:g}: this backbone is a model of images, which knows no time: leave it out"
                )
            self.stream: Stream | Alone = Alone(backbone)
            return
        # A window that is longer than the footage would only take memory.
        window = WINDOW if options.window is None else options.window
        sink = SINK if options.sink is None else options.sink
        self.keeps = {"window": window, "sink": sink}
        opened = {"window": window if self.count is None else min(window, self.count), "sink": sink}
        if options.max_frames:
            self.keeps = opened = {"max_frames": options.max_frames}
        dtype = DTYPES[options.dtype] if options.dtype else None
        try:
            self.stream = backbone.stream(1, self.height, self.width, dtype=dtype, **opened)
        except RuntimeError as error:
            if "alloc" not in str(error):
                raise
            kept = ", ".join(f"{name} {value}" for name, value in self.keeps.items())
            raise ValueError(
                f"{source}: no memory for the keys and values of {kept} at {self.width} x {self.height} pixels; give a "
                "smaller --size, or fewer frames with --window or --max-frames"
            ) from None
        self.dtype = str(self.stream.state()["keys"].dtype).removeprefix("torch.")

    def seen(self, layers: Sequence[int] = ()) -> Iterator[Seen]:
        """The frames one after another, with the patches of these blocks (and of those that geometry needs)."""
        wanted = sorted({*layers, *(self.geometry.layers if self.geometry is not None else ())})
        for seconds, image in islice(self.footage.frames, self.count):
            pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
            pixels = fit(pixels, (self.height, self.width), self.backbone.config.patch_size)
            began = time.perf_counter()
            at = seconds * self.fps
            features = self.stream(pixels[None, None], torch.tensor([[at]], dtype=torch.float64), wanted)
            prediction = self._read(features)
            if features.cls.is_cuda:
                torch.cuda.synchronize()
            took = time.perf_counter() - began
            yield Seen(pixels.permute(1, 2, 0).contiguous().numpy(), seconds, at, features, prediction, took)

    @torch.no_grad()
    def _read(self, features: Features) -> Prediction | None:
        return None if self.geometry is None else self.geometry(features)

    def told(self) -> list[str]:
        """A line for each picture that was left out, and one that counts them."""
        left_out = self.footage.left_out
        lines = [f"left out {why}" for why in left_out.values()]
        return [*lines, f"{len(left_out)} of {self.footage.count} pictures left out"] if lines else []

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()


def load_frozen(path: str) -> Backbone:
    """The backbone of a folder, a run or the hub, on the GPU if there is one, without gradients; a DINOv3 as it is."""
    backbone = backbones.load_as_published(path)
    return backbone.to("cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)


def load_geometry(path: str, backbone: Backbone) -> tuple[GeometryHeads, int] | None:
    """The geometry heads that a run or an export keeps beside its backbone, and the short side that they were trained
    at; None where there are none.

    Raises ValueError for heads that are broken, were trained on another backbone, or are not there though an export's
    config says so.
    """
    folder = find_heads(path)
    if folder is None:
        return None
    heads = load_heads(folder, backbone.config).to(backbone.embedding.cls_token.device).requires_grad_(False)
    return heads, _side(read_options(folder, backbone.config)["size"])


def trained_side(path: str, backbone: Backbone) -> int | None:
    """The short side, in pixels, of the frames that a run or an export was trained on; None where it says nothing.

    Of geometry heads beside the backbone it is theirs, so that features are those that ``interlace stream`` shows.
    """
    heads, folder = find_heads(path), locate(path)
    if heads is not None:
        return _side(read_options(heads, backbone.config)["size"])
    processor = folder / PROCESSOR
    if processor.is_file():
        said = read_json(processor).get("size")
        return _side(said.get("shortest_edge") if isinstance(said, dict) else said)
    run = folder.parent if folder.name == "backbone" else folder
    return trained_size(read_recipe(run)) if (run / RECIPE).is_file() else None


def _side(size: Any) -> Any:
    """Of a square or a picture of (height, width)."""
    return min(size) if isinstance(size, list) else size


def centre(prediction: Prediction) -> np.ndarray:
    """[3] the camera's place in the first camera's frame, in the clip's units, of a prediction of one frame."""
    return prediction.poses[0, 0, 4:7].float().cpu().numpy()


def as_map(patches: Tensor) -> np.ndarray:
    """[h, w, D] float32 of features [1, 1, h, w, D]."""
    return patches[0, 0].float().cpu().numpy()
