"""How good frozen features are without training anything on them, and whether they collapse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from interlace.backbone import Backbone, normalise
from interlace.data_recipes import Sample

from ..frames import choose_frames, resize
from ..interface import Measure
from .options import SslOptions

#: Clips of one length that go through the backbone together.
BATCH = 32
#: A neighbour's vote is exp(cosine / this): DINO's k-NN protocol.
TEMPERATURE = 0.07
#: Side of the frames that pixels are compared on.
PIXELS = 32
#: The class of a sample without the label.
UNLABELLED = -1

#: What the measures are, for a reader.
MEANINGS = {
    "knn": "share of a sample's labels, 0 to 1, that its nearest training samples name right; what is near, the "
    "frozen backbone's features say",
    "knn_pixels": "the same, but the frames' pixels say what is near: a reference that no training moves",
}
#: Those that no training moves.
REFERENCES = frozenset({"knn_pixels"})


@dataclass(frozen=True)
class Bank:
    """Training samples to find neighbours among: frames [T, 3, S, S] uint8 each, and classes [n] int64 by label."""

    clips: list[np.ndarray]
    labels: dict[str, np.ndarray]

    @staticmethod
    def of(samples: Sequence[Sample], options: SslOptions) -> Bank:
        """Only labelled samples are kept, and of the labels those that ``options.labels`` names, if it names any."""
        labelled = [sample for sample in samples if sample.labels]
        found = {name for sample in labelled for name in sample.labels}
        if absent := [name for name in options.labels if labelled and name not in found]:
            raise ValueError(f"tasks.ssl.options.labels: no sample drawn has {absent[0]!r}, they have {sorted(found)}")
        names = sorted(found.intersection(options.labels or found))
        return Bank([probe(sample, options) for sample in labelled], {name: classes(labelled, name) for name in names})


def classes(samples: Sequence[Sample], name: str) -> np.ndarray:
    """[n] int64 the samples' classes of label ``name``, :data:`UNLABELLED` where absent."""
    return np.array([sample.labels.get(name, UNLABELLED) for sample in samples], np.int64)


def probe(sample: Sample, options: SslOptions) -> np.ndarray:
    """The sample's middle square, ``options.probe_frames`` frames or all if it has fewer: [T, 3, S, S] uint8."""
    length, height, width = sample.frames.shape[:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    frames = sample.frames[choose_frames(length, min(length, options.probe_frames))]
    return resize(frames, (options.global_size, options.global_size), box=(left, top, left + side, top + side))


def nearest_neighbours(backbone: Backbone, samples: Sequence[Sample], bank: Bank, options: SslOptions) -> list[Measure]:
    """The share of a sample's labels that the vote of its nearest neighbours in the bank names right.

    Features are compared by their cosine around the bank's mean: an untrained backbone's differ little from each other,
    and it should be a fair opponent. ``knn`` is on the backbone's temporal mean of CLS, and beside it, for reference,
    ``knn_pixels`` on small frames, which no training changes. ``fixed`` guesses each label's commonest class in the
    bank; ``swapped`` is the vote on the sample half a list away (a single sample has none: ``fixed``).
    """
    clips = [probe(sample, options) for sample in samples]
    truths = {name: classes(samples, name) for name in bank.labels}
    if not any((truth != UNLABELLED).any() for truth in truths.values()):
        return []
    measures = []
    for name, features in (("knn", partial(cls_features, backbone)), ("knn_pixels", pixel_features)):
        reference, query = directions(features(bank.clips), features(clips))
        rows = [
            _judge(reference, query, bank.labels[label], truth, options.neighbours) for label, truth in truths.items()
        ]
        values, fixed, swapped = (_mean_of_labels(np.stack(columns)) for columns in zip(*rows, strict=True))
        measures.append(Measure(name=name, better="higher", values=values, fixed=fixed, swapped=swapped))
    return measures


def _judge(
    reference: Tensor, query: Tensor, labels: np.ndarray, truth: np.ndarray, neighbours: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For one label, [n] each, NaN where a sample lacks it: is the vote right, the commonest class, another's vote?"""
    applies, within = truth != UNLABELLED, labels != UNLABELLED
    if not applies.any():
        nothing = np.full(len(truth), np.nan)
        return nothing, nothing, nothing
    guess = vote(reference[within], labels[within], query[applies], neighbours)
    right = truth[applies]
    fixed = right == np.bincount(labels[within]).argmax()
    swapped = np.roll(guess, len(guess) // 2) == right if len(guess) > 1 else fixed
    return spread(guess == right, applies), spread(fixed, applies), spread(swapped, applies)


def _mean_of_labels(columns: np.ndarray) -> np.ndarray:
    """[n] means of ``columns`` [labels, n] over the labels that a sample has, NaN where it has none."""
    known = ~np.isnan(columns)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, columns, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def spread(values: np.ndarray, applies: np.ndarray) -> np.ndarray:
    """``values`` as float64 at the places where ``applies`` [n], NaN elsewhere."""
    column = np.full(len(applies), np.nan)
    column[applies] = values
    return column


def vote(reference: Tensor, labels: np.ndarray, query: Tensor, neighbours: int) -> np.ndarray:
    """[n] the class that wins among the nearest rows of ``reference`` [m, D] to each of ``query`` [n, D], by cosine."""
    similarity, index = (query @ reference.T).topk(min(neighbours, len(reference)), dim=1)
    weights = torch.exp((similarity - similarity[:, :1]) / TEMPERATURE)
    votes = torch.zeros(len(query), int(labels.max()) + 1)
    votes.scatter_add_(1, torch.from_numpy(labels)[index], weights)
    return votes.argmax(dim=1).numpy()


def cls_features(backbone: Backbone, clips: Sequence[np.ndarray]) -> Tensor:
    """[n, D] float32 on the CPU: each clip's temporal mean of CLS. Clips may differ in length."""
    device = next(backbone.parameters()).device
    rows = torch.zeros(len(clips), backbone.config.hidden_size)
    lengths = np.array([len(clip) for clip in clips])
    for length in np.unique(lengths):
        places = np.flatnonzero(lengths == length)
        for start in range(0, len(places), BATCH):
            chosen = places[start : start + BATCH]
            frames = torch.from_numpy(np.stack([clips[place] for place in chosen])).to(device)
            rows[chosen] = backbone(normalise(frames)).cls.mean(dim=1).float().cpu()
    return rows


def pixel_features(clips: Sequence[np.ndarray]) -> Tensor:
    """[n, 3 * PIXELS * PIXELS] float32: small temporal mean frames."""
    frames = torch.from_numpy(np.stack([clip.mean(axis=0, dtype=np.float32) for clip in clips]))
    return F.interpolate(frames, (PIXELS, PIXELS), mode="area").flatten(1)


def directions(reference: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors from the mean of ``reference`` [m, D] to its rows and to those of ``query`` [n, D]."""
    centre = reference.mean(dim=0)
    return F.normalize(reference - centre, dim=1), F.normalize(query - centre, dim=1)


def feature_std(rows: Tensor) -> Tensor:
    """Deviation of L2-normalised ``rows`` [n, D] over n, averaged over D, times sqrt(D): 0 collapsed, 1 isotropic."""
    return F.normalize(rows, dim=1).std(dim=0, correction=0).mean() * rows.shape[1] ** 0.5


def effective_rank(rows: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised singular values of centred ``rows`` [n, D]; 1 if all are equal."""
    values = torch.linalg.svdvals(rows - rows.mean(dim=0))
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return torch.special.entr(shares).sum().exp()
