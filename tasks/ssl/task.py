"""Self-supervision: a student that sees less agrees with a teacher that moves slowly (OmniStream 3.3, appendix A)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from interlace.backbone import Backbone, BackboneConfig, normalise
from interlace.backbone.weights import build
from interlace.data_recipes import Sample

from ..blank import blank
from ..collectives import gather_rows, sum_over_ranks
from ..frames import choose_frames
from ..interface import Batch, Measure, Progress, Task, TaskContext, Term
from . import losses, measures, options, pictures
from .batch import GROUPS, Item, collate, make_item
from .heads import DinoHead
from .options import GLOBAL_CROPS, SslOptions
from .scores import sinkhorn

#: The groups of a batch that go through the backbone, by name: see :func:`.batch.stack`.
Groups = dict[str, dict[str, Any]]


class Teacher(nn.Module):
    """``backbone`` and ``heads`` follow the student; ``gram``, which has the initial weights, never changes."""

    def __init__(self, backbone: Backbone, heads: dict[str, DinoHead], gram: Backbone | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)
        self.gram = gram


def gram_teacher(backbone: Backbone, kind: Literal["dinov3", "backbone"]) -> Backbone:
    """A copy of ``backbone``, or its weights in DINOv3's image model: two-dimensional positions, no camera token.

    A streaming backbone that begins with DINOv3's weights is not DINOv3 yet: at the one time of an image, the quarter
    of the angles that it gave to time turns nothing, and the camera token is drawn at random.
    """
    if kind == "backbone":
        return copy.deepcopy(backbone)
    state = {name: weight.detach().clone() for name, weight in backbone.state_dict().items()}
    state.pop("embedding.camera_token", None)
    return build(replace(backbone.config, rope="image", camera_token=False), state)


@dataclass(frozen=True)
class Tokens:
    """What a backbone makes of one kind of crop of this rank's n samples; no dummy's features are left.

    ``cls`` [n, crops, D], the mean over frames, group after group; ``patches`` [n of the group * crops, T * h * w, D]
    by group.
    """

    cls: Tensor
    patches: dict[str, Tensor]

    def masked(self, groups: Groups) -> Tensor:
        """[m, D] the patches that the masks hide from the student, group after group."""
        return torch.cat([self.patches[name].flatten(0, 1)[group["masked"]] for name, group in groups.items()])


def encode(backbone: nn.Module, groups: Groups, crop: Literal["global", "local"], *, student: bool) -> Tokens:
    """Each group's crops through the backbone; only the student has masks (on global crops) and noise."""
    cls, patches = [], {}
    for name, group in groups.items():
        inputs = {"noise": group[f"{crop}_noise"]} if student else {}
        if student and crop == "global":
            inputs["mask"] = group["mask"]
        features = backbone(normalise(group[crop]), **inputs)
        crops = len(group[crop]) // max(group["count"], 1)
        cls.append(features.cls.mean(dim=1).unflatten(0, (-1, crops))[: group["count"]])
        patches[name] = features.patches.flatten(1, 3)[: group["count"] * crops]
    return Tokens(torch.cat(cls), patches)


