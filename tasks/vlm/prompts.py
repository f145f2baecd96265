"""From a sample's texts to a conversation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interlace.data_recipes import DataError, Sample, Text

from ..captioning.boxes import place_boxes
from ..captioning.texts import draw_texts

#: The kind of a text that is one turn of a conversation; its sample's others, in their order, are the others.
TURN = "turn"
#: A box's side is written as a whole number up to this, where a text has boxes.
BINS = 1000

Turns = Sequence[tuple[str, str | None]]


def conversation_of(sample: Sample, most: int, rng: np.random.Generator) -> tuple[Turns, int]:
    """What is learned in one draw of a sample, and the last frame that may be seen.

    Texts of kind "turn" are one conversation about all frames. Of others a random one and up to ``most`` - 1 more
    about the same frame are drawn, a turn each: LLaVA-1.5 too asks all questions about an image in one conversation,
    whose visual tokens are then read once. Empty without a text. DataError for boxes that do not fit their words.
    """
    last = max(len(sample.frames) - 1, 0)
    turns = [text for text in sample.texts if text.kind == TURN]
    if turns:
        return [(text.prompt, text.answer) for text in turns], last
    drawn = draw_texts(sample.texts, most, rng)
    try:
        return [written(text) for text in drawn], drawn[0].frame if drawn else last
    except ValueError as error:
        raise DataError(f"source {sample.source!r}, sample {sample.key!r}: {error}") from None


def written(text: Text) -> tuple[str, str]:
    """Prompt and answer of a text, with its boxes written in."""
    return place_boxes(text, BINS) if len(text.boxes) else (text.prompt, text.answer)
