"""A linear classifier on cached features, fitted to the end: nothing of it is random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .heads import split

#: Weight decays that are tried; the one with the best accuracy on held-back scenes is kept, the largest of equals.
DECAYS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
ITERATIONS = 100


@dataclass(frozen=True)
class Linear:
    """A fitted classifier: ``mean``, ``deviation`` [D] of its features, ``weights`` [D + 1, classes], biases last."""

    mean: Tensor
    deviation: Tensor
    weights: Tensor

    def shares(self, query: Tensor) -> Tensor:
        """[m, classes] float64: the probability of each class, of rows [m, D]."""
        return scores((query - self.mean) / self.deviation, self.weights).softmax(1)


def fit_linear(features: Tensor, labels: np.ndarray, scenes: Sequence[str], held_back: float, seed: int) -> Linear:
    """Multinomial logistic regression on ``features`` [n, D]; ``labels`` [n] int64, ``scenes`` [n].

    The decay is chosen on a share ``held_back`` of the scenes; the classifier is then fitted on all.
    """
    truth = torch.from_numpy(labels)
    mean, deviation = features.mean(0), features.std(0).clamp_min(1e-4)
    inputs = (features - mean) / deviation
    training, aside = split(scenes, held_back, seed)
    number = int(truth.max()) + 1

    def right(decay: float) -> float:
        weights = logistic(inputs[training], truth[training], number, decay)
        return float((scores(inputs[aside], weights).argmax(1) == truth[aside]).float().mean())

    best = max(DECAYS, key=right)
    return Linear(mean, deviation, logistic(inputs, truth, number, best))


def logistic(inputs: Tensor, labels: Tensor, classes: int, decay: float) -> Tensor:
    """[D + 1, classes] float64, the least mean cross-entropy + decay / 2 * squares of all but the last row (biases)."""
    rows = torch.cat((inputs.double(), torch.ones(len(inputs), 1, dtype=torch.float64)), 1)
    weights = torch.zeros(rows.shape[1], classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(rows @ weights, labels) + decay / 2 * weights[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return weights.detach()


def scores(inputs: Tensor, weights: Tensor) -> Tensor:
    """[n, classes] float64."""
    return inputs.double() @ weights[:-1] + weights[-1]
