"""Each loss term against a naive float64 transcription, and against numbers of DINOv3's public code."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from interlace.tasks.interface import Term
from interlace.tasks.ssl import losses
from interlace.tasks.ssl.scores import Scores, Targets, sinkhorn

GOLDEN = Path(__file__).parents[1] / "golden" / "dinov3_losses.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN) as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays}


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()


def scores(logits: Tensor) -> Scores:
    """These very logits [V, n, K], each prototype an axis of its own."""
    return Scores(logits, torch.eye(logits.shape[-1], dtype=logits.dtype))


def whole(targets: Targets) -> Tensor:
    """The distributions of all samples, [V, n, K]."""
    return targets.block(slice(None))


def fixed(distributions: Tensor) -> Targets:
    """Targets [V, n, K] given as they are: at temperature 1, the exponential of their logarithm."""
    return Targets(scores(distributions.log()), 1.0, distributions.new_ones(distributions.shape[-1]))


def mean(term: Term) -> Tensor:
    return term.sum / term.count


def assert_same(term: Term, naive_sum: Tensor, naive_count: float, *inputs: Tensor) -> None:
    """Value, count, and the gradient of every input."""
    assert term.count.item() == naive_count
    torch.testing.assert_close(term.sum, naive_sum, rtol=1e-10, atol=1e-12)
    ours, theirs = (torch.autograd.grad(total, inputs, retain_graph=True) for total in (term.sum, naive_sum))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-12)
        assert other.abs().max() > 0


# Sinkhorn-Knopp


def naive_sinkhorn(logits: Tensor, temperature: float, iterations: int) -> Tensor:
    """The published loop, on prototypes x samples, with all of its divisions."""
    q = torch.exp(logits.detach().double() / temperature).T.clone()
    prototypes, samples = q.shape
    q = q / q.sum()
    for _ in range(iterations):
        for k in range(prototypes):
            q[k] = q[k] / q[k].sum() / prototypes
        for b in range(samples):
            q[:, b] = q[:, b] / q[:, b].sum() / samples
    return (q * samples).T


@pytest.mark.parametrize(("rows", "prototypes", "iterations"), [(7, 5, 3), (1, 4, 3), (12, 3, 1), (2, 40, 5)])
def test_sinkhorn_equals_naive(rows: int, prototypes: int, iterations: int) -> None:
    logits = draw(rows, prototypes)
    found = whole(sinkhorn(scores(logits[None]), 0.07, iterations))[0]
    torch.testing.assert_close(found, naive_sinkhorn(logits, 0.07, iterations), rtol=1e-10, atol=1e-14)


def test_sinkhorn_golden(golden: dict[str, Tensor]) -> None:
    logits, temperature = golden["teacher_logits"], golden["teacher_temp"].item()
    found = whole(sinkhorn(scores(logits), temperature))
    torch.testing.assert_close(found, golden["sinkhorn"], rtol=1e-5, atol=1e-7)
    found = whole(sinkhorn(scores(golden["ibot_teacher_logits"][None]), temperature))[0]
    torch.testing.assert_close(found, golden["ibot_sinkhorn"], rtol=1e-5, atol=1e-7)


def test_sinkhorn_uses_prototypes_evenly_and_gives_distributions() -> None:
    # every row prefers prototype 0; centring must not let it win everywhere
    logits = torch.rand(1, 64, 8) * 0.2
    logits[..., 0] += 0.8
    targets = whole(sinkhorn(scores(logits), 0.05, iterations=20))[0]
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(64))
    torch.testing.assert_close(targets.mean(dim=0), torch.full((8,), 1 / 8), rtol=0.02, atol=0)


def test_sinkhorn_of_cosines_at_the_lowest_temperature_is_finite_in_single_precision() -> None:
    logits = torch.tensor([1.0, -1.0, -1.0]).repeat(1, 1000, 1)
    logits[0, 0] = torch.tensor([-1.0, 1.0, -1.0])
    targets = whole(sinkhorn(scores(logits), 0.04))
    assert torch.isfinite(targets).all()
    torch.testing.assert_close(targets.sum(dim=-1), torch.ones(1, 1000))


def test_sinkhorn_of_no_rows() -> None:
    targets = sinkhorn(scores(torch.zeros(1, 0, 5)), 0.07)
    assert whole(targets).shape == (1, 0, 5)
    assert targets.entropy().tolist() == [0, 0]


# DINO


def naive_dino(
    student_global: Tensor, student_local: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, int]:
    """Equation 11, pair by pair and sample by sample."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    crops = [(s, index) for index, s in enumerate(student_global)] + [(s, None) for s in student_local]
    for scores, same in crops:
        for other, target in enumerate(targets):
            if other == same:
                continue
            for b in range(targets.shape[1]):
                p = torch.exp(scores[b] / temperature)
                total = total - (target[b] * torch.log(p / p.sum())).sum()
                count += 1
    return total, count


