"""The loss terms of self-supervision (OmniStream appendix A), as sums and counts over this rank's rows.

Everything is computed in fp32 (or fp64 when given fp64), also under autocast. "Global" means over the whole
micro-batch, all ranks' rows together: with Sinkhorn-Knopp and KoLeo a rank's loss depends on the other ranks' rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..interface import Term
from .scores import Scores, Targets, cross_entropy

#: KoLeo distances of unit vectors are taken as at least this, ten times fp32's rounding of them. A neighbour below it
#: is a duplicate: the direction to it is noise, and 1 / distance would swamp every other gradient, so such a pair gives
#: a constant without gradient.
SMALLEST_DISTANCE = 1e-6


def full_precision(x: Tensor) -> Tensor:
    """``x`` in fp32, or unchanged in fp64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def dino(student: Scores, targets: Targets, temperature: float) -> Term:
    """Cross-entropy of crops' prototype scores against the other crops' targets (equation 11).

    ``student`` [G + L, n, K] of the global and then the local crops of n samples, ``targets`` [G, n, K] of the global
    ones. A global crop is compared with the *other* global crops, a local crop with all of them. The sum is over pairs
    and samples, the count n * (G * (G - 1) + L * G).
    """
    (crops, samples), everyone = targets.scores.rows.shape[:2], len(student.rows)
    pairs = 1 - torch.eye(everyone, crops, dtype=student.rows.dtype, device=student.rows.device)
    total = cross_entropy(student, targets, pairs, student.rows.new_ones(samples), temperature)
    return Term(total, total.new_tensor(float(samples * crops * (everyone - 1))))


def ibot(student: Scores, targets: Targets, weights: Tensor, crops: int, temperature: float) -> Term:
    """Cross-entropy on masked patches (equation 12), averaged within a crop, then over crops.

    ``student`` and ``targets`` [1, m, K] of the masked patches of all crops, ``weights`` [m] = 1 / (masked patches of
    the patch's crop, over all its frames). The count is ``crops``, crops without a mask included (as DINOv3 counts);
    without any masked patch the sum is 0.
    """
    itself, rows = student.rows.new_ones(1, 1), student.rows
    total = cross_entropy(student, targets, itself, weights.to(rows.dtype), temperature)
    return Term(total, total.new_tensor(float(crops)))


def koleo(rows: Tensor, offset: int, count: int) -> Term:
    """Minus the log of the distance to the nearest neighbour (equation 13), crop index by crop index.

    ``rows`` [N, G, D] are the global batch's features, with gradient across ranks; this rank's are the ``count`` from
    ``offset`` on. Features are L2-normalised; a neighbour is another sample's crop of the same index. The count is
    ``count`` * G, or 0 if the global batch has one sample, which has no neighbour. A distance below
    :data:`SMALLEST_DISTANCE` gives its logarithm without gradient.
    """
    samples, crops = rows.shape[:2]
    if samples < 2:
        total = full_precision(rows)[:0].sum()
        return Term(total, total.new_tensor(0.0))
    with torch.autocast(rows.device.type, enabled=False):
        everyone = F.normalize(full_precision(rows), dim=-1).transpose(0, 1)  # [G, N, D]
        mine = everyone[:, offset : offset + count]
        with torch.no_grad():
            # Around their mean: cosines of features that are still alike differ by less than fp32 resolves.
            centred = everyone - everyone.mean(dim=1, keepdim=True)
            distances = torch.cdist(centred[:, offset : offset + count], centred)
            distances.diagonal(offset, dim1=1, dim2=2).fill_(torch.inf)
            nearest = distances.argmin(dim=-1, keepdim=True)
        neighbours = torch.take_along_dim(everyone, nearest, dim=1)
        squared = (mine - neighbours).square().sum(dim=-1)
        total = -0.5 * squared.clamp_min(SMALLEST_DISTANCE**2).log().sum()
    return Term(total, total.new_tensor(float(count * crops)))


def gram(student: Tensor, teacher: Tensor) -> Term:
    """Squared difference of patch similarities (equation 14), image by image.

    ``student``, ``teacher`` [n, P, D] patch features of n image crops. Each crop gives the *mean* over its P * P pairs,
    as in DINOv3, whose weight of 1 the paper's released configuration keeps; the paper's Frobenius norm is P * P times
    that. The count is n.
    """
    with torch.autocast(student.device.type, enabled=False):
        ours, theirs = (F.normalize(full_precision(x), dim=-1) for x in (student, teacher.detach()))
        difference = ours @ ours.transpose(1, 2) - theirs @ theirs.transpose(1, 2)
        total = difference.square().mean(dim=(1, 2)).sum()
    return Term(total, total.new_tensor(float(len(student))))
