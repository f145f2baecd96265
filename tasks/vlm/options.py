"""What a recipe may say about a vision-language model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from interlace.data_recipes.schema import ExistingFolder, ExistingPath

from ..captioning.options import DecoderShape
from ..interface import TaskOptions


def _kind_of_llm(value: Any) -> str:
    return "folder" if isinstance(value, str) else "shape"


class VlmOptions(TaskOptions):
    """Options of :class:`~interlace.tasks.vlm.Vlm`. Table 12 is OmniStream's, appendix C.3."""

    #: folder of a ``transformers`` causal language model, or the shape of a new small one
    llm: Annotated[
        Annotated[ExistingFolder, Tag("folder")] | Annotated[DecoderShape, Tag("shape")], Discriminator(_kind_of_llm)
    ]
    #: folder of a ``transformers`` tokenizer with a chat template, or a SentencePiece ``.model``; None: the llm's
    tokenizer: ExistingPath | None = None
    trains: Literal["projector", "projector and llm"] = "projector and llm"  # table 12, "Trainable"
    size: int = Field(default=512, ge=1)  # pixels a side of a tile and of a video's frame
    #: (rows, columns) of tiles that an image may be cut into beside the whole of it; none: the whole alone
    grids: tuple[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], ...] = ()
    max_tiles: int = Field(default=4, ge=1)  # tokens of at most so many tiles; more are reduced bilinearly
    fps: float = Field(default=1.0, gt=0)  # frames of a video that are looked at, a second
    max_frames: int = Field(default=32, ge=1)  # of a video; where it has more, so many are spread over the whole of it
    pool: int = Field(default=2, ge=1)  # patches a side of a frame that are averaged into one token
    max_tokens: int = Field(default=32768, ge=4)  # of a whole conversation, visual ones included
    texts: int = Field(default=1, ge=1)  # questions about one sample that share its features in a draw, at most
    max_generated: int = Field(default=256, ge=1)  # tokens of a generated answer
    blind: bool = False  # the same without any image: what the questions alone give away

    @model_validator(mode="after")
    def _tokenizer_known(self) -> VlmOptions:
        if self.tokenizer is None and isinstance(self.llm, DecoderShape):
            raise ValueError("tokenizer: needed, because the llm is a shape and not a folder that holds one")
        return self

    @property
    def tokenizer_path(self) -> str:
        """Where the tokenizer lies."""
        return self.tokenizer if self.tokenizer is not None else str(self.llm)
