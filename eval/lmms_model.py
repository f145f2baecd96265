"""A run of task ``vlm`` as a model of lmms-eval, which alone imports this module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from lmms_eval.api.model import lmms
from PIL import Image
from tqdm import tqdm

from interlace.data_recipes import Sample
from interlace.tasks.vlm.llm import generate
from interlace.tasks.vlm.reading import nothing, of_image, read_video, seen
from interlace.tasks.vlm.saved import load_vlm

from .frozen import frozen


class InterlaceModel(lmms):
    """Greedy answers about one image, one video or nothing: ``--model interlace --model_args pretrained=RUN``.

    ``pretrained``: a run's folder, or an exported one. ``backbone``: where its backbone is, if it was moved.
    Under ``accelerate launch`` every process answers its share.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "",
        backbone: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if not pretrained:
            raise ValueError("interlace: say which run: --model_args pretrained=RUN")
        if int(batch_size) != 1 or max_batch_size not in (None, 1):
            raise ValueError(f"interlace: --batch_size {batch_size}: answers are computed one by one; allowed is 1")
        state = PartialState()
        self._rank, self._world_size = state.process_index, state.num_processes
        cuda = f"cuda:{state.local_process_index}" if torch.cuda.is_available() else "cpu"
        self._name = pretrained
        self._task, self._eyes = load_vlm(pretrained, backbone)
        self._task.to(device or cuda)
        self._eyes.to(device or cuda)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers to questions; ValueError for one about several images, or where they are not to be greedy."""
        answers = []
        with frozen(self._eyes, self._name):
            for request in tqdm(requests, disable=self.rank != 0, desc="interlace"):
                question, settings, visual_of, number, task, split = request.args
                sample = self._sample(visual_of(self.task_dict[task][split][number]), task)
                answers.append(self._answer(question, sample, settings, task))
                self.cache_hook.add_partial("generate_until", (question, settings), answers[-1])
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not computed: ValueError."""
        raise ValueError("interlace: answers are generated; tasks that ask for likelihoods cannot be measured")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not computed: ValueError."""
        raise ValueError("interlace: questions are answered one at a time; tasks of several rounds cannot be measured")

    def _sample(self, visuals: Any, task: str) -> Sample:
        """What one question is about."""
        flat = list(_flat(visuals))
        if len(flat) > 1:
            raise ValueError(f"interlace: task {task} shows {len(flat)} images or videos at once; allowed is one")
        if not flat:
            return nothing()
        (visual,) = flat
        if isinstance(visual, Image.Image):
            return of_image(np.array(visual.convert("RGB")), task)
        if isinstance(visual, (str, Path)):
            return read_video(Path(visual), self._task.options.fps, self._task.options.max_frames)
        raise ValueError(f"interlace: task {task} shows a {type(visual).__name__}; allowed are images and video files")

    def _answer(self, question: str, sample: Sample, settings: Mapping[str, Any], task: str) -> str:
        if settings.get("do_sample") or settings.get("num_beams", 1) != 1:
            raise ValueError(f"interlace: task {task} asks for sampling or beams; answers are greedy")
        limit = int(settings.get("max_new_tokens") or self._task.options.max_generated)
        visual = seen(self._task, self._eyes, sample)
        row = self._task.chat.row([(question, None)], visual=len(visual) > 0)
        (said,) = generate(self._task.llm, [row], [visual], self._task.chat.tokenizer, limit)
        return until(self._task.chat.tokenizer.decode(said), settings.get("until"))


def until(text: str, stops: str | Sequence[str] | None) -> str:
    """``text`` up to the first of ``stops`` in it."""
    for stop in [stops] if isinstance(stops, str) else stops or ():
        text = text.partition(stop)[0] if stop else text
    return text.strip()


def _flat(visuals: Any) -> Iterable[Any]:
    if isinstance(visuals, (list, tuple)):
        for each in visuals:
            yield from _flat(each)
    elif visuals is not None:
        yield visuals
