"""What a recipe may say about geometry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..interface import TaskOptions

Count = Annotated[int, Field(ge=1)]
#: A width that the sine-cosine positions of :mod:`.dpt` divide: sine and cosine of two coordinates.
Width = Annotated[int, Field(ge=4, multiple_of=4)]


class TermWeights(TaskOptions):
    """Factors of the terms of OmniStream equation 6, where all are 1. ``depth`` covers all of equation 7."""

    depth: float = Field(default=1.0, ge=0)
    ray: float = Field(default=1.0, ge=0)
    points: float = Field(default=1.0, ge=0)
    camera: float = Field(default=1.0, ge=0)


class GeometryOptions(TaskOptions):
    """Options of :class:`~interlace.tasks.geometry.Geometry`. Defaults are those of a ViT-L."""

    #: pixels the frames are brought to: one number for a square, or [height, width]
    size: Count | tuple[Count, Count]
    frames: int = Field(16, ge=1)  # OmniStream section 4.2
    #: [least, most] frames of the clip from one chosen frame to the next; drawn for each clip, cut to what it holds
    stride: tuple[Count, Count] = (1, 1)
    #: the crop is the largest box of the wanted shape around the principal point, made smaller by up to this factor
    zoom: float = Field(1.0, ge=1)
    flip: float = Field(0.0, ge=0, le=1)  # chance that the whole clip, cameras included, is mirrored left to right
    colour_jitter: float = Field(0.0, ge=0, lt=1)  # brightness, contrast, saturation within 1 +- this, one draw a clip

    #: four blocks that feed the DPT, from 0; None: those at 1/2, 2/3, 5/6 and all of the depth, [11, 15, 19, 23] of 24
    layers: tuple[int, int, int, int] | None = None
    widths: tuple[Width, Width, Width, Width] = (256, 512, 1024, 1024)  # Depth Anything 3, Large
    features: int = Field(256, ge=8, multiple_of=8)  # channels of both fusion chains; Depth Anything 3, Large
    ray_neck: Literal[1, 3, 5] = 5  # 3x3 convolutions between the ray chain and its output; Depth Anything 3
    #: frames of the DPT computed at a time and again in backward, which saves memory; None: all at once
    dpt_frames: int | None = Field(None, ge=1)

    alpha: float = Field(0.2, ge=0)  # of -log confidence in equation 7; the paper gives no value, VGGT's loss has 0.2
    weights: TermWeights = TermWeights()

    @model_validator(mode="after")
    def _stride_in_order(self) -> GeometryOptions:
        if self.stride[0] > self.stride[1]:
            raise ValueError(f"stride: least {self.stride[0]} is more than most {self.stride[1]}")
        return self

    @property
    def height_width(self) -> tuple[int, int]:
        """Pixels (height, width) of the frames the backbone sees."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def layers_of(self, depth: int) -> tuple[int, int, int, int]:
        """The four blocks, from 0, that feed the DPT of a backbone of ``depth`` blocks. Small depths repeat some."""
        if self.layers is not None:
            return self.layers
        first, second, third, last = (-(-depth * sixths // 6) - 1 for sixths in (3, 4, 5, 6))
        return first, second, third, last
