"""A language model that sees through a frozen backbone and moves a robot (OmniStream sections 3.4 and C.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss

from interlace.backbone import Backbone, BackboneConfig, normalise
from interlace.data_recipes import DataError, Episode, Sample

from ..frames import resize
from ..interface import Batch, Measure, Progress, TaskContext, TaskOptions, Term, swapped
from ..vlm.chat import VISUAL, Row
from ..vlm.language_task import LanguageTask
from ..vlm.llm import embed, last_hidden
from ..vlm.positions import position_code
from ..vlm.tiles import pooled, with_newlines
from .head import ActionHead
from .measures import MEANINGS, Blind, action_measures, mean_actions, spread
from .options import BLANK, VlaOptions
from .standard import Standard


def glance(backbone: Backbone, frame: Tensor) -> Tensor:
    """Patches [h, w, D] of one frame [3, size, size] uint8, alone."""
    return backbone(normalise(frame[None, None])).patches[0, 0]


class Vla(LanguageTask):
    """The next actions of a robot: image tokens, the instruction, then one learnable query, which the head reads.

    The backbone is frozen; projector, language model with its embeddings, query and head are trained.
    """

    name: ClassVar[str] = "vla"
    home: ClassVar[str] = "a run of task vla that has ended"
    Options: ClassVar[type[TaskOptions]] = VlaOptions
    needs: ClassVar[frozenset[str]] = frozenset({"frames", "episode"})
    draws_from: ClassVar[frozenset[str]] = needs
    meanings: ClassVar[Mapping[str, str]] = MEANINGS
    parts: ClassVar[tuple[str, ...]] = (*LanguageTask.parts, "query", "head")
    begins_with: ClassVar[Mapping[str, tuple[str, ...]]] = {"vlm": LanguageTask.parts}

    options: VlaOptions

    def __init__(self, options: VlaOptions, context: TaskContext) -> None:
        super().__init__(options, context)
        self.scale = options.scale
        self.standard = Standard(context.backbone.hidden_size) if options.standardise else nn.Identity()
        width = len(self.newline)
        self.query = nn.Parameter(torch.zeros(width))  # VLM4VLA begins at zero
        self.head = ActionHead(width, options.head_size, options.chunk, self.scale.size - 1)

    @classmethod
    def tokens_per_sample(cls, options: VlaOptions, backbone: BackboneConfig) -> int:
        frames = options.looks if options.context == 1 else options.longest
        return frames * backbone.tokens_per_frame(options.size, options.size)

    def frame_indices(self, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The looks; with a stream everything before the last of them too, as a robot saw it."""
        if self.options.context == 1:
            return np.sort(rng.permutation(len(times))[: self.options.looks])
        return np.arange(1 + int(rng.integers(min(len(times), self.options.longest))))

    def item(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """Frames, which of them are looks, and the chunk of actions that follows each.

        An episode without an instruction teaches nothing and is named. DataError for actions of another width.
        """
        episode = self._episode(sample)
        count = len(sample.frames)
        looks = np.arange(count)
        if self.options.context > 1:
            others = rng.permutation(count - 1)[: self.options.looks - 1]
            looks = np.sort(np.append(others, count - 1))
        return self.prepared(sample, looks if episode.instruction else looks[:0])

    def prepared(self, sample: Sample, looks: np.ndarray) -> dict[str, Any]:
        """An item of these looks, indices of the sample's frames."""
        episode = self._episode(sample)
        actions, mask = self.chunks(episode, episode.steps[looks])
        size = self.options.size
        return {
            "frames": resize(sample.frames, (size, size)),
            "looks": looks,
            "actions": actions,
            "mask": mask,
            "row": self.row(episode.instruction),
            "left_out": None if episode.instruction else f"{sample.source}/{sample.key}: no instruction",
        }

    def chunks(self, episode: Episode, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Normalised actions [n, chunk, A] from each step on, and which of them there are [n, chunk] bool.

        Past the end of the episode the last action is repeated, and not learned.
        """
        at = steps[:, None] + np.arange(self.options.chunk)
        last = len(episode.actions) - 1
        return self.scale.normalise(episode.actions[np.minimum(at, last)]), at <= last

    def row(self, instruction: str) -> Row:
        """The prompt as tokens, the image's place among them; the query is no token and comes after them."""
        prompt = self.options.prompt.replace(BLANK, instruction)
        row = self.chat.row([(prompt, None)], visual=not self.options.blind)
        if self.options.image_last:
            row.tokens.sort(key=lambda token: token == VISUAL)  # stable: the words keep their order
        return row

    def collate(self, items: Sequence[dict[str, Any]]) -> Batch:
        """``frames``: [n, 3, size, size] uint8 each; ``looks``; ``tokens`` of each look; ``actions``
        [R, chunk, A] float32, ``mask`` [R, chunk] bool. Never without a row: one that counts nothing if need be."""
        rows = [item["row"].tokens for item in items for _ in item["looks"]]
        actions, mask = (np.concatenate([item[name] for item in items]) for name in ("actions", "mask"))
        if not rows:
            rows = [[self.chat.tokenizer.bos]]
            actions = np.zeros((1, self.options.chunk, self.scale.size), np.float32)
            mask = np.zeros((1, self.options.chunk), bool)
        return {
            "frames": [torch.from_numpy(item["frames"]) for item in items],
            "looks": [item["looks"].tolist() for item in items],
            "tokens": rows,
            "actions": torch.from_numpy(actions),
            "mask": torch.from_numpy(mask),
            "left_out": [item["left_out"] for item in items if item["left_out"]],
        }

    def losses(
        self, backbone: Backbone, batch: Batch, *, teacher: nn.Module | None, progress: Progress
    ) -> dict[str, Term]:
        """``arm``: Huber loss / numbers of the arm's actions; ``gripper``: binary cross-entropy / actions.

        ValueError for a backbone that would be trained.
        """
        self.demand_frozen(backbone)
        self.count_left_out(batch["left_out"])
        seen = [self.features(backbone, *pair) for pair in zip(batch["frames"], batch["looks"], strict=True)]
        arm, gripper = self.act([Row(tokens) for tokens in batch["tokens"]], torch.cat(seen))
        mask, actions = batch["mask"], batch["actions"]
        huber = huber_loss(arm.float(), actions[..., :-1], reduction="none", delta=self.options.huber_delta)
        entropy = binary_cross_entropy_with_logits(gripper.float(), actions[..., -1], reduction="none")
        steps = mask.sum().float()
        return {
            "arm": Term((huber * mask[..., None]).sum(), steps * huber.shape[-1]),
            "gripper": Term((entropy * mask).sum(), steps, self.options.gripper_weight),
        }

    # ---- seeing and acting, the same in training and control

    def features(self, backbone: Backbone, frames: Tensor, looks: Sequence[int]) -> Tensor:
        """Patches [n, h, w, D] of the looks at ``frames`` [T, 3, size, size] uint8, which begin where the episode does.

        With a context of 1 each look sees its image alone, by itself as in control. With more, every frame up to the
        last look enters a stream.
        """
        side = self.options.size // self.context.backbone.patch_size
        if self.options.blind or not len(looks):
            return torch.zeros(len(looks), side, side, self.context.backbone.hidden_size, device=frames.device)
        if self.options.context == 1:
            return torch.stack([self.recall(backbone, frames[look], glance) for look in looks])
        with backbone.stream(1, self.options.size, self.options.size, window=self.options.context) as stream:
            found = [stream(frame[None, None]).patches[0, 0] for frame in frames[: max(looks) + 1]]
        return torch.stack([found[look] for look in looks])

    def act(self, rows: Sequence[Row], patches: Tensor) -> tuple[Tensor, Tensor]:
        """Arm [R, chunk, A - 1] in -1...1 and the gripper's logits [R, chunk], of prompts and patches [R, h, w, D].

        A batch's one row that counts nothing has no patches: what is computed depends on every parameter all the same.
        """
        (grid,), anchor = self.to_tokens([self.standard(patches)])
        if self.options.patch_positions:
            grid = grid + position_code(grid)
        nowhere = self.newline.new_zeros(0, len(self.newline))
        visual = [with_newlines(each, self.newline) for each in pooled(grid, self.options.pool)] or [nowhere]
        inputs = [torch.cat((row, self.query[None])) for row in embed(self.llm, rows, visual)]
        hidden = last_hidden(self.llm, inputs)
        ends = torch.tensor([len(each) - 1 for each in inputs], device=hidden.device)
        arm, gripper = self.head(hidden[torch.arange(len(ends), device=hidden.device), ends] + anchor)
        return arm, gripper

    @torch.no_grad()
    def predict(self, instruction: str, patches: Tensor) -> np.ndarray:
        """[n, chunk, A] float32 as the robot is told, the gripper 0 or 1, of looks' patches [n, h, w, D]."""
        arm, gripper = self.act([self.row(instruction)] * len(patches), patches)
        actions = torch.cat((arm.float(), (gripper > 0).float()[..., None]), -1)
        return self.scale.restore(actions.cpu().numpy())

    # ---- measuring

    @torch.no_grad()
    def measure_inputs(self, backbone: Backbone, samples: Sequence[Sample]) -> None:
        """Mean and deviation of every channel, for option ``standardise``."""
        if isinstance(self.standard, Standard):
            seen = [self._glances(backbone, sample, spread(len(sample.frames))) for sample in samples]
            self.standard.measure(torch.cat(seen))

    def accept(self, sample: Sample) -> None:
        """Its actions must be of this policy's width."""
        super().accept(sample)
        self._episode(sample)

    def fit_blind(self, samples: Sequence[Sample]) -> Blind:
        """The mean action of each instruction, and of all."""
        return mean_actions([self._episode(sample) for sample in samples], self.scale)

    def evaluate(self, backbone: Backbone, samples: Sequence[Sample], blind: Blind) -> list[Measure]:
        """``arm_error``: mean absolute error of the arm's actions in -1...1; ``gripper_accuracy``: share that is right.

        Over the chunks after steps spread over an episode. ``fixed`` is the instruction's mean action, ``swapped``
        the same steps of the sample half the list away.
        """
        own, others, fixed, truth = [], [], [], []
        for sample, other in zip(samples, swapped(samples), strict=True):
            episode = self._episode(sample)
            looks = spread(len(sample.frames))
            truth.append(self.chunks(episode, episode.steps[looks]))
            own.append(self._replies(backbone, sample, looks, episode.instruction))
            others.append(self._replies(backbone, other, spread(len(other.frames), len(looks)), episode.instruction))
            fixed.append(np.broadcast_to(blind.action(episode.instruction), own[-1].shape))
        return action_measures(truth, own, fixed, others)

    def _replies(self, backbone: Backbone, sample: Sample, looks: np.ndarray, instruction: str) -> np.ndarray:
        """[n, chunk, A], normalised; the arm NaN without an instruction."""
        actions = self.scale.normalise(self.predict(instruction, self._glances(backbone, sample, looks)))
        return actions if instruction else np.full_like(actions, np.nan)

    def _glances(self, backbone: Backbone, sample: Sample, looks: np.ndarray) -> Tensor:
        """Patches [n, h, w, D] of these looks at a whole sample."""
        frames = torch.from_numpy(self.prepared(sample, looks)["frames"]).to(backbone.norm.weight.device)
        return self.features(backbone, frames, looks.tolist())

    def _episode(self, sample: Sample) -> Episode:
        episode = sample.episode
        if episode is None or episode.actions.shape[1] != self.scale.size:
            found = "none" if episode is None else str(episode.actions.shape[1])
            raise DataError(
                f"vla: {sample.source}/{sample.key} has actions of {found} numbers, this policy's have "
                f"{self.scale.size} (options low and high, and the gripper)"
            )
        if not np.isfinite(episode.actions).all():
            raise DataError(f"vla: {sample.source}/{sample.key}: an action is not finite")
        return episode
