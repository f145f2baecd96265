"""Cluster discrimination (OneVision-Encoder section 2.4) of images and clips against banks of class centres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from interlace.backbone import Backbone, BackboneConfig, BackboneNoise, normalise
from interlace.data_recipes import DataError, Sample

from ..blank import blank
from ..collectives import gather_rows
from ..frames import choose_frames, random_crop, resize
from ..interface import Batch, Measure, Progress, Sharded, Task, TaskContext, TaskOptions, Term
from .bank import CentreBank
from .losses import PairLogit, Pairs, cosface_sum, score, sigmoid_sums, unit
from .measures import MEANINGS, Frequencies, count_centres, nearest_centres, recalls
from .options import Bank, ClustersOptions, SigmoidLoss
from .pictures import draw_neighbours

#: Views embedded together when measuring.
CHUNK = 16


class Clusters(Task):
    """Each sample against its positive centres and sampled negative ones, a bank at a time.

    A sample's embedding for a bank is the mean over the view's frames of CLS after the final LayerNorm, through a
    LayerNorm and a linear layer that all banks share. It takes part in the banks that its ``clusters`` name.
    """

    name: ClassVar[str] = "clusters"
    Options: ClassVar[type[TaskOptions]] = ClustersOptions
    needs: ClassVar[frozenset[str]] = frozenset({"frames", "clusters"})
    draws_from: ClassVar[frozenset[str]] = needs
    meanings: ClassVar[Mapping[str, str]] = MEANINGS

    def __init__(self, options: ClustersOptions, context: TaskContext) -> None:
        super().__init__(options, context)
        self.options = options
        width = context.backbone.hidden_size
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, options.embedding_size))
        loss = options.loss
        self.logits = nn.ModuleDict(
            {name: PairLogit(loss.scale, loss.bias) for name in options.banks} if isinstance(loss, SigmoidLoss) else {}
        )
        self.banks = {
            name: CentreBank(name, bank.rows, options.embedding_size, context) for name, bank in options.banks.items()
        }
        self._signals: dict[str, Tensor] = {}

    @classmethod
    def check(cls, options: ClustersOptions, backbone: BackboneConfig) -> list[tuple[str, str]]:
        """A size that no patch divides."""
        if options.size % backbone.patch_size:
            return [("size", f"allowed is a multiple of backbone.patch_size = {backbone.patch_size}")]
        return []

    @classmethod
    def tokens_per_sample(cls, options: ClustersOptions, backbone: BackboneConfig) -> int:
        frames = sum(bank.frames for bank in options.banks.values())
        return frames * backbone.tokens_per_frame(options.size, options.size)

    def frame_indices(self, times: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """One random frame in each part of the clip, for the bank of most frames; smaller views are drawn from them."""
        count = max(bank.frames for bank in self.options.banks.values())
        return choose_frames(len(times), count, rng) if len(times) > count else None

    def largest_sample(self, still: bool) -> Sample:
        """A clip is in all banks, an image in those of single frames, with as many centres as are learned from."""
        banks = {name: bank.rows for name, bank in self.options.banks.items() if not still or bank.frames == 1}
        centres = {name: np.arange(min(self.options.positives, rows)) for name, rows in banks.items()}
        return blank(1 if still else max(bank.frames for bank in self.options.banks.values()), clusters=centres)

    def item(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """Bank -> view, for the banks that the sample has: frames cropped, resized and mirrored at random."""
        views = {}
        for name, bank in self.options.banks.items():
            if len(positives := self.positives(sample, name)):
                chosen = choose_frames(len(sample.frames), bank.frames, rng)
                height, width = sample.frames.shape[1:3]
                area, aspect = self.options.crop_area, self.options.crop_aspect
                box = random_crop(height, width, rng, area=area, aspect=aspect)
                flip = bool(rng.random() < self.options.flip)
                views[name] = {
                    "frames": resize(sample.frames[chosen], (self.options.size, self.options.size), box=box, flip=flip),
                    "positives": rng.permutation(positives)[: self.options.positives],
                    "noise": BackboneNoise.draw(self.context.backbone, [rng]),
                }
        return views

    def positives(self, sample: Sample, name: str) -> np.ndarray:
        """The sample's distinct positive centres of a bank [n] int64; none if it is not of this bank.

        DataError, naming the sample, for a centre that the bank does not have.
        """
        found = np.unique(np.asarray(sample.clusters.get(name, ()), np.int64))
        rows = self.options.banks[name].rows
        if len(found) and not 0 <= found[0] <= found[-1] < rows:
            raise DataError(
                f"{sample.source} {sample.key}: {name} clusters {found[0]} to {found[-1]} in a bank of {rows} rows"
            )
        return found

    def collate(self, items: Sequence[dict[str, Any]]) -> Batch:
        """Bank -> ``frames`` [n, T, 3, size, size] uint8, ``positives`` [n, l] int64 padded with -1 and ``noise``, of
        the n samples that have the bank."""
        return {
            name: self._collate([item[name] for item in items if name in item], bank)
            for name, bank in self.options.banks.items()
        }

    def _collate(self, views: Sequence[dict[str, Any]], bank: Bank) -> Batch:
        size = self.options.size
        frames = np.zeros((len(views), bank.frames, 3, size, size), np.uint8)
        positives = np.full((len(views), self.options.positives), -1, np.int64)
        for index, view in enumerate(views):
            frames[index] = view["frames"]
            positives[index, : len(view["positives"])] = view["positives"]
        noise = BackboneNoise.cat([view["noise"] for view in views]) if views else None
        return {"frames": torch.from_numpy(frames), "positives": torch.from_numpy(positives), "noise": noise}

    def losses(
        self, backbone: Backbone, batch: Batch, *, teacher: nn.Module | None, progress: Progress
    ) -> dict[str, Term]:
        """For each bank ``*_positive`` and ``*_negative`` with the sigmoid loss, ``*_softmax`` with CosFace.

        Sums and counts are over this rank's centres and the samples of all ranks. Without samples of a bank, or without
        pairs of a kind, sum and count are 0.
        """
        terms: dict[str, Term] = {}
        for name, bank in self.options.banks.items():
            embeddings = self.embed(backbone, batch[name]["frames"], batch[name]["noise"])
            # At least float32 from here on, whatever the engine computes in: sums over thousands of centres follow.
            embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
            every, _ = gather_rows(embeddings)
            positives, _ = gather_rows(batch[name]["positives"])
            with torch.autocast(every.device.type, enabled=False):
                terms |= self._terms(name, bank.weight, self._pairs(name, every, positives, progress))
            self._signals[f"{name}_embedding_std"] = _spread(every.detach())
        return terms

    def _pairs(self, name: str, embeddings: Tensor, positives: Tensor, progress: Progress) -> Pairs:
        bank = self.banks[name]
        negatives = bank.negatives(self.options.negatives, progress)
        normalise = self.options.loss.normalise
        return score(embeddings, positives, bank.local, bank.start, negatives, normalise=normalise)

    def _terms(self, name: str, weight: float, pairs: Pairs) -> dict[str, Term]:
        loss = self.options.loss
        if not isinstance(loss, SigmoidLoss):
            return {f"{name}_softmax": Term(*cosface_sum(pairs, loss.scale, loss.margin), weight)}
        positive, negative = sigmoid_sums(pairs, self.logits[name])
        return {
            f"{name}_positive": Term(*positive, weight * loss.positive_weight),
            f"{name}_negative": Term(*negative, weight * loss.negative_weight),
        }

    def embed(self, backbone: Backbone, frames: Tensor, noise: BackboneNoise | None = None) -> Tensor:
        """[n, D] embeddings of views [n, T, 3, H, W] uint8. Without views a black one is run and dropped, so that every
        rank runs the same modules."""
        shown = frames if len(frames) else frames.new_zeros((1, *frames.shape[1:]))
        return self.head(backbone(normalise(shown), noise=noise).cls.mean(1))[: len(frames)]

    def signals(self) -> dict[str, Tensor]:
        """``*_embedding_std``: 1 where the last micro-batch's embeddings are spread over all directions, 0 where they
        have collapsed into one."""
        return self._signals

    def sharded(self) -> list[Sharded]:
        return [Sharded(name, bank.local, bank.start, bank.rows) for name, bank in self.banks.items()]

    def put_sharded(self, name: str, local: Tensor) -> None:
        self.banks[name].local = local

    def accept(self, sample: Sample) -> None:
        """Its centres must be of the banks: see :meth:`positives`."""
        super().accept(sample)
        for name in self.options.banks:
            self.positives(sample, name)

    def check_held_out(self, samples: Sequence[Sample]) -> None:
        """Of a bank there may not be one alone either."""
        super().check_held_out(samples)
        for name in self.options.banks:
            of_bank = [sample.key for sample in samples if len(self.positives(sample, name))]
            if len(of_bank) == 1:
                raise DataError(
                    f"clusters: {of_bank[0]!r} is the one held-out sample of bank {name} that can be used; measuring "
                    "needs two, to swap their views"
                )

    def fit_blind(self, samples: Sequence[Sample]) -> dict[str, Frequencies]:
        """How often each centre is a positive of these samples, by bank."""
        return {
            name: count_centres([self.positives(sample, name) for sample in samples]) for name in self.options.banks
        }

    def evaluate(self, backbone: Backbone, samples: Sequence[Sample], blind: dict[str, Frequencies]) -> list[Measure]:
        """``recall_<bank>``: the share of a sample's k positives among its k nearest centres of the whole bank.

        NaN for a sample without the bank; no measure for a bank without samples. Views are whole frames, unmirrored,
        spread evenly. ``fixed`` is the k most frequent centres of training; ``swapped`` shows the view of the sample
        half the bank's list away. Every rank must call this with the same samples.
        """
        found = []
        for name, bank in self.banks.items():
            positives = {index: self.positives(sample, name) for index, sample in enumerate(samples)}
            positives = {index: rows for index, rows in positives.items() if len(rows)}
            if positives:
                embeddings = self._embed_whole(backbone, [samples[index] for index in positives], name)
                longest = max(len(rows) for rows in positives.values())
                nearest = nearest_centres(embeddings, bank, longest, normalise=self.options.loss.normalise)
                found.append(recalls(name, len(samples), positives, nearest, blind[name]))
        return found

    def pictures(self, backbone: Backbone, samples: Sequence[Sample], folder: Path, label: str) -> list[Path]:
        """For each bank a sheet of held-out samples and their nearest neighbours among the others."""
        drawn = []
        for name in self.options.banks:
            mine = [sample for sample in samples if len(self.positives(sample, name))]
            if len(mine) > 1:
                embeddings = unit(self._embed_whole(backbone, mine, name))
                path = folder / f"{label}_clusters_{name}.png"
                draw_neighbours([sample.frames[len(sample.frames) // 2] for sample in mine], embeddings, path)
                drawn.append(path)
        return drawn

    def _embed_whole(self, backbone: Backbone, samples: Sequence[Sample], name: str) -> Tensor:
        """[n, D] float32 embeddings of the samples' whole, unmirrored views."""
        size, count = (self.options.size, self.options.size), self.options.banks[name].frames
        parts = []
        for start in range(0, len(samples), CHUNK):
            chunk = samples[start : start + CHUNK]
            views = [resize(one.frames[choose_frames(len(one.frames), count)], size) for one in chunk]
            parts.append(self.embed(backbone, torch.from_numpy(np.stack(views)).to(self.context.device)).float())
        return torch.cat(parts)


def _spread(embeddings: Tensor) -> Tensor:
    """Deviation of the normalised embeddings [N, D] over samples, as a share of the largest possible."""
    directions = unit(embeddings)
    return directions.var(0, correction=0).sum().sqrt() if len(directions) else embeddings.new_zeros(())
