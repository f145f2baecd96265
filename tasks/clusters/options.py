"""What a recipe may say about cluster discrimination."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, model_validator

from ..interface import TaskOptions

Share = Annotated[float, Field(gt=0, le=1)]


class Bank(TaskOptions):
    """One set of class centres; its name in ``banks`` is the one in a sample's ``clusters``."""

    rows: int = Field(ge=2)  # centres: 2,000,000 for images and 400,000 for video in the paper
    frames: int = Field(default=1, ge=1)  # a sample's view: 1 = one frame of it, more = so many spread over the clip
    weight: float = Field(default=1.0, ge=0)


class SigmoidLoss(TaskOptions):
    """OneVision equation 9 on the logit ``scale * cosine + bias``, or on the plain dot product.

    The paper gives neither normalisation, scale nor weighting: these are ours, in SigLIP's form. Positive and negative
    pairs are averaged apart. Equation 9's one expectation over l positives and n negatives of a sample is
    ``positive_weight`` l / (l + n) and ``negative_weight`` n / (l + n).
    """

    kind: Literal["sigmoid"] = "sigmoid"
    normalise: bool = True  # embeddings and centres to length 1
    scale: float = Field(default=10.0, gt=0)  # at the start; learned
    bias: float = 0.0  # at the start; learned. 0 fits positives and negatives that weigh the same
    positive_weight: float = Field(default=1.0, ge=0)
    negative_weight: float = Field(default=1.0, ge=0)


class CosFaceLoss(TaskOptions):
    """Softmax over sampled centres with a margin on the positive's cosine, as the released code trains.

    Each positive is compared with the negatives alone: a sample's other positives are left out of its denominator.
    """

    kind: Literal["cosface"]
    scale: float = Field(default=64.0, gt=0)  # released
    margin: float = Field(default=0.3, ge=0)  # released

    @property
    def normalise(self) -> bool:
        """Always: the margin is on a cosine."""
        return True


class ClustersOptions(TaskOptions):
    """Options of :class:`~interlace.tasks.clusters.Clusters`. "Paper": OneVision-Encoder section 4.1. "Released": the
    training code published with it."""

    size: int = Field(ge=1)  # pixels a side
    banks: dict[str, Bank] = Field(min_length=1)
    loss: Annotated[SigmoidLoss | CosFaceLoss, Discriminator("kind")] = SigmoidLoss()
    embedding_size: int = Field(default=512, ge=1)  # D; the paper does not say
    positives: int = Field(default=10, ge=1)  # of a sample; of more, so many are drawn: paper
    negatives: Share = 0.1  # share of a bank's centres drawn for a micro-batch: paper
    crop_area: tuple[Share, Share] = (0.7, 1.0)  # of the frame: released
    crop_aspect: tuple[float, float] = (0.8, 1.25)  # width / height: released
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5  # probability of a mirrored view: released

    @model_validator(mode="after")
    def _ranges_ordered(self) -> ClustersOptions:
        if self.crop_area[0] > self.crop_area[1]:
            raise ValueError("crop_area: found a range that ends before it begins, allowed is [least, most]")
        if not 0 < self.crop_aspect[0] <= self.crop_aspect[1]:
            raise ValueError("crop_aspect: found a range that ends before it begins, allowed is [least > 0, most]")
        return self
