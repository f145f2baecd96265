"""A language model that sees through a frozen backbone (OmniStream sections 3.4 and C.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from interlace.backbone import Backbone, BackboneConfig
from interlace.data_recipes import Sample

from ..interface import Batch, Measure, Progress, TaskContext, TaskOptions, Term, swapped
from .chat import Row
from .language_task import LanguageTask
from .llm import answer_loss, generate
from .measures import MEANINGS, Blind, Question, accuracies, common_answers, questions_of
from .options import VlmOptions
from .pictures import draw_answers
from .prompts import conversation_of
from .sight import Sight, Size, look
from .video import watch

#: Questions that are answered together.
QUESTIONS = 32
#: Held-out samples whose answers are drawn.
PICTURED = 12


class Vlm(LanguageTask):
    """Answers about images and videos: patches of a frozen backbone, an MLP, a causal language model.

    An image is seen whole and in tiles, a video frame by frame through the streaming path. Answers alone are learned.
    """

    name: ClassVar[str] = "vlm"
    home: ClassVar[str] = "a run of task vlm that has ended, or a VLM that `interlace export` wrote"
    Options: ClassVar[type[TaskOptions]] = VlmOptions
    needs: ClassVar[frozenset[str]] = frozenset({"frames", "texts"})
    draws_from: ClassVar[frozenset[str]] = needs
    meanings: ClassVar[Mapping[str, str]] = MEANINGS

    options: VlmOptions

    def __init__(self, options: VlmOptions, context: TaskContext) -> None:
        super().__init__(options, context)
        #: how images and videos are looked at
        self.sight = Sight(
            size=options.size,
            side=options.size // context.backbone.patch_size,
            grids=options.grids,
            max_tiles=options.max_tiles,
            fps=options.fps,
            max_frames=options.max_frames,
            pool=options.pool,
            patch_positions=options.patch_positions,
            blind=options.blind,
        )
        if options.trains == "projector":
            self.llm.requires_grad_(False)

    @classmethod
    def tokens_per_sample(cls, options: VlmOptions, backbone: BackboneConfig) -> int:
        tiles = 1 + max((rows * columns for rows, columns in options.grids), default=0)
        return max(tiles, options.max_frames) * backbone.tokens_per_frame(options.size, options.size)

    def frame_indices(self, times: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """Those that :func:`~.video.look_at` looks at."""
        return self.sight.chosen(times)

    def item(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """A conversation about the sample as a row of tokens.

        A sample without a question, or with a row longer than ``max_tokens``, teaches nothing and is named.
        """
        turns, frame = conversation_of(sample, self.options.texts, rng)
        views, size = self.views(sample, frame)
        visual = self.visual_tokens(len(views), size)
        row = self.chat.row(turns, visual=visual > 0)
        if not turns:
            reason = "no question about the frames that are looked at"
        elif row.length(visual) > self.options.max_tokens:
            reason = f"{row.length(visual)} tokens, more than max_tokens = {self.options.max_tokens}"
        else:
            return {"views": views, "size": size, "row": row, "left_out": None}
        nothing = np.zeros((0, *views.shape[1:]), np.uint8)
        return {"views": nothing, "size": None, "row": None, "left_out": f"{sample.source}/{sample.key}: {reason}"}

    def collate(self, items: Sequence[dict[str, Any]]) -> Batch:
        """``views``: a sample's tiles or frames [n, 3, size, size] uint8 each; ``sizes``: (height, width) of images,
        None of videos; ``tokens``, ``learned``: rows; ``owner``: whose views a row sees. Never without a row."""
        rows = [(item["row"], index) for index, item in enumerate(items) if item["row"] is not None]
        if not rows:
            start = Row()
            start.add([self.chat.tokenizer.bos], learned=False)
            rows = [(start, -1)]
        return {
            "views": [torch.from_numpy(item["views"]) for item in items],
            "sizes": [item["size"] for item in items],
            "tokens": [row.tokens for row, _ in rows],
            "learned": [row.learned for row, _ in rows],
            "owner": [owner for _, owner in rows],
            "left_out": [item["left_out"] for item in items if item["left_out"]],
        }

    def losses(
        self, backbone: Backbone, batch: Batch, *, teacher: nn.Module | None, progress: Progress
    ) -> dict[str, Term]:
        """``tokens``: cross-entropy summed over answers' tokens, their ends included / how many they are.

        ValueError for a backbone that would be trained.
        """
        self.demand_frozen(backbone)
        self.count_left_out(batch["left_out"])
        seen, anchor = self.see(backbone, batch["views"], batch["sizes"])
        none = self.newline.new_zeros(0, len(self.newline))
        visual = [seen[owner] if owner >= 0 else none for owner in batch["owner"]]
        rows = [Row(*row) for row in zip(batch["tokens"], batch["learned"], strict=True)]
        loss, _ = answer_loss(self.llm, rows, visual)
        return {"tokens": Term(loss.sum() + anchor, torch.tensor(float(len(loss)), device=loss.device))}

    # ---- seeing

    def views(self, sample: Sample, frame: int) -> tuple[np.ndarray, Size]:
        """What is looked at of a sample up to ``frame``: see :meth:`Sight.views`."""
        frames = sample.frames
        if len(frames) > 1 and not self.sight.blind:
            return self.sight.views_of_video(frames[: frame + 1])
        return self.sight.views(frames)

    def visual_tokens(self, views: int, size: Size) -> int:
        """How many tokens :meth:`see` gives for them."""
        return self.sight.visual_tokens(views, size)

    def see(self, backbone: Backbone, views: Sequence[Tensor], sizes: Sequence[Size]) -> tuple[list[Tensor], Tensor]:
        """Visual tokens [V, E] of each sample's views, and a zero that depends on every parameter on the way."""
        return self.project(look(backbone, views, sizes, self.watch), sizes)

    def watch(self, backbone: Backbone, frames: Tensor) -> Tensor:
        """:func:`~.video.watch`, and nothing is watched twice where ``remember`` has room."""
        return self.recall(backbone, frames, watch)

    def project(self, patches: Sequence[Tensor], sizes: Sequence[Size]) -> tuple[list[Tensor], Tensor]:
        """Patches [n, h, w, D] of tiles or frames, n 0 of nothing, to visual tokens: see :meth:`see`."""
        grids, anchor = self.to_tokens(patches)
        return [self.sight.tokens(grid, size, self.newline) for grid, size in zip(grids, sizes, strict=True)], anchor

    # ---- answering

    @torch.no_grad()
    def answer(self, seen: Sequence[Tensor], conversations: Sequence[Sequence[tuple[str, str | None]]]) -> list[str]:
        """The most likely answer to each conversation's open last prompt, given its visual tokens [V, E]."""
        answers: list[str] = []
        for start in range(0, len(conversations), QUESTIONS):
            visual = seen[start : start + QUESTIONS]
            some = conversations[start : start + QUESTIONS]
            rows = [self.chat.row(turns, visual=len(v) > 0) for turns, v in zip(some, visual, strict=True)]
            tokenizer, limit = self.chat.tokenizer, self.options.max_generated
            answers += [tokenizer.decode(said).strip() for said in generate(self.llm, rows, visual, tokenizer, limit)]
        return answers

    def accept(self, sample: Sample) -> None:
        """A conversation need not be about anything that is seen."""

    def fit_blind(self, samples: Sequence[Sample]) -> Blind:
        """The most common answer to each prompt, and of each kind of question, on these samples."""
        return common_answers(samples)

    def evaluate(self, backbone: Backbone, samples: Sequence[Sample], blind: Blind) -> list[Measure]:
        """``accuracy_KIND`` of each kind of question: the greedy answer is exactly the true one.

        ``fixed`` is the most common answer to the prompt, ``swapped`` shows the sample half the list away. Open
        conversations and captions are not measured here.
        """
        questions = questions_of(samples)
        own = self.replies(backbone, samples, questions)
        return accuracies(len(samples), questions, own, self.replies(backbone, swapped(samples), questions), blind)

    def pictures(self, backbone: Backbone, samples: Sequence[Sample], folder: Path, label: str) -> list[Path]:
        """One sheet: frames with a question, the model's answer and the true one under them."""
        shown = samples[:PICTURED]
        every = questions_of(shown)
        of_sample = [[asked for asked in every if asked.sample == index] for index in range(len(shown))]
        chosen = [found[index % len(found)] for index, found in enumerate(of_sample) if found]
        if not chosen:
            return []
        path = folder / f"{label}_vlm.png"
        draw_answers(shown, chosen, self.replies(backbone, shown, chosen), path)
        return [path]

    def replies(self, backbone: Backbone, samples: Sequence[Sample], questions: Sequence[Question]) -> list[str]:
        """The answers to ``questions`` about the samples of their numbers, each sample's last frame seen once."""
        visual: dict[tuple[int, int], Tensor] = {}
        for asked in questions:
            place = (asked.sample, asked.text.frame)
            if place not in visual:
                visual[place] = self.look(backbone, samples[asked.sample], asked.text.frame)
        seen = [visual[asked.sample, asked.text.frame] for asked in questions]
        return self.answer(seen, [[(asked.text.prompt, None)] for asked in questions])

    @torch.no_grad()
    def look(self, backbone: Backbone, sample: Sample, frame: int) -> Tensor:
        """Visual tokens [V, E] of a whole sample up to ``frame``, its frames chosen as in training."""
        if len(sample.frames) > 1:
            chosen = self.sight.chosen(sample.times)
            frame = max(int(np.searchsorted(chosen, frame, side="right")) - 1, 0)
            sample = Sample(
                key=sample.key, source=sample.source, frames=sample.frames[chosen], times=sample.times[chosen]
            )
        views, size = self.views(sample, frame)
        return self.see(backbone, [torch.from_numpy(views).to(self.newline.device)], [size])[0][0]