@pytest.mark.parametrize(("samples", "local"), [(5, 2), (1, 3), (4, 0)])
def test_dino_equals_naive(samples: int, local: int) -> None:
    student_global, student_local = draw(2, samples, 6), draw(local, samples, 6, seed=1)
    targets = torch.softmax(draw(2, samples, 6, seed=2).detach(), -1)
    total, count = naive_dino(student_global, student_local, targets, 0.1)
    inputs = (student_global, student_local) if local else (student_global,)
    student = scores(torch.cat([student_global, student_local]))
    assert_same(losses.dino(student, fixed(targets), 0.1), total, count, *inputs)


def test_dino_golden(golden: dict[str, Tensor]) -> None:
    targets, temperature = fixed(golden["sinkhorn"]), golden["student_temp"].item()
    student_global = golden["student_global"].clone().requires_grad_()
    student_local = golden["student_local"].clone().requires_grad_()
    term = losses.dino(scores(student_global), targets, temperature)
    torch.testing.assert_close(mean(term), golden["dino_global_ignore_diagonal"])
    (gradient,) = torch.autograd.grad(mean(term), student_global)
    torch.testing.assert_close(gradient, golden["dino_global_grad"], rtol=1e-4, atol=1e-7)

    both = losses.dino(scores(torch.cat([student_global, student_local])), targets, temperature)
    local_count = both.count - term.count
    torch.testing.assert_close((both.sum - term.sum) / local_count, golden["dino_local"])
    (gradient,) = torch.autograd.grad(both.sum / local_count, student_local)
    torch.testing.assert_close(gradient, golden["dino_local_grad"], rtol=1e-4, atol=1e-7)


def test_dino_of_no_samples_is_zero_with_a_gradient() -> None:
    student = draw(2, 0, 6)
    term = losses.dino(scores(torch.cat([student, student])), fixed(student.detach()), 0.1)
    assert (term.sum.item(), term.count.item(), term.sum.requires_grad) == (0, 0, True)


# iBOT


def naive_ibot(student: Tensor, targets: Tensor, crop_of: list[int], crops: int, temperature: float) -> Tensor:
    """Equation 12, averaged within each crop, summed over crops."""
    total = torch.zeros((), dtype=torch.float64)
    for crop in range(crops):
        rows = [row for row, owner in enumerate(crop_of) if owner == crop]
        for row in rows:
            p = torch.exp(student[row] / temperature)
            total = total - (targets[row] * torch.log(p / p.sum())).sum() / len(rows)
    return total


def test_ibot_equals_naive() -> None:
    crop_of, crops = [0, 0, 0, 2, 2, 3], 5
    student, targets = draw(6, 4), torch.softmax(draw(6, 4, seed=1).detach(), -1)
    weights = torch.tensor([1 / crop_of.count(crop) for crop in crop_of], dtype=torch.float64)
    naive = naive_ibot(student, targets, crop_of, crops, 0.1)
    assert_same(losses.ibot(scores(student[None]), fixed(targets[None]), weights, crops, 0.1), naive, crops, student)


def test_ibot_golden(golden: dict[str, Tensor]) -> None:
    mask = golden["ibot_mask"]
    per_crop = mask.sum(dim=1)
    assert 0 in per_crop  # an image without a mask counts
    student = golden["ibot_student_logits"].clone().requires_grad_()
    weights = (1 / per_crop.float()).repeat_interleave(per_crop)
    targets = fixed(golden["ibot_sinkhorn"][None])
    term = losses.ibot(scores(student[None]), targets, weights, len(mask), golden["student_temp"].item())
    torch.testing.assert_close(mean(term), golden["ibot"])
    (gradient,) = torch.autograd.grad(mean(term), student)
    torch.testing.assert_close(gradient, golden["ibot_grad"], rtol=1e-4, atol=1e-7)


def test_ibot_without_a_masked_patch_is_zero_and_counts_its_crops() -> None:
    student = draw(0, 4)
    term = losses.ibot(scores(student[None]), fixed(student.detach()[None]), torch.zeros(0), 6, 0.1)
    assert (term.sum.item(), term.count.item(), term.sum.requires_grad) == (0, 6, True)


# KoLeo


def naive_koleo(x: Tensor) -> Tensor:
    """Equation 13 as a sum, for one crop's unit features [n, D]."""
    x = x / x.norm(dim=1, keepdim=True)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(x)):
        total = total - torch.stack([(x[i] - x[j]).norm() for j in range(len(x)) if j != i]).min().log()
    return total