class Ssl(Task):
    """DINO, iBOT, KoLeo and Gram anchoring on crops of images and clips.

    A batch holds a group of images and a group of clips (:mod:`.batch`). Ranks may have different numbers of each;
    a group that is empty on this rank only goes through the backbone as a dummy, whose features are then dropped, so
    that all ranks run the same modules. A group that is empty on all ranks is left out by all.
    """

    name: ClassVar[str] = "ssl"
    Options: ClassVar[type[SslOptions]] = SslOptions
    needs: ClassVar[frozenset[str]] = frozenset({"frames"})
    meanings: ClassVar[Mapping[str, str]] = measures.MEANINGS
    references: ClassVar[frozenset[str]] = measures.REFERENCES

    def __init__(self, options: SslOptions, context: TaskContext) -> None:
        super().__init__(options, context)
        self.options = options
        width = context.backbone.hidden_size
        hidden = options.head_hidden or 2 * width
        self.dino_head = DinoHead(width, hidden, options.head_bottleneck, options.dino_prototypes)
        self.ibot_head = DinoHead(width, hidden, options.head_bottleneck, options.ibot_prototypes)
        self._watched: dict[str, Tensor] = {}

    @classmethod
    def check(cls, options_: SslOptions, backbone: BackboneConfig) -> list[tuple[str, str]]:
        return options.check(options_, backbone)

    @classmethod
    def tokens_per_sample(cls, options_: SslOptions, backbone: BackboneConfig) -> int:
        return options.tokens_per_sample(options_, backbone)

    def frame_indices(self, times: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        count = self.options.frames
        return choose_frames(len(times), count, rng) if len(times) > count else None

    def largest_sample(self, still: bool) -> Sample:
        return blank(1 if still else self.options.frames)

    def item(self, sample: Sample, rng: np.random.Generator) -> Item:
        return make_item(sample, self.options, self.context.backbone, rng)

    def collate(self, items: Sequence[Item]) -> Batch:
        return collate(items, self.options, self.context.backbone)

    def build_teacher(self, backbone: Backbone) -> Teacher:
        heads = {"dino_head": copy.deepcopy(self.dino_head), "ibot_head": copy.deepcopy(self.ibot_head)}
        gram = gram_teacher(backbone, self.options.gram_teacher) if self.options.gram else None
        return Teacher(copy.deepcopy(backbone), heads, gram).requires_grad_(False)

    def momentum(self, progress: Progress) -> float:
        """Cosine from ``momentum`` to ``final_momentum`` over the run."""
        start, end = self.options.momentum, self.options.final_momentum
        return end - (end - start) * (1 + math.cos(math.pi * progress.step / progress.steps)) / 2

    def teacher_temperature(self, progress: Progress) -> float:
        """Linear from ``teacher_temperature`` to the final one within ``temperature_warmup`` of the run."""
        start, end = self.options.teacher_temperature, self.options.final_teacher_temperature
        steps = self.options.temperature_warmup * progress.steps
        return end if progress.step >= steps else start + (end - start) * progress.step / steps

    def losses(
        self, backbone: Backbone, batch: Batch, *, teacher: nn.Module | None, progress: Progress
    ) -> dict[str, Term]:
        if teacher is None:
            raise ValueError("ssl needs the teacher that its build_teacher made, found none")
        teacher = cast(Teacher, teacher)
        o, groups, temperature = self.options, self._present(batch), self.teacher_temperature(progress)
        seen = encode(backbone, groups, "global", student=True)
        local = encode(backbone, groups, "local", student=True)
        with torch.no_grad():
            whole = encode(teacher.backbone, groups, "global", student=False)
        rows, offset = gather_rows(losses.full_precision(seen.cls))
        self._watched["features"] = rows.detach()

        terms = {
            "dino": replace(self._dino(seen, local, whole, teacher, temperature), weight=o.dino_weight),
            "ibot": replace(self._ibot(seen, whole, groups, teacher, temperature), weight=o.ibot_weight),
            "koleo": replace(losses.koleo(rows, offset, len(seen.cls)), weight=o.koleo_weight),
        }
        if teacher.gram is not None:
            terms["gram"] = replace(self._gram(seen, groups, teacher.gram), weight=o.gram_weight)
        return terms

    def _present(self, batch: Batch) -> Groups:
        """The groups of which some rank has a sample."""
        device = batch[GROUPS[0]]["global"].device
        counts = sum_over_ranks(torch.tensor([batch[name]["count"] for name in GROUPS], device=device))
        return {name: batch[name] for name, count in zip(GROUPS, counts.tolist(), strict=True) if count}

    def _dino(self, seen: Tokens, local: Tokens, whole: Tokens, teacher: Teacher, temperature: float) -> Term:
        scores = self.dino_head(torch.cat([seen.cls, local.cls], dim=1).transpose(0, 1))  # crop first
        with torch.no_grad():
            taught = teacher.heads["dino_head"](whole.cls.transpose(0, 1))
        targets = sinkhorn(taught, temperature, self.options.sinkhorn_iterations)
        self._watched["entropy"] = sum_over_ranks(targets.entropy())
        return losses.dino(scores, targets, self.options.student_temperature)

    def _ibot(self, seen: Tokens, whole: Tokens, groups: Groups, teacher: Teacher, temperature: float) -> Term:
        scores = self.ibot_head(seen.masked(groups)[None])
        with torch.no_grad():
            taught = teacher.heads["ibot_head"](whole.masked(groups)[None])
        targets = sinkhorn(taught, temperature, self.options.sinkhorn_iterations)
        weights = torch.cat([group["weight"] for group in groups.values()])
        return losses.ibot(scores, targets, weights, len(seen.cls) * GLOBAL_CROPS, self.options.student_temperature)

    def _gram(self, seen: Tokens, groups: Groups, gram: nn.Module) -> Term:
        images = {name: group for name, group in groups.items() if name == "image"}
        if not images:
            return Term(seen.cls[:0].sum(), seen.cls.new_zeros(()))
        with torch.no_grad():
            anchor = encode(gram, images, "global", student=False)
        return losses.gram(seen.patches["image"], anchor.patches["image"])

    def signals(self) -> dict[str, Tensor]:
        """Of the last micro-batch, all ranks: spread of the student's CLS, entropy in nats of the teacher's targets.

        Collapse shows as ``feature_std`` near 0 (1 is isotropic), ``feature_rank`` near 1, or ``teacher_entropy`` at
        the logarithm of the prototypes' number.
        """
        if not self._watched:
            return {}
        features, (entropy, rows) = self._watched["features"].flatten(0, 1), self._watched["entropy"]
        return {
            "feature_std": measures.feature_std(features),
            "feature_rank": measures.effective_rank(features),
            "teacher_entropy": entropy / rows,
        }

    def fit_blind(self, samples: Sequence[Sample]) -> measures.Bank:
        """Training samples for the nearest neighbours, and the commonest class of each label among them."""
        return measures.Bank.of(samples, self.options)

    def evaluate(self, backbone: Backbone, samples: Sequence[Sample], blind: measures.Bank) -> list[Measure]:
        """k-NN accuracy over labels, on features and on pixels: see :func:`.measures.nearest_neighbours`."""
        return measures.nearest_neighbours(backbone, samples, blind, self.options)

    def pictures(self, backbone: Backbone, samples: Sequence[Sample], folder: Path, label: str) -> list[Path]:
        """``LABEL_pca_N.png`` and ``LABEL_neighbours.png``: see :mod:`.pictures`."""
        return pictures.draw(backbone, samples, folder, label, self.options)
