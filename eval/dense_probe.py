"""Linear segmentation and depth of images as DINOv3 probes them: batch norm and one linear map on patches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .album import Album, Shown, candidates, small
from .feed import Items, Ledger, Run, batches, training_order
from .images import Data
from .linear_probe import lost_units, nothing_left
from .probe import overlaps, own_iou
from .result import Facts, Result, Scores, result
from .rooms import IGNORED
from .subjects import Subject

#: Bins of depth, what keeps each alive, and how much finer than patches depth is read before it is made larger.
BINS, FLOOR, FINER = 256, 0.1, 4
#: Of the scale-invariant loss: the weight of the squared mean, and what keeps logarithms finite.
MEAN_WEIGHT, EPSILON = 0.15, 1e-3
#: Of the channels that a segmentation head sees in training.
DROPOUT = 0.1


@dataclass(frozen=True, kw_only=True)
class DenseBudget:
    """AdamW, a linear warm-up, then a cosine to 0. The defaults are those of all: table 10 and DINOv3."""

    steps: int
    warmup: int
    batch: int = 16
    rate: float = 1e-3
    decay: float = 1e-3
    clip: float = 35.0

    def settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("steps", "warmup", "batch", "rate", "decay")}

    def factor(self, step: int) -> float:
        """Of the rate, at a step from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        return 0.5 + 0.5 * math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup))


ADE20K = DenseBudget(steps=40_000, warmup=1_500)
NYU = DenseBudget(steps=38_400, warmup=12_800, decay=1e-2)


