"""What the engine knows of a task, and nothing more.

A task owns its options' schema, how a sample becomes part of a batch, its heads, its losses, its held-out measures
and its pictures. The engine owns the step: it asks every task for loss *sums and counts*, divides by the count of the
whole micro-batch over all ranks, runs backward, and steps once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from interlace.backbone import Backbone, BackboneConfig
from interlace.data_recipes import DataError, Sample

#: What :meth:`Task.collate` makes: tensors with the sample axis first, numbers, strings, and lists of those.
Batch = dict[str, Any]


class TaskOptions(BaseModel):
    """Base of every task's options: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class Progress:
    """Where training stands. ``seed`` and ``step`` key every random draw a loss makes."""

    step: int  # of the step being taken, from 0
    steps: int  # of the whole run
    seed: int
    micro: int = 0  # which of the task's micro-batches within the step


@dataclass(frozen=True)
class Term:
    """One loss term of a micro-batch on this rank.

    ``sum`` is a scalar with gradient, summed over this rank's elements; ``count`` is a scalar without gradient, how
    many elements that was. The engine minimises ``task weight * weight * (sum over ranks of sum) / (sum over ranks of
    count)``; a count of zero everywhere makes the term zero. Every rank returns the same terms in the same order.
    """

    sum: Tensor
    count: Tensor
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A held-out measure, one value a sample, beside what blind guesses get on the same samples.

    ``fixed``: the best predictor that never sees an input, fitted on training data. ``swapped``: this model shown
    another held-out sample's frames. A sample that the measure does not apply to is NaN in all three.
    """

    name: str
    better: Literal["lower", "higher"]
    values: np.ndarray  # [n] float64
    fixed: np.ndarray  # [n] float64
    swapped: np.ndarray  # [n] float64

    @property
    def blind(self) -> np.ndarray:
        """[n] the better, in the mean, of the two blind guesses."""
        fixed, swapped = float(np.nanmean(self.fixed)), float(np.nanmean(self.swapped))
        fixed_wins = fixed <= swapped if self.better == "lower" else fixed >= swapped
        return self.fixed if fixed_wins else self.swapped


@dataclass
class Sharded:
    """Rows of a large matrix that lives split over ranks, outside DeepSpeed, with an optimizer of its own.

    ``local`` is a leaf tensor [rows of this rank, D] that requires gradient; row i of it is row ``start + i`` of the
    whole, which has ``rows`` rows. Its gradient is already complete: it is never averaged over ranks.
    """

    name: str
    local: Tensor
    start: int
    rows: int


@dataclass(frozen=True)
class TaskContext:
    """What a task may know of where it runs, besides its options."""

    backbone: BackboneConfig
    seed: int
    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


Each = TypeVar("Each")


def swapped(samples: Sequence[Each]) -> list[Each]:
    """For each the one half the list away: of another scene, where a scene's samples lie side by side."""
    half = len(samples) // 2
    return [*samples[half:], *samples[:half]]


