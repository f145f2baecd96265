"""Questions about images and videos made ready for an exported model. Needs Pillow; videos come as frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from ...captioning.tokenizer import FolderTokenizer
from ..chat import VISUAL, PlainChat, TemplateChat
from .configuration_interlace_vlm import sight_of

#: A conversation: (question, answer), the last answer None.
Turns = Sequence[tuple[str, str | None]]


class InterlaceVlmProcessor(ProcessorMixin):
    """Text with an image, a video or nothing -> what the model takes; and its answers as text.

    ``sight``: how images and videos are looked at. ``plain``: conversations have no chat template.
    """

    attributes = ["tokenizer"]  # noqa: RUF012
    tokenizer_class = "AutoTokenizer"  # type: ignore[assignment]

    def __init__(
        self, tokenizer: Any = None, sight: dict[str, Any] | None = None, plain: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(tokenizer, **kwargs)
        if sight is None:
            raise ValueError("processor_config.json: no 'sight' object that says how images and videos are looked at")
        self.sight, self.plain = sight, plain
        self._sight, own = sight_of(sight), FolderTokenizer(tokenizer, str(tokenizer.name_or_path))
        self._chat = PlainChat(own) if plain else TemplateChat(own, tokenizer, str(tokenizer.name_or_path))

    def __call__(  # type: ignore[override]
        self,
        text: str | Turns | Sequence[str | Turns],
        images: Any = None,
        videos: Any = None,
        times: Any = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """The model's inputs, for a question or conversation, or a list of them.

        ``images``: a Pillow image or uint8 [H, W, 3], or a list with one, or None, for each text. ``videos``: a list of
        Pillow images or uint8 [T, H, W, 3], or a list with one, or None, for each. ``times``: seconds of a video's
        frames [T] (for several: a list), by which those that are looked at are chosen as in training; without, all
        are, and they may not be more than the model's most. Raises ValueError for what does not fit together.
        """
        if return_tensors != "pt":
            raise ValueError(f"processor: return_tensors {return_tensors!r}: allowed is 'pt'")
        conversations = _conversations(text)
        many = not (isinstance(text, str) or _is_conversation(text))
        clips = [self._frames(*given) for given in _visuals(images, videos, times, len(conversations), many)]
        looked = [self._sight.views(frames) for frames in clips]
        rows = []
        for turns, (views, size) in zip(conversations, looked, strict=True):
            visual = self._sight.visual_tokens(len(views), size)
            row = self._chat.row(turns, visual=visual > 0).tokens
            at = row.index(VISUAL) if visual else 0
            rows.append([*row[:at], *[VISUAL] * visual, *row[at + (visual > 0) :]])
        longest = max(len(row) for row in rows)
        pad = self._chat.tokenizer.pad
        return BatchFeature(
            {
                "input_ids": torch.tensor([[pad] * (longest - len(row)) + row for row in rows]),
                "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
                "pixel_values": torch.from_numpy(np.concatenate([views for views, _ in looked])),
                "view_counts": torch.tensor([len(views) for views, _ in looked]),
                "image_sizes": torch.tensor([size or (0, 0) for _, size in looked]),
            }
        )

    def answers(self, generated: Tensor) -> list[str]:
        """What the model says: text of each row of generated tokens [B, n], up to its end."""
        tokenizer = self._chat.tokenizer
        rows = [row[: row.index(tokenizer.eos)] if tokenizer.eos in row else row for row in generated.tolist()]
        return [tokenizer.decode(row).strip() for row in rows]

    def _frames(self, frames: np.ndarray, video: bool, times: Any) -> np.ndarray:
        """[T, H, W, 3] of those that are looked at."""
        if not video:
            return frames
        if times is not None:
            seconds = np.asarray(times, np.float64)
            if seconds.shape != (len(frames),) or (np.diff(seconds) < 0).any():
                raise ValueError(f"processor: times {list(seconds.shape)}: must be {len(frames)} ascending seconds")
            return frames[self._sight.chosen(seconds)]
        if len(frames) > self._sight.max_frames:
            raise ValueError(
                f"processor: a video of {len(frames)} frames, of which at most {self._sight.max_frames} are looked at; "
                "give their times in seconds, by which they are chosen"
            )
        return frames


def _is_conversation(text: Any) -> bool:
    return (
        bool(text)
        and all(isinstance(turn, (tuple, list)) and len(turn) == 2 for turn in text)
        and all(isinstance(turn[0], str) and (turn[1] is None or isinstance(turn[1], str)) for turn in text)
    )


def _conversations(text: Any) -> list[Turns]:
    listed = [text] if isinstance(text, str) or _is_conversation(text) else list(text)
    found: list[Turns] = [[(each, None)] if isinstance(each, str) else each for each in listed]
    wrong = [turns for turns in found if not _is_conversation(turns) or turns[-1][1] is not None]
    if wrong or not found:
        raise ValueError(
            "processor: text must be a question, a conversation [(question, answer), ..., (question, None)], or a list "
            "of these"
        )
    return found


def _visuals(images: Any, videos: Any, times: Any, count: int, many: bool) -> list[tuple[np.ndarray, bool, Any]]:
    """(frames [T, H, W, 3], whether a video, times) for each of ``count`` texts."""
    if images is not None and videos is not None:
        raise ValueError("processor: give images or videos, one of them")
    if images is None and videos is None:
        return [(np.zeros((0, 0, 0, 3), np.uint8), False, None)] * count
    video = videos is not None
    given = videos if video else images
    listed, seconds = (list(given), times) if many else ([given], [times])
    seconds = [None] * count if seconds is None else list(seconds)
    if (len(listed), len(seconds)) != (count, count):
        raise ValueError(f"processor: {count} texts, {len(listed)} images or videos and {len(seconds)} times")
    return [(_pixels(each, video), video, own) for each, own in zip(listed, seconds, strict=True)]


def _pixels(given: Any, video: bool) -> np.ndarray:
    """[T, H, W, 3] uint8 of an image or a video; no frames of None."""
    if given is None:
        return np.zeros((0, 0, 0, 3), np.uint8)
    if video and not isinstance(given, np.ndarray):
        return np.concatenate([_pixels(frame, False) for frame in given])
    if isinstance(given, Image.Image):
        given = np.array(given.convert("RGB"))
    axes = 4 if video else 3
    if not isinstance(given, np.ndarray) or given.dtype != np.uint8 or given.ndim != axes or given.shape[-1] != 3:
        found = f"{getattr(given, 'dtype', '')} {list(getattr(given, 'shape', []))}".strip()
        raise ValueError(
            f"processor: {type(given).__name__} {found}: allowed are Pillow images, uint8 arrays [H, W, 3], and of a "
            "video a list of these or uint8 [T, H, W, 3]"
        )
    return given if video else given[None]