class DenseLinear(nn.Module):
    """Patches [N, h, w, D] to ``outputs`` numbers a patch, [N, outputs, h, w]."""

    def __init__(self, width: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm2d(width), nn.Dropout2d(dropout)
        self.linear = nn.Conv2d(width, outputs, 1)
        nn.init.normal_(self.linear.weight, std=0.01)
        assert self.linear.bias is not None
        nn.init.zeros_(self.linear.bias)

    def forward(self, patches: Tensor) -> Tensor:
        return self.linear(self.dropout(self.norm(patches.permute(0, 3, 1, 2))))


def binned_depth(scores: Tensor, span: tuple[float, float]) -> Tensor:
    """[N, bins, h, w] -> metres [N, h, w]: the mean of evenly spaced depths, weighted by relu(score) + 0.1."""
    weights = F.relu(scores) + FLOOR
    centres = torch.linspace(*span, scores.shape[1], device=scores.device)
    return torch.einsum("nbhw,b->nhw", weights / weights.sum(1, keepdim=True), centres)


def read_depth(head: nn.Module, patches: Tensor, size: tuple[int, int], span: tuple[float, float]) -> Tensor:
    """Metres [N, *size] of patches [N, h, w, D]."""
    scores = F.interpolate(head(patches), scale_factor=FINER, mode="bilinear")
    return F.interpolate(binned_depth(scores, span)[:, None], size, mode="bilinear")[:, 0]


def scale_invariant_loss(guess: Tensor, truth: Tensor) -> Tensor:
    """sqrt(var g + 0.15 mean(g)^2) of g = log guess - log truth over pixels whose truth is not 0."""
    valid = truth > 0
    if valid.sum() < 2:
        return guess.sum() * 0
    g = torch.log(guess[valid] + EPSILON) - torch.log(truth[valid] + EPSILON)
    return torch.sqrt(g.var() + MEAN_WEIGHT * g.mean().square())


def fit_dense(
    subject: Subject,
    items: Items,
    outputs: int,
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
    budget: DenseBudget,
    left_out: dict[str, str],
    run: Run,
    dropout: float = 0.0,
) -> nn.Module:
    """A head after ``budget.steps`` batches of items. ``loss``: of (head, patches, what is known of the pixels)."""
    side = subject.patch_size
    width = subject.clips(torch.zeros(1, 1, 3, side, side, dtype=torch.uint8)).patches.shape[-1]
    order = training_order(len(items.names), budget.steps * budget.batch, run.seed)
    seen = False
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(run.seed)
        head = DenseLinear(width, outputs, dropout).to(run.device).train()
        optimizer = torch.optim.AdamW(head.parameters(), lr=budget.rate, weight_decay=budget.decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, budget.factor)
        for step, batch in enumerate(batches(items, order, budget.batch, left_out, workers=run.workers, seed=run.seed)):
            seen = True
            pixels, known = (torch.stack([pair[place] for _, pair in batch]) for place in (0, 1))
            patches = subject.clips(pixels[:, None]).patches[:, 0].to(run.device)
            optimizer.zero_grad()
            loss(head, patches, known.to(run.device)).backward()
            nn.utils.clip_grad_norm_(head.parameters(), budget.clip)
            optimizer.step()
            schedule.step()
            if (step + 1) % max(1, budget.steps // 10) == 0:
                run.say(f"{subject.name}: step {step + 1} of {budget.steps}")
    if not seen:
        raise nothing_left(left_out)
    return head.eval().requires_grad_(False)


@torch.no_grad()
def slide(subject: Subject, head: nn.Module, pixels: Tensor, size: int, stride: int, device: str = "cpu") -> Tensor:
    """Scores [outputs, H, W] of an image [3, H, W] whose short side is ``size``: means over overlapping squares."""
    height, width = pixels.shape[-2:]
    sums, counts = torch.zeros(0), torch.zeros(height, width)
    for top in window_places(height, size, stride):
        for left in window_places(width, size, stride):
            window = pixels[:, top : top + size, left : left + size].contiguous()
            patches = subject.clips(window[None, None]).patches[:, 0].to(device)
            scores = F.interpolate(head(patches), (size, size), mode="bilinear")[0].cpu()
            sums = sums if len(sums) else torch.zeros(len(scores), height, width)
            sums[:, top : top + size, left : left + size] += scores
            counts[top : top + size, left : left + size] += 1
    return sums / counts


def window_places(length: int, size: int, stride: int) -> list[int]:
    """Where squares begin along a side: ``stride`` apart, the last at the end."""
    count = max(0, math.ceil((length - size) / stride)) + 1
    return [min(number * stride, length - size) for number in range(count)]


def probe_segmentation(
    subject: Subject,
    data: Data,
    budget: DenseBudget,
    run: Run | None = None,
    *,
    size: int = 512,
    albums: dict[str, list[Album]] | None = None,
) -> list[Result]:
    """Mean IoU over the classes, intersections and unions summed over all test images before they are divided.

    ``albums``: takes test images spread over the whole set, with what was said of them, under the subject's name.
    """
    run, ledger, stride = run or Run(), Ledger(dict(data.left_out), dict(data.missing)), round(size * 2 / 3)
    both, either, units = [], [], []
    album = Album("segmentation", "classes of pixels", "mean IoU of its own classes", "higher", data.classes)
    pictured = candidates(len(data.test.names))

    def loss(head: nn.Module, patches: Tensor, truth: Tensor) -> Tensor:
        scores = F.interpolate(head(patches), truth.shape[1:], mode="bilinear")
        valid = (truth != IGNORED).sum().clamp_min(1)
        return F.cross_entropy(scores, truth.long(), ignore_index=IGNORED, reduction="sum") / valid

    with subject.held():
        head = fit_dense(subject, data.train, len(data.classes), loss, budget, ledger.left_out, run, DROPOUT)
        for batch in batches(data.test, np.arange(len(data.test.names)), 1, ledger.missing, workers=run.workers):
            for index, (pixels, truth) in batch:
                scores = slide(subject, head, pixels, size, stride, run.device)
                guess = F.interpolate(scores[None], truth.shape, mode="bilinear")[0].argmax(0).numpy()
                inside, union = overlaps(guess[None], truth.numpy()[None], len(data.classes))
                both.append(inside[0])
                either.append(union[0])
                units.append(data.units[index])
                ledger.hashed.add(data.test.names[index], pixels.numpy(), truth.numpy())
                if index in pictured:
                    (score,) = own_iou(inside, union)
                    album.shown.append(_shown(data.test.names[index], score, pixels, truth, guess.astype(np.uint8)))
    if not units:
        raise nothing_left(ledger.missing)
    if albums is not None:
        albums.setdefault(subject.name, []).append(album)
    protocol = "linear/segmentation (batch norm and linear on patches, sliding window)"
    settings = {"size": size, "stride": stride, "dropout": DROPOUT, **budget.settings()}
    facts = _facts(protocol, subject, data, settings, ledger, units, run)
    return [result(Scores("miou", "higher", units, np.stack(both), np.stack(either)), facts)]


def probe_depth(
    subject: Subject,
    data: Data,
    budget: DenseBudget,
    run: Run | None = None,
    *,
    span: tuple[float, float] = (0.001, 10.0),
    albums: dict[str, list[Album]] | None = None,
) -> list[Result]:
    """RMSE, AbsRel and delta < 1.25 of metres, of each image and then their means; nothing is aligned.

    ``albums``: as of :func:`probe_segmentation`.
    """
    run, ledger = run or Run(), Ledger(dict(data.left_out), dict(data.missing))
    rows, units = [], []
    album = Album("depth", "depth in metres, not aligned", "abs_rel", "lower")
    pictured = candidates(len(data.test.names))

    def loss(head: nn.Module, patches: Tensor, truth: Tensor) -> Tensor:
        return scale_invariant_loss(read_depth(head, patches, (truth.shape[1], truth.shape[2]), span), truth)

    with subject.held():
        head = fit_dense(subject, data.train, BINS, loss, budget, ledger.left_out, run)
        for batch in batches(data.test, np.arange(len(data.test.names)), 1, ledger.missing, workers=run.workers):
            for index, (pixels, truth) in batch:
                name = data.test.names[index]
                if not (truth > 0).any():
                    ledger.missing[name] = f"{name}: no pixel with a depth that counts"
                    continue
                guess = mirrored_depth(subject, head, pixels, (truth.shape[0], truth.shape[1]), span, run.device)
                rows.append(depth_errors(guess, truth.numpy()))
                units.append(data.units[index])
                ledger.hashed.add(name, pixels.numpy(), truth.numpy())
                if index in pictured:
                    album.shown.append(_shown(name, rows[-1][1], pixels, truth, guess))
    if not units:
        raise nothing_left(ledger.missing)
    if albums is not None:
        albums.setdefault(subject.name, []).append(album)
    settings = {"bins": BINS, "span": "/".join(map(str, span)), "flip": "averaged", **budget.settings()}
    protocol = "linear/depth (batch norm and linear on patches, 256 bins, metres, not aligned)"
    facts = _facts(protocol, subject, data, settings, ledger, units, run)
    better = {"rmse": "lower", "abs_rel": "lower", "delta_1.25": "higher"}
    columns = np.array(rows).T
    return [
        result(Scores.of(name, "lower" if way == "lower" else "higher", units, column), facts)
        for (name, way), column in zip(better.items(), columns, strict=True)
    ]


def _shown(name: str, score: float, pixels: Tensor, truth: Tensor, guess: np.ndarray) -> Shown:
    return Shown(name, score, small(pixels.permute(1, 2, 0).numpy()[None]), small(truth.numpy()), small(guess))


@torch.no_grad()
def mirrored_depth(
    subject: Subject, head: nn.Module, pixels: Tensor, size: tuple[int, int], span: tuple[float, float], device: str
) -> np.ndarray:
    """Metres [H, W]: the mean of the image's and its mirror image's, within ``span``."""
    both = torch.stack((pixels, pixels.flip(-1)))
    patches = subject.clips(both[:, None].contiguous()).patches[:, 0].to(device)
    one, other = read_depth(head, patches, size, span).clamp(*span).cpu()
    return ((one + other.flip(-1)) / 2).numpy()


def depth_errors(guess: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """(RMSE, mean |d - t| / t, share with max(d / t, t / d) < 1.25) over pixels whose truth is not 0."""
    seen, true = guess[truth > 0].astype(np.float64), truth[truth > 0].astype(np.float64)
    apart = np.abs(seen - true)
    inside = np.maximum(seen / true, true / seen) < 1.25
    return float(np.sqrt((apart**2).mean())), float((apart / true).mean()), float(inside.mean())


def _facts(
    protocol: str, subject: Subject, data: Data, settings: dict[str, Any], ledger: Ledger, units: list[str], run: Run
) -> Facts:
    ledger.tell(run.say)
    return Facts(
        protocol=protocol,
        data=data.name,
        unit=data.unit,
        subject=subject.name,
        backbone_hash=subject.digest,
        data_hash=ledger.hashed.hexdigest(),
        seed=run.seed,
        settings={**settings, **ledger.counts()},
        missing=lost_units(data, ledger.missing, units),
    )
