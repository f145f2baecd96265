"""Finding a sample's centres among all of a bank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..collectives import gather_rows, world_size
from ..interface import Measure
from .bank import CentreBank
from .losses import unit

#: Centres scored together.
SCORED_TOGETHER = 65536

#: What the measures, one a bank, are, for a reader.
MEANINGS = {
    "recall_*": "share of a sample's own cluster centres, 0 to 1, among as many that the model finds nearest in the "
    "whole bank",
}


@dataclass(frozen=True)
class Frequencies:
    """The centres of a bank that training samples have, the most frequent first: [n] int64."""

    most_frequent: np.ndarray


def count_centres(positives: Sequence[np.ndarray]) -> Frequencies:
    """Order the centres of the samples' ``positives`` by how many have them; ties by number."""
    rows, counts = np.unique(np.concatenate([*positives, np.zeros(0, np.int64)]), return_counts=True)
    return Frequencies(rows[np.argsort(-counts, kind="stable")])


def nearest_centres(embeddings: Tensor, bank: CentreBank, count: int, *, normalise: bool) -> np.ndarray:
    """[N, count] the ``count`` best-scored centres of the whole bank for each embedding [N, D], the best first.

    Every rank scores its own part and all merge their best, so that the bank is never in one place; ``embeddings`` must
    be the same on all ranks.
    """
    count = min(count, bank.rows)
    best = embeddings.new_full((len(embeddings), count), float("-inf"))
    rows = torch.full_like(best, -1, dtype=torch.int64)
    for start in range(0, len(bank.local), SCORED_TOGETHER):
        centres = bank.local[start : start + SCORED_TOGETHER]
        # Lengths of embeddings do not change their order.
        scores = embeddings @ (unit(centres) if normalise else centres).T
        numbers = torch.arange(len(centres), device=rows.device) + (bank.start + start)
        best, rows = _best(torch.cat((best, scores), 1), torch.cat((rows, numbers.expand(len(rows), -1)), 1), count)
    if world_size() > 1:
        every = [gather_rows(part)[0].unflatten(0, (world_size(), -1)).transpose(0, 1) for part in (best, rows)]
        best, rows = _best(every[0].flatten(1), every[1].flatten(1), count)
    return rows.cpu().numpy()


def _best(scores: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    best, order = scores.topk(count, dim=1)
    return best, rows.gather(1, order)


def recalls(
    name: str, samples: int, positives: Mapping[int, np.ndarray], nearest: np.ndarray, frequencies: Frequencies
) -> Measure:
    """The measure ``recall_<name>`` of samples of which some, by their number, have ``positives`` and, in the same
    order, ``nearest`` centres [n, longest]."""

    def over(guesses: Iterable[np.ndarray]) -> np.ndarray:
        values = np.full(samples, np.nan)
        for (index, rows), guess in zip(positives.items(), guesses, strict=True):
            values[index] = recall(guess, rows)
        return values

    return Measure(
        name=f"recall_{name}",
        better="higher",
        values=over(nearest),
        fixed=over([frequencies.most_frequent] * len(positives)),
        swapped=over(np.roll(nearest, -(len(positives) // 2), axis=0)),
    )


def recall(predicted: np.ndarray, positives: np.ndarray) -> float:
    """The share of the k ``positives`` among the first k of ``predicted``."""
    k = len(positives)
    return float(np.isin(positives, predicted[:k]).sum() / k)
