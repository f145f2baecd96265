"""What a recipe may say about a vision-language model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .language_task import LanguageOptions


class VlmOptions(LanguageOptions):
    """Options of :class:`~interlace.tasks.vlm.Vlm`. Table 12 is OmniStream's, appendix C.3."""

    trains: Literal["projector", "projector and llm"] = "projector and llm"  # table 12, "Trainable"
    size: int = Field(default=512, ge=1)  # pixels a side of a tile and of a video's frame
    #: (rows, columns) of tiles that an image may be cut into beside the whole of it; none: the whole alone
    grids: tuple[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], ...] = ()
    max_tiles: int = Field(default=4, ge=1)  # tokens of at most so many tiles; more are reduced bilinearly
    fps: float = Field(default=1.0, gt=0)  # frames of a video that are looked at, a second
    max_frames: int = Field(default=32, ge=1)  # of a video; where it has more, so many are spread over the whole of it
    pool: int = Field(default=2, ge=1)  # patches a side of a frame that are averaged into one token
    max_tokens: int = Field(default=32768, ge=4)  # of a whole conversation, visual ones included
    texts: int = Field(default=1, ge=1)  # questions about one sample that are turns of one conversation, at most
    max_generated: int = Field(default=256, ge=1)  # tokens of a generated answer
