"""Vision-language alignment: a language decoder that reads the backbone's patches (OmniStream section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from interlace.backbone import Backbone, BackboneConfig, BackboneNoise, normalise
from interlace.data_recipes import Sample, Text

from ..blank import blank
from ..frames import resize
from ..interface import Batch, Measure, Progress, Task, TaskContext, TaskOptions, Term, swapped
from .blind import Blind, count_answers, fit_text_only, median_box
from .decoder import answer_loss, batch_rows, build_decoder, check_folder, no_visual, projector
from .measures import MEANINGS, ask, measures
from .options import CaptioningOptions
from .pictures import draw
from .texts import Question, Row, draw_texts, question, questions_of
from .tokenizer import read_tokenizer

#: Held-out samples whose answers are drawn.
PICTURED = 12


class Captioning(Task):
    """Caption, OCR and grounding questions, answered by a Qwen3 decoder whose gradients reach the backbone.

    The decoder reads all last-layer patches of ``options.frames`` frames, the last of which is the one that the text
    speaks of, through a two-layer MLP; then the prompt; and learns the answer.
    """

    name: ClassVar[str] = "captioning"
    Options: ClassVar[type[TaskOptions]] = CaptioningOptions
    needs: ClassVar[frozenset[str]] = frozenset({"frames", "texts"})
    draws_from: ClassVar[frozenset[str]] = needs
    meanings: ClassVar[Mapping[str, str]] = MEANINGS

    def __init__(self, options: CaptioningOptions, context: TaskContext) -> None:
        super().__init__(options, context)
        self.options = options
        self.tokenizer = read_tokenizer(options.tokenizer_path)
        self.decoder: Any = build_decoder(options.decoder, self.tokenizer)
        self.projector: nn.Module = projector(context.backbone.hidden_size, self.decoder.config.hidden_size)

    @classmethod
    def check(cls, options: CaptioningOptions, backbone: BackboneConfig) -> list[tuple[str, str]]:
        """A size that no patch divides; a decoder or a tokenizer that is not there."""
        wrong = []
        if options.size % backbone.patch_size:
            wrong.append(("size", f"allowed is a multiple of backbone.patch_size = {backbone.patch_size}"))
        if isinstance(options.decoder, str) and (missing := check_folder(options.decoder)):
            wrong.append(("decoder", missing))
        path = Path(options.tokenizer_path)
        if not (path.is_dir() or (path.suffix == ".model" and path.is_file())):
            named = "tokenizer" if options.tokenizer is not None else "decoder"
            wrong.append((named, "allowed is a transformers tokenizer's folder or a SentencePiece .model file"))
        return wrong

    @classmethod
    def tokens_per_sample(cls, options: CaptioningOptions, backbone: BackboneConfig) -> int:
        return options.frames * backbone.tokens_per_frame(options.size, options.size)

    def largest_sample(self, still: bool) -> Sample:
        """Its texts are as long as ``max_tokens`` allows."""
        text = Text(kind="caption", prompt="", answer="a " * self.options.max_tokens, frame=0)
        return blank(1 if still else self.options.frames, texts=[text] * self.options.texts)

    def item(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """A random text of the sample and others about the same frame, as tokens, and the frames they need."""
        texts = draw_texts(sample.texts, self.options.texts, rng)
        return {
            "frames": self.clip(sample, texts[0].frame if texts else 0),
            "rows": [question(self.tokenizer, self.options, sample, 0, text).row for text in texts],
            "noise": BackboneNoise.draw(self.context.backbone, [rng]),
        }

    def collate(self, items: Sequence[dict[str, Any]]) -> Batch:
        """``frames`` [B, T, 3, size, size] uint8; ``tokens`` [B, K, L] int64 and ``answer`` [B, K, L] bool, K texts a
        sample; a text that is lacking is a row without answer tokens. A rank without samples gets a black one without
        texts."""
        items = items or [self._nothing()]
        lacking = Row([self.tokenizer.bos], [])
        rows = [(item["rows"] + [lacking] * self.options.texts)[: self.options.texts] for item in items]
        tokens, answer = batch_rows([row for texts in rows for row in texts], self.tokenizer.pad)
        shape = (len(items), self.options.texts, -1)
        return {
            "frames": torch.from_numpy(np.stack([item["frames"] for item in items])),
            "tokens": tokens.view(shape),
            "answer": answer.view(shape),
            "noise": BackboneNoise.cat([item["noise"] for item in items]),
        }

    def _nothing(self) -> dict[str, Any]:
        size, noise = self.options.size, BackboneNoise.draw(self.context.backbone, [np.random.default_rng(0)])
        return {"frames": np.zeros((self.options.frames, 3, size, size), np.uint8), "rows": [], "noise": noise}

    def losses(
        self, backbone: Backbone, batch: Batch, *, teacher: nn.Module | None, progress: Progress
    ) -> dict[str, Term]:
        """``tokens``: cross-entropy summed over answer tokens, end-of-text included / how many they are."""
        visual = self.look(backbone, batch["frames"], batch["noise"])
        # Rows without an answer cost nothing; one is kept so that every rank runs the decoder.
        sample, text = batch["answer"].any(-1).nonzero(as_tuple=True)
        if not len(sample):
            sample, text = sample.new_zeros(1), text.new_zeros(1)
        loss, _ = answer_loss(
            self.decoder, visual[sample], batch["tokens"][sample, text], batch["answer"][sample, text]
        )
        return {"tokens": Term(loss.sum(), torch.tensor(float(len(loss)), device=loss.device))}

    def accept(self, sample: Sample) -> None:
        """Every text must be one that can be asked: see :func:`~.texts.question`."""
        super().accept(sample)
        questions_of(self.tokenizer, self.options, [sample], per_kind=None)

    def fit_blind(self, samples: Sequence[Sample]) -> Blind:
        """A decoder like the task's trained on these samples' texts alone, the most common OCR answers, and the
        median box."""
        questions = questions_of(self.tokenizer, self.options, samples, per_kind=None)
        with torch.random.fork_rng():
            torch.manual_seed(self.context.seed)
            decoder: Any = build_decoder(self.options.decoder, self.tokenizer)
        decoder = fit_text_only(
            decoder.to(self.context.device), questions, samples, self.options.blind, self.context.seed
        )
        answers, common = count_answers(questions)
        return Blind(decoder, answers, common, median_box(questions))

    def evaluate(self, backbone: Backbone, samples: Sequence[Sample], blind: Blind) -> list[Measure]:
        """``token_ce`` (over a sample's answer tokens), ``ocr_match`` (the greedy answer is exactly the true one) and
        ``box_iou`` (of the boxes in the greedy answer).

        A sample is asked up to ``evaluate_per_kind`` texts of each kind. ``fixed`` is the text-only decoder or, where
        that is better in the mean, the most common answer to the prompt or the median box; ``swapped`` shows the frames
        of the sample half the list away.
        """
        questions = questions_of(self.tokenizer, self.options, samples, self.options.evaluate_per_kind)

        def replies(decoder: Any, visual: Any) -> Any:
            return ask(
                decoder,
                self.tokenizer,
                questions,
                visual,
                generate=lambda asked: asked.text.kind != "caption",
                limit=self.options.max_generated,
            )

        others = swapped(samples)
        own = replies(self.decoder, lambda chunk: self._see(backbone, chunk, samples))
        of_others = replies(self.decoder, lambda chunk: self._see(backbone, chunk, others))
        text_only = replies(blind.decoder, lambda chunk: no_visual(blind.decoder, len(chunk)))
        return measures(len(samples), questions, own, of_others, text_only, blind, self.options.box_bins)

    def pictures(self, backbone: Backbone, samples: Sequence[Sample], folder: Path, label: str) -> list[Path]:
        """One sheet: frames with the question, the greedy and the true answer under them, and both's boxes."""
        shown = samples[:PICTURED]
        every = questions_of(self.tokenizer, self.options, shown, per_kind=1)
        # One question a picture, the kinds taking turns.
        of_sample = [[asked for asked in every if asked.sample == index] for index in range(len(shown))]
        questions = [found[index % len(found)] for index, found in enumerate(of_sample) if found]
        if not questions:
            return []
        replies = ask(
            self.decoder,
            self.tokenizer,
            questions,
            lambda chunk: self._see(backbone, chunk, shown),
            generate=lambda asked: True,
            limit=self.options.max_generated,
        )
        frames = [shown[asked.sample].frames[asked.text.frame] for asked in questions]
        path = folder / f"{label}_captioning.png"
        draw(frames, questions, [reply.text for reply in replies], self.options.box_bins, path)
        return [path]

    def clip(self, sample: Sample, frame: int) -> np.ndarray:
        """[T, 3, size, size] uint8: the frames up to ``frame``; before the sample's first one it stands still."""
        wanted = np.maximum(np.arange(frame - self.options.frames + 1, frame + 1), 0)
        return resize(sample.frames[wanted], (self.options.size, self.options.size))

    def look(self, backbone: Backbone, frames: Tensor, noise: BackboneNoise | None = None) -> Tensor:
        """Visual tokens [B, T * h * w, E] of frames [B, T, 3, H, W] uint8, frame by frame, row by row."""
        patches = backbone(normalise(frames), noise=noise).patches
        return self.projector(patches.flatten(1, 3))

    def _see(self, backbone: Backbone, chunk: Sequence[Question], samples: Sequence[Sample]) -> Tensor:
        """The visual tokens of each question's frame, or of the nearest frame of a shorter clip, each encoded once."""
        views = [(asked.sample, min(asked.text.frame, len(samples[asked.sample].frames) - 1)) for asked in chunk]
        distinct = list(dict.fromkeys(views))
        frames = torch.from_numpy(np.stack([self.clip(samples[index], frame) for index, frame in distinct]))
        visual = self.look(backbone, frames.to(self.context.device))
        return visual[[distinct.index(view) for view in views]]