def test_koleo_equals_naive_crop_by_crop() -> None:
    x = draw(6, 2, 5)
    assert_same(losses.koleo(x, 0, 6), naive_koleo(x[:, 0]) + naive_koleo(x[:, 1]), 12, x)


def test_koleo_of_a_part_looks_for_neighbours_everywhere() -> None:
    x = draw(7, 2, 4)
    parts = [losses.koleo(x, 0, 3), losses.koleo(x, 3, 0), losses.koleo(x, 3, 4)]
    whole = losses.koleo(x, 0, 7)
    assert [part.count.item() for part in parts] == [6, 0, 8]
    split = sum(part.sum for part in parts)
    assert_same(Term(split, whole.count), whole.sum, 14, x)


def test_koleo_golden(golden: dict[str, Tensor]) -> None:
    x = golden["koleo_x"].clone().requires_grad_()
    term = losses.koleo(x[:, None], 0, len(x))
    torch.testing.assert_close(mean(term), golden["koleo"])
    (gradient,) = torch.autograd.grad(mean(term), x)
    torch.testing.assert_close(gradient, golden["koleo_grad"], rtol=1e-4, atol=1e-6)


def test_koleo_of_one_sample_has_no_neighbour_and_counts_nothing() -> None:
    x = draw(1, 2, 4)
    term = losses.koleo(x, 0, 1)
    assert (term.sum.item(), term.count.item(), term.sum.requires_grad) == (0, 0, True)


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_koleo_of_duplicates_is_a_finite_constant(noise: float) -> None:
    x = torch.randn(1, 1, 64).repeat(4, 1, 1) + noise * torch.randn(4, 1, 64)
    x.requires_grad_()
    term = losses.koleo(x, 0, 4)
    torch.testing.assert_close(mean(term).item(), -math.log(losses.SMALLEST_DISTANCE))
    assert torch.equal(torch.autograd.grad(term.sum, x)[0], torch.zeros_like(x))


def test_koleo_finds_neighbours_of_features_that_are_still_alike() -> None:
    # an untrained backbone: cosines differ by less than single precision resolves
    x = draw(1, 1, 64).detach() + draw(32, 1, 64, seed=1, scale=3e-5)
    expected = naive_koleo(x[:, 0])
    torch.testing.assert_close(losses.koleo(x.float(), 0, 32).sum.double(), expected, rtol=5e-3, atol=0)


# Gram


def naive_gram(student: Tensor, teacher: Tensor) -> Tensor:
    """Equation 14 of each crop: the squared Frobenius norm, summed over crops."""
    total = torch.zeros((), dtype=torch.float64)
    for ours, theirs in zip(student, teacher, strict=True):
        for i in range(len(ours)):
            for j in range(len(ours)):
                mine = ours[i] @ ours[j] / (ours[i].norm() * ours[j].norm())
                other = theirs[i] @ theirs[j] / (theirs[i].norm() * theirs[j].norm())
                total = total + (mine - other) ** 2
    return total


def test_gram_is_the_papers_sum_divided_by_the_pairs() -> None:
    student, teacher = draw(3, 4, 5), draw(3, 4, 5, seed=1).detach()
    assert_same(losses.gram(student, teacher), naive_gram(student, teacher) / 4**2, 3, student)


def test_gram_is_dinov3s_mean(golden: dict[str, Tensor]) -> None:
    student = golden["gram_student"].clone().requires_grad_()
    term = losses.gram(student, golden["gram_teacher"])
    torch.testing.assert_close(mean(term), golden["gram_image_level"])
    (gradient,) = torch.autograd.grad(mean(term), student)
    torch.testing.assert_close(gradient, golden["gram_grad"], rtol=1e-4, atol=1e-7)


def test_gram_gives_the_teacher_no_gradient() -> None:
    student, teacher = draw(1, 3, 4), draw(1, 3, 4, seed=1)
    losses.gram(student, teacher).sum.backward()
    assert teacher.grad is None


# Precision


def test_under_autocast_losses_are_those_of_single_precision() -> None:
    student, targets = draw(2, 3, 16).detach().float(), torch.softmax(draw(2, 3, 16, seed=1).detach().float(), -1)
    patches, anchors = draw(2, 6, 8).detach().float(), draw(2, 6, 8, seed=1).detach().float()

    def everything() -> list[Tensor]:
        return [
            whole(sinkhorn(scores(student), 0.05)),
            losses.dino(scores(torch.cat([student, student])), fixed(targets), 0.1).sum,
            losses.ibot(scores(student[:1]), fixed(targets[:1]), torch.ones(3), 2, 0.1).sum,
            losses.koleo(student.transpose(0, 1), 0, 3).sum,
            losses.gram(patches, anchors).sum,
        ]

    plain = everything()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = everything()
    for ours, theirs in zip(mixed, plain, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)