class Task(nn.Module):
    """One training objective. Subclasses are modules whose parameters are the task's own heads.

    The same instance prepares data in loader workers (:meth:`item`, :meth:`collate`: no parameters, no device) and
    computes losses inside the student (:meth:`losses`).
    """

    name: ClassVar[str]
    Options: ClassVar[type[TaskOptions]]
    #: fields of :data:`interlace.data_recipes.sample.FIELDS` that every source of this task must offer
    needs: ClassVar[frozenset[str]] = frozenset({"frames"})
    #: fields that a source must offer of which only pictures are drawn
    draws_from: ClassVar[frozenset[str]] = frozenset({"frames"})
    #: modules and parameters of its own, by name, whose learning rate a recipe may state (``tasks.T.rates``)
    parts: ClassVar[tuple[str, ...]] = ()
    #: other tasks, by name, and the parts of them that this one takes over where it starts from a run of theirs
    begins_with: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    #: what each held-out measure is, and its unit, in words for a reader; a name may hold ``*`` for anything
    meanings: ClassVar[Mapping[str, str]] = MappingProxyType({})
    #: those of them that stand beside the others for comparison: no training moves them
    references: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, options: TaskOptions, context: TaskContext) -> None:
        super().__init__()
        self.context = context

    @classmethod
    def check(cls, options: Any, backbone: BackboneConfig) -> list[tuple[str, str]]:
        """All that is wrong with these valid options on this backbone and machine, nothing built or read.

        Each is (the option's dotted name, what is wrong and what to do): a size that no patch divides, a missing file.
        """
        return []

    @classmethod
    def tokens_per_sample(cls, options: Any, backbone: BackboneConfig) -> int:
        """Backbone tokens that training on one sample costs at most, all its frames and views counted."""
        raise NotImplementedError

    def frame_indices(self, times: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """Which frames :meth:`item` wants of a clip with these times [T] (seconds): ascending indices, or None for all.

        Called before the frames are decoded, with the generator that :meth:`item` then gets. Texts of frames that are
        not among them are left out of the sample.
        """
        return None

    def item(self, sample: Sample, rng: np.random.Generator) -> Any:
        """One sample made ready, in a loader worker. All randomness comes from ``rng``.

        DataError, naming the sample, for one whose content cannot be used: it is counted and another takes its place.
        Any other error stops the run.
        """
        raise NotImplementedError

    def largest_sample(self, still: bool) -> Sample | None:
        """A made-up sample, one image if ``still`` and else a clip, that costs as much to train on as any of its kind.

        For predictions of what a step takes; None: nothing is predicted of this task.
        """
        return None

    def collate(self, items: Sequence[Any]) -> Batch:
        """A batch of this rank's items, in order. Frames stay uint8 until they are on the device."""
        raise NotImplementedError

    def build_teacher(self, backbone: Backbone) -> nn.Module | None:
        """The module that :meth:`losses` gets as ``teacher``, or None.

        Its parameters named ``backbone.X`` follow the student's backbone and ``heads.X`` this task's parameter ``X``,
        by exponential moving average with :meth:`momentum`; parameters named otherwise stay as they are (frozen).
        """
        return None

    def momentum(self, progress: Progress) -> float:
        """The teacher's momentum at this step: teacher = m * teacher + (1 - m) * student."""
        raise NotImplementedError

    def losses(
        self, backbone: Backbone, batch: Batch, *, teacher: nn.Module | None, progress: Progress
    ) -> dict[str, Term]:
        """The loss terms of one micro-batch. Called on every rank, each with its own part of the samples."""
        raise NotImplementedError

    def forward(
        self, *, backbone: Backbone, batch: Batch, teacher: nn.Module | None, progress: Progress
    ) -> dict[str, Term]:
        """:meth:`losses`, called as modules are, so that what shards this task's own parameters gathers them."""
        return self.losses(backbone, batch, teacher=teacher, progress=progress)

    def signals(self) -> dict[str, Tensor]:
        """Scalars of the last :meth:`losses` worth watching (teacher entropy, feature std): detached, on device."""
        return {}

    def sharded(self) -> list[Sharded]:
        """Matrices split over ranks that the engine must optimise and save beside the student."""
        return []

    def put_sharded(self, name: str, local: Tensor) -> None:
        """Compute with ``local`` in place of this rank's rows of the matrix ``name`` of :meth:`sharded`."""
        raise NotImplementedError

    def accept(self, sample: Sample) -> None:
        """DataError, naming the sample, for a whole one that :meth:`evaluate` or :meth:`fit_blind` could not use.

        What is refused is left out before either sees it, counted and named.
        """
        if not len(sample.frames):
            raise DataError(f"source {sample.source!r}, sample {sample.key!r}: it has no frames")

    def fingerprints(self) -> dict[str, str]:
        """Hashes of what this task's weights mean nothing without (a tokenizer), by name.

        Checkpoints keep them, and a run that starts from another's must have the same.
        """
        return {}

    def measure_inputs(self, backbone: Backbone, samples: Sequence[Sample]) -> None:
        """Set what depends on how inputs look, from training samples, read when asked for.

        Once in a run, before its first step; on every rank, with the same samples. Kept in parameters that are not
        trained, so that checkpoints have it.
        """

    def fit_blind(self, samples: Sequence[Sample]) -> Any:
        """Fit the best input-free predictors on training samples. The result is given to :meth:`evaluate`."""
        raise NotImplementedError

    def check_held_out(self, samples: Sequence[Sample]) -> None:
        """Raise DataError where :meth:`evaluate` cannot measure on these samples; asked before a run begins.

        Here for one alone, which has no other whose frames it could be shown.
        """
        if len(samples) == 1:
            raise DataError(
                f"{self.name}: {samples[0].key!r} is the one held-out sample that can be used; measuring needs two, to "
                "swap their frames"
            )

    def evaluate(self, backbone: Backbone, samples: Sequence[Sample], blind: Any) -> list[Measure]:
        """Held-out measures, one value a sample in the order of ``samples``. Called without gradients, in eval mode.

        ``samples``: some, of which :meth:`check_held_out` says nothing.
        """
        raise NotImplementedError

    def pictures(self, backbone: Backbone, samples: Sequence[Sample], folder: Path, label: str) -> list[Path]:
        """Draw what the model does on these samples into ``folder``; file names begin with ``label``.

        Samples come from held-out sources, which offer :attr:`needs`, and from others that offer :attr:`draws_from`.
        """
        return []
