"""What a recipe may say about self-supervision, and what it may not."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from interlace.backbone import BackboneConfig

from ..interface import TaskOptions

Share = Annotated[float, Field(ge=0, le=1)]
AreaRange = tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]]
Positive = Annotated[float, Field(gt=0)]

#: Crops that the teacher sees too. DINO compares each with the others, so there are two or the term has no pair.
GLOBAL_CROPS = 2


class Blocks(TaskOptions):
    """A kind of video mask: the union of ``count`` rectangles of ``scale`` of the frame, through all frames."""

    count: int = Field(ge=1)
    scale: float = Field(gt=0, lt=1)


class SslOptions(TaskOptions):
    """Options of :class:`~interlace.tasks.ssl.Ssl`. "Released": the configuration inside OmniStream's released code."""

    # views
    frames: int = Field(16, ge=2)  # of a clip: OmniStream section 4.2; that they are spread over the sample is ours
    global_size: int = Field(224, ge=1)  # pixels: OmniStream stage 1; 512 in stage 2
    local_size: int = Field(96, ge=1)  # DINOv3
    local_crops: int = Field(2, ge=1)  # released (DINOv3 has 8)
    global_scale: AreaRange = (0.32, 1.0)  # of the frame's area: DINOv3
    local_scale: AreaRange = (0.05, 0.32)  # DINOv3
    flip: Share = 0.5  # probability of a mirrored crop: DINOv3
    colour_jitter: Share = 0.8  # probability: DINOv3
    greyscale: Share = 0.2  # probability: DINOv3
    blur: tuple[Share, Share, Share] = (1.0, 0.1, 0.5)  # probability for global crop 1, 2, local crops: DINOv3
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)  # pixels: DINOv3, for crops of 224
    solarise: Share = 0.2  # probability, second global crop only: DINOv3

    # masks
    image_mask_probability: Share = 0.5  # of a global crop having a mask at all: released
    image_mask_ratio: AreaRange = (0.1, 0.5)  # released
    # Global crop 1 of a clip gets blocks of the first kind, crop 2 of the second: V-JEPA 2 masks every clip with both.
    video_masks: tuple[Blocks, Blocks] = (Blocks(count=8, scale=0.15), Blocks(count=2, scale=0.7))
    video_mask_aspect: tuple[Positive, Positive] = (0.75, 1.5)  # height / width of a block: V-JEPA 2

    # heads
    dino_prototypes: int = Field(65536, ge=2)  # released
    ibot_prototypes: int = Field(65536, ge=2)  # released
    head_hidden: int | None = Field(None, ge=1)  # None: twice the backbone's width: released
    head_bottleneck: int = Field(256, ge=1)  # released

    # teacher
    momentum: Share = 0.994  # at the first step: DINOv3 ViT-L
    final_momentum: Share = 1.0  # at the last, by a cosine: DINOv3
    student_temperature: Positive = 0.1  # DINOv3
    teacher_temperature: Positive = 0.04  # at the first step: DINOv3
    final_teacher_temperature: Positive = 0.07  # DINOv3
    temperature_warmup: Share = 0.3  # share of the steps until the final one: 30 of DINOv3's 100 epochs
    sinkhorn_iterations: int = Field(3, ge=1)  # DINOv3

    # weights of the terms: OmniStream equation 5
    dino_weight: float = Field(1.0, ge=0)
    ibot_weight: float = Field(1.0, ge=0)
    koleo_weight: float = Field(0.1, ge=0)
    gram_weight: float = Field(1.0, ge=0)
    gram: bool = True  # anchor to the initial weights; senseless where those are random
    # What computes with them: the image model "dinov3" that they were trained in (OmniStream appendix A) or, where they
    # were trained in a streaming backbone already, a "backbone" like the student's.
    gram_teacher: Literal["dinov3", "backbone"] = "dinov3"

    # held-out nearest neighbours
    probe_frames: int = Field(4, ge=1)  # of a sample, spread over it
    neighbours: int = Field(20, ge=1)  # DINO's k-NN protocol
    labels: tuple[str, ...] = ()  # that they vote on; none named: all that samples have

    @model_validator(mode="after")
    def _ordered(self) -> SslOptions:
        for name in ("global_scale", "local_scale", "blur_sigma", "image_mask_ratio", "video_mask_aspect"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the first number must not exceed the second, found {low} and {high}")
        return self


def check(options: SslOptions, backbone: BackboneConfig) -> list[tuple[str, str]]:
    """(option, what is wrong) for all that does not fit this backbone."""
    wrong: list[tuple[str, str]] = []
    patch = backbone.patch_size
    for name in ("global_size", "local_size"):
        size = getattr(options, name)
        if size % patch:
            below, above = size // patch * patch, -(-size // patch) * patch
            nearest = f"{below} or {above}" if below else f"{above}"
            wrong.append((name, f"{size} is not a multiple of the backbone's patch_size = {patch}: use {nearest}"))
    if options.global_size < 2 * patch:
        wrong.append(
            ("global_size", f"{options.global_size} gives fewer than 2 x 2 patches of {patch}: nothing to mask")
        )
    return wrong


def tokens_per_sample(options: SslOptions, backbone: BackboneConfig) -> int:
    """Student tokens of one clip, all its crops and frames. An image costs 1 / ``frames`` of it."""
    frame = GLOBAL_CROPS * backbone.tokens_per_frame(options.global_size, options.global_size)
    frame += options.local_crops * backbone.tokens_per_frame(options.local_size, options.local_size)
    return options.frames * frame
