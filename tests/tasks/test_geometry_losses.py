from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from interlace.tasks.geometry import GeometryOptions, Prediction
from interlace.tasks.geometry.losses import geometry_terms
from interlace.tasks.geometry.options import TermWeights
from interlace.tasks.geometry.targets import Targets, rotation_matrices
from interlace.tasks.interface import Term

OPTIONS = GeometryOptions(size=(6, 8), alpha=0.3, weights=TermWeights(depth=2.0, ray=0.5, points=0.7, camera=1.1))
B, T, H, W = 3, 2, 6, 8
RAYS = (3, 4)  # a ray map of half the resolution


def make(seed: int = 0, batch: int = B) -> tuple[Prediction, Targets]:
    """Random predictions (leaves that require gradients) and targets with holes, all float64."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    depth = draw(batch, T, H, W).abs() + 0.5
    depth[draw(batch, T, H, W) > 1] = 0
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(batch, T, 1, 1)
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = 7 + draw(batch, T).abs(), 8 + draw(batch, T).abs()
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = 4 + 0.3 * draw(batch, T), 3 + 0.3 * draw(batch, T)
    camera = torch.eye(4, dtype=torch.float64).repeat(batch, T, 1, 1)
    camera[..., :3, :3], camera[..., :3, 3] = rotation_matrices(draw(batch, T, 4)), draw(batch, T, 3)
    prediction = Prediction(
        (draw(batch, T, H, W) * 0.3).exp().requires_grad_(),
        (draw(batch, T, H, W).exp() + 1).requires_grad_(),
        draw(batch, T, *RAYS, 6).requires_grad_(),
        draw(batch, T, 9).requires_grad_(),
    )
    known = torch.ones(batch, dtype=torch.bool)
    return prediction, Targets(depth, intrinsics, camera, known, known)


def without_depth(targets: Targets, sample: int) -> Targets:
    depth, scaled = targets.depth.clone(), targets.scaled.clone()
    depth[sample], scaled[sample] = 0, False
    return dataclasses.replace(targets, depth=depth, scaled=scaled)


def leaves(prediction: Prediction) -> list[Tensor]:
    return [prediction.depth, prediction.confidence, prediction.rays, prediction.poses]


def ray(targets: Targets, b: int, t: int, u: float, v: float) -> Tensor:
    """(origin, direction) through pixel coordinates (u, v)."""
    K, camera = targets.intrinsics[b, t], targets.camera[b, t]
    direction = camera[:3, :3] @ torch.linalg.solve(K, torch.tensor([u, v, 1.0], dtype=torch.float64))
    return torch.cat((camera[:3, 3], direction))


def upsampled(rays: Tensor, y: int, x: int) -> Tensor:
    """One pixel of a ray map [h, w, 6] brought to H x W: bilinear, extended linearly beyond the outer centres."""
    h, w = rays.shape[:2]
    fy, fx = (y + 0.5) * h / H - 0.5, (x + 0.5) * w / W - 0.5
    y0, x0 = min(max(math.floor(fy), 0), h - 2), min(max(math.floor(fx), 0), w - 2)
    a, b = fy - y0, fx - x0
    top = (1 - b) * rays[y0, x0] + b * rays[y0, x0 + 1]
    low = (1 - b) * rays[y0 + 1, x0] + b * rays[y0 + 1, x0 + 1]
    return (1 - a) * top + a * low


def naive_depth(p: Prediction, t: Targets) -> dict[str, tuple[Tensor, int]]:
    """Equation 7, number by number."""
    zero = torch.zeros((), dtype=torch.float64)
    depth, gradient, confidence, pixels, pairs = zero, zero, zero, 0, 0
    for b in range(len(t.depth)):
        for f in range(T):
            for y in range(H):
                for x in range(W):
                    if t.depth[b, f, y, x] <= 0:
                        continue
                    c, here = p.confidence[b, f, y, x], p.depth[b, f, y, x] - t.depth[b, f, y, x]
                    depth, confidence, pixels = depth + c * here.abs(), confidence - c.log(), pixels + 1
                    for ny, nx in ((y, x + 1), (y + 1, x)):
                        if ny < H and nx < W and t.depth[b, f, ny, nx] > 0:
                            change = p.depth[b, f, ny, nx] - p.depth[b, f, y, x]
                            true_change = t.depth[b, f, ny, nx] - t.depth[b, f, y, x]
                            gradient, pairs = gradient + c * (change - true_change).abs(), pairs + 1
    return {"depth": (depth, pixels), "depth_gradient": (gradient, pairs), "confidence": (confidence, pixels)}


def naive_rest(p: Prediction, t: Targets) -> dict[str, tuple[Tensor, int]]:
    """Equation 8, number by number."""
    zero = torch.zeros((), dtype=torch.float64)
    rays, points, camera, n_rays, n_points, n_camera = zero, zero, zero, 0, 0, 0
    for b in range(len(t.depth)):
        first = 0 if t.scaled[b] else 3  # without a scale, origins mean nothing
        for f in range(T):
            for y in range(RAYS[0]):
                for x in range(RAYS[1]):
                    truth = ray(t, b, f, (x + 0.5) * W / RAYS[1], (y + 0.5) * H / RAYS[0])
                    rays = rays + (p.rays[b, f, y, x] - truth)[first:].abs().sum()
                    n_rays += 6 - first
            for y in range(H):
                for x in range(W):
                    if t.depth[b, f, y, x] > 0:
                        truth, guess = ray(t, b, f, x + 0.5, y + 0.5), upsampled(p.rays[b, f], y, x)
                        want = truth[:3] + t.depth[b, f, y, x] * truth[3:]
                        got = guess[:3] + p.depth[b, f, y, x] * guess[3:]
                        points, n_points = points + (got - want).abs().sum(), n_points + 3
            truth = t.poses()[b, f]
            for i in range(9):
                if t.scaled[b] or i not in (4, 5, 6):
                    camera, n_camera = camera + (p.poses[b, f, i] - truth[i]).abs(), n_camera + 1
    return {"ray": (rays, n_rays), "points": (points, n_points), "camera": (camera, n_camera)}


WEIGHTS = {"depth": 2.0, "depth_gradient": 2.0, "confidence": 0.6, "ray": 0.5, "points": 0.7, "camera": 1.1}


@pytest.mark.parametrize("scaleless", [None, 1])
@pytest.mark.parametrize("name", list(WEIGHTS))
def test_terms_equal_the_transcription(name: str, scaleless: int | None) -> None:
    prediction, targets = make()
    if scaleless is not None:
        targets = without_depth(targets, scaleless)
    term = geometry_terms(prediction, targets, OPTIONS)[name]
    naive = naive_depth if name in ("depth", "depth_gradient", "confidence") else naive_rest
    want, count = naive(prediction, targets)[name]
    torch.testing.assert_close(term.sum, want, rtol=1e-12, atol=1e-12)
    assert int(term.count) == count
    assert term.weight == pytest.approx(WEIGHTS[name])
    got_gradients = torch.autograd.grad(term.sum, leaves(prediction), allow_unused=True, materialize_grads=True)
    want_gradients = torch.autograd.grad(want, leaves(prediction), allow_unused=True, materialize_grads=True)
    for got, expected in zip(got_gradients, want_gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_terms_have_a_fixed_order_and_the_truth_costs_nothing() -> None:
    _, targets = make(1)
    perfect = Prediction(
        torch.where(targets.valid, targets.depth, 1.0),
        torch.ones_like(targets.depth),
        targets.rays(*RAYS),
        targets.poses(),
    )
    terms = geometry_terms(perfect, targets, OPTIONS)
    assert list(terms) == list(WEIGHTS)
    for term in terms.values():
        assert term.sum.item() == pytest.approx(0, abs=1e-10)


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    prediction, targets = make(2)
    targets = without_depth(targets, 0)

    def part(which: slice) -> dict[str, Term]:
        one = Prediction(*(leaf[which] for leaf in leaves(prediction)))
        mine = Targets(*(getattr(targets, field.name)[which] for field in dataclasses.fields(Targets)))
        return geometry_terms(one, mine, OPTIONS)

    whole, first, second = part(slice(None)), part(slice(0, 1)), part(slice(1, None))
    for name, term in whole.items():
        torch.testing.assert_close(first[name].sum + second[name].sum, term.sum, rtol=1e-12, atol=1e-12)
        assert int(first[name].count + second[name].count) == int(term.count)
        assert first[name].weight == term.weight


def test_a_batch_without_any_depth_is_finite_and_in_the_graph() -> None:
    prediction, targets = make(3, batch=1)
    terms = geometry_terms(prediction, without_depth(targets, 0), OPTIONS)
    for name in ("depth", "depth_gradient", "confidence", "points"):
        assert (terms[name].sum.item(), int(terms[name].count)) == (0, 0)
    assert int(terms["ray"].count) == T * RAYS[0] * RAYS[1] * 3
    assert int(terms["camera"].count) == T * 6
    for term in terms.values():
        assert term.sum.requires_grad
        gradients = torch.autograd.grad(term.sum, leaves(prediction), allow_unused=True, materialize_grads=True)
        assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_predictions_where_nothing_is_known_get_no_gradient() -> None:
    prediction, targets = make(4)
    targets = without_depth(targets, 1)
    sum(term.sum for term in geometry_terms(prediction, targets, OPTIONS).values()).backward()  # type: ignore[union-attr]
    assert not prediction.depth.grad[~targets.valid].any()
    assert not prediction.confidence.grad[~targets.valid].any()
    assert not prediction.rays.grad[1, ..., :3].any()
    assert not prediction.poses.grad[1, :, 4:7].any()
    assert prediction.rays.grad[1, ..., 3:].all()
    assert prediction.depth.grad[targets.valid].all()
