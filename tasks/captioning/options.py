"""What a recipe may say about captioning."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from interlace.data_recipes.schema import ExistingFolder, ExistingPath

from ..interface import TaskOptions


class DecoderShape(TaskOptions):
    """A Qwen3 decoder that starts from random weights. ``transformers``' defaults where nothing is said here."""

    layers: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    heads: int = Field(ge=1)
    key_value_heads: int | None = Field(default=None, ge=1)  # None: as many as heads
    head_size: int | None = Field(default=None, ge=2)  # None: hidden_size / heads
    mlp_size: int = Field(ge=1)
    tie_embeddings: bool = True
    vocabulary_size: int | None = Field(default=None, ge=1)  # None: the tokenizer's

    @model_validator(mode="after")
    def _heads_divide(self) -> DecoderShape:
        if self.head_size is None and (self.hidden_size % self.heads or (self.hidden_size // self.heads) % 2):
            raise ValueError(f"hidden_size {self.hidden_size} / heads {self.heads} must be even and whole")
        if self.heads % (self.key_value_heads or self.heads):
            raise ValueError(f"heads {self.heads} must be a multiple of key_value_heads {self.key_value_heads}")
        return self


class BlindOptions(TaskOptions):
    """Training of the text-only decoder that captions are measured against."""

    steps: int = Field(default=300, ge=1)
    batch: int = Field(default=32, ge=1)  # texts a step
    lr: float = Field(default=3e-3, gt=0)  # peak; a pretrained decoder wants about 1e-4
    check_every: int = Field(default=50, ge=1)  # steps between measurements on the training scenes kept apart


def _kind_of_decoder(value: Any) -> str:
    return "folder" if isinstance(value, str) else "shape"


class CaptioningOptions(TaskOptions):
    """Options of :class:`~interlace.tasks.captioning.Captioning`."""

    size: int = Field(ge=1)  # pixels a side; the whole frame is resized to it, so that normalised boxes stay true
    #: frames that the backbone sees, the last of them the one the text speaks of; the decoder reads all their patches
    frames: int = Field(default=1, ge=1)
    #: texts about one frame that share its features in a draw, at most
    texts: int = Field(default=1, ge=1)
    #: folder of a ``transformers`` Qwen3 model, or the shape of a new one
    decoder: Annotated[
        Annotated[ExistingFolder, Tag("folder")] | Annotated[DecoderShape, Tag("shape")],
        Discriminator(_kind_of_decoder),
    ]
    #: folder of a ``transformers`` tokenizer or a SentencePiece ``.model`` file; None: the decoder's folder
    tokenizer: ExistingPath | None = None
    max_tokens: int = Field(default=256, ge=4)  # of start, prompt and answer together; a longer answer is cut there
    box_bins: int = Field(default=1000, ge=2, le=1000)  # a box's side is written as a whole number up to this
    max_generated: int = Field(default=64, ge=1)  # tokens of a generated answer
    evaluate_per_kind: int = Field(default=2, ge=1)  # texts of each kind that a held-out sample is asked
    blind: BlindOptions = BlindOptions()

    @model_validator(mode="after")
    def _tokenizer_known(self) -> CaptioningOptions:
        if self.tokenizer is None and isinstance(self.decoder, DecoderShape):
            raise ValueError("tokenizer: needed, because the decoder is a shape and not a folder that holds one")
        return self

    @property
    def tokenizer_path(self) -> str:
        """Where the tokenizer lies."""
        return self.tokenizer if self.tokenizer is not None else str(self.decoder)
