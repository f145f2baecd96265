"""Linear classifiers of images as DINOv3 trains them: all rates at once, from one frozen forward.

The input is CLS beside the mean patch; SGD with momentum, a cosine to 0, no decay, rates times batch / 256.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interlace.tasks.ssl.measures import directions, vote

from .album import Album, Shown, candidates, small
from .feed import Items, Ledger, Run, batches, training_order
from .frozen import DataHash
from .images import Data
from .probe import NEIGHBOURS
from .result import Facts, Result, Scores, result
from .subjects import Subject

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
#: Images of a frozen forward pass, and queries of one vote.
IMAGES_AT_ONCE, QUERIES_AT_ONCE = 64, 256


@dataclass(frozen=True, kw_only=True)
class LinearBudget:
    """DINOv3's: 10 epochs of 1,250 steps, 128 images on each of 8 GPUs."""

    steps: int = 12_500
    batch: int = 1024
    rates: tuple[float, ...] = RATES

    def settings(self) -> dict[str, Any]:
        return {"steps": self.steps, "batch": self.batch, "rates": "/".join(f"{rate:g}" for rate in self.rates)}


class LinearHeads:
    """A linear classifier for each rate, all on the same batches."""

    def __init__(self, width: int, classes: int, budget: LinearBudget, seed: int, device: str) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = [nn.Linear(width, classes) for _ in budget.rates]
            for head in self.heads:
                nn.init.normal_(head.weight, std=0.01)
                nn.init.zeros_(head.bias)
                head.to(device)
        self.device = torch.device(device)
        groups = [
            {"params": list(head.parameters()), "lr": rate * budget.batch / 256}
            for head, rate in zip(self.heads, budget.rates, strict=True)
        ]
        self.optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, budget.steps)

    def learn(self, inputs: Tensor, classes: Tensor) -> None:
        """One step of every head on inputs [n, D] of ``classes`` [n] int64."""
        there, truth = inputs.to(self.device), classes.to(self.device)
        self.optimizer.zero_grad()
        with torch.enable_grad():
            torch.stack([F.cross_entropy(head(there), truth) for head in self.heads]).sum().backward()
        self.optimizer.step()
        self.schedule.step()

    @torch.no_grad()
    def guesses(self, inputs: Tensor) -> np.ndarray:
        """[heads, n] the class that each says of inputs [n, D]."""
        there = inputs.to(self.device)
        return torch.stack([head(there).argmax(1) for head in self.heads]).cpu().numpy()

    @torch.no_grad()
    def shares(self, head: int, inputs: Tensor) -> np.ndarray:
        """[n, classes] how likely one head holds each class of inputs [n, D]."""
        return self.heads[head](inputs.to(self.device)).softmax(1).cpu().numpy()


@dataclass(frozen=True)
class _Known:
    """Of n images: ``cls`` [n, C], ``mean`` [n, D], ``classes`` and ``indices`` [n] int64."""

    cls: Tensor
    mean: Tensor
    classes: Tensor
    indices: Tensor

    @property
    def inputs(self) -> Tensor:
        return torch.cat((self.cls, self.mean), 1)


def probe_classes(
    subject: Subject,
    data: Data,
    budget: LinearBudget,
    run: Run | None = None,
    *,
    cached: bool = False,
    albums: dict[str, list[Album]] | None = None,
) -> list[Result]:
    """Accuracy of the rate that is best on ``data.aside``, or on the test images where there is none.

    ``cached``: every image is seen once, un-augmented, by the backbone; the vote of the nearest neighbours is then
    measured too. Protocols of other names. An image that is missing or broken is left out by name. ``albums``: takes
    test images spread over the whole set, with what was said of them, under the subject's name.
    """
    run, ledger = run or Run(), Ledger(dict(data.left_out), dict(data.missing))
    with subject.held():
        known = _cache(subject, data.train, ledger.left_out, None, run) if cached else None
        heads = _trained(subject, data, budget, known, ledger.left_out, run)
        aside = None if data.aside is None else _cache(subject, data.aside, ledger.left_out, None, run)
        test = _cache(subject, data.test, ledger.missing, ledger.hashed, run)
    ledger.tell(run.say)
    truth = test.classes.numpy()
    right = heads.guesses(test.inputs) == truth
    picking = right if aside is None else heads.guesses(aside.inputs) == aside.classes.numpy()
    best = int(picking.mean(1).argmax())
    if albums is not None:
        albums.setdefault(subject.name, []).append(_album(data, test, heads.shares(best, test.inputs)))
    where = "val" if aside is None else "held-back rooms"
    units = [data.units[int(index)] for index in test.indices]
    way = "un-augmented, cached" if cached else "random-resized crop and flip"
    facts = Facts(
        protocol=f"linear/classes (CLS and mean patch, {way}; rate picked on {where})",
        data=data.name,
        unit=data.unit,
        subject=subject.name,
        backbone_hash=subject.digest,
        data_hash=ledger.hashed.hexdigest(),
        seed=run.seed,
        settings={**budget.settings(), **ledger.counts()},
        missing=lost_units(data, ledger.missing, units),
        found={
            "kept": f"rate {budget.rates[best]:g}",
            f"on {where}": {f"{rate:g}": float(each) for rate, each in zip(budget.rates, picking.mean(1), strict=True)},
        },
    )
    found = [result(Scores.of("top-1", "higher", units, right[best]), facts)]
    return found if known is None else [*found, _neighbours(known, test, units, facts)]


def _album(data: Data, test: _Known, shares: np.ndarray) -> Album:
    """``shares``: [n, classes] of the ``test`` images."""
    album = Album("classes", "class", "probability of the truth", "higher", data.classes)
    pictured = candidates(len(data.test.names))
    for row, index, truth in zip(shares, test.indices.tolist(), test.classes.numpy(), strict=True):
        if index in pictured:
            pixels, _ = data.test.read(index, None)
            frame = small(pixels.permute(1, 2, 0).numpy()[None])
            album.shown.append(Shown(data.test.names[index], float(row[truth]), frame, truth, row.argmax()))
    return album


def lost_units(data: Data, missing: Mapping[str, str], measured: Sequence[str]) -> dict[str, str]:
    """Units of test items of which none could be measured, and what is no item because it is broken -> why."""
    unit = dict(zip(data.test.names, data.units, strict=True))
    return {unit.get(name, name): why for name, why in missing.items() if unit.get(name) not in set(measured)}


def _neighbours(known: _Known, test: _Known, units: Sequence[str], facts: Facts) -> Result:
    """The vote of the nearest training images by the cosine of CLS around its mean."""
    reference, query = directions(known.cls, test.cls)
    labels = known.classes.numpy()
    guess = np.concatenate([vote(reference, labels, part, NEIGHBOURS) for part in query.split(QUERIES_AT_ONCE)])
    changed = {
        "protocol": "linear/knn (CLS, un-augmented, cached)",
        "settings": {"neighbours": NEIGHBOURS, **{key: facts.settings[key] for key in Ledger().counts()}},
        "found": {},
    }
    return result(Scores.of("top-1", "higher", units, guess == test.classes.numpy()), Facts(**(vars(facts) | changed)))


def tokens_of_images(subject: Subject, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """CLS [n, C] and mean patch [n, D] of uint8 images [n, 3, H, W], each a stream of one frame."""
    rows = []
    for part in pixels.split(IMAGES_AT_ONCE):
        tokens = subject.clips(part[:, None])
        rows.append((tokens.cls[:, 0], tokens.patches[:, 0].mean((1, 2))))
    cls, mean = zip(*rows, strict=True)
    return torch.cat(cls), torch.cat(mean)


def _cache(subject: Subject, items: Items, left_out: dict[str, str], hashed: DataHash | None, run: Run) -> _Known:
    """Features of all items, un-augmented."""
    rows: list[tuple[Tensor, ...]] = []
    for batch in batches(items, np.arange(len(items.names)), IMAGES_AT_ONCE, left_out, workers=run.workers):
        pixels = torch.stack([image for _, (image, _) in batch])
        labels, indices = torch.tensor([label for _, (_, label) in batch]), torch.tensor([index for index, _ in batch])
        rows.append((*tokens_of_images(subject, pixels), labels, indices))
        if hashed is not None:
            for index, (image, label) in batch:
                hashed.add(items.names[index], image.numpy(), np.array(label))
    if not rows:
        raise nothing_left(left_out)
    return _Known(*(torch.cat(each) for each in zip(*rows, strict=True)))


def nothing_left(left_out: Mapping[str, str]) -> ValueError:
    """What to raise when every item was left out: the first few reasons."""
    return ValueError("no image could be read: " + "; ".join(list(left_out.values())[:3]))


def _trained(
    subject: Subject,
    data: Data,
    budget: LinearBudget,
    known: _Known | None,
    left_out: dict[str, str],
    run: Run,
) -> LinearHeads:
    heads: LinearHeads | None = None
    for step, (inputs, classes) in enumerate(_steps(subject, data, budget, known, left_out, run)):
        heads = heads or LinearHeads(inputs.shape[1], len(data.classes), budget, run.seed, run.device)
        heads.learn(inputs, classes)
        if (step + 1) % max(1, budget.steps // 10) == 0:
            run.say(f"{subject.name}: step {step + 1} of {budget.steps}")
    if heads is None:
        raise nothing_left(left_out)
    return heads


def _steps(
    subject: Subject,
    data: Data,
    budget: LinearBudget,
    known: _Known | None,
    left_out: dict[str, str],
    run: Run,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs, classes) of each training step, from memory where they are ``known``."""
    if known is not None:
        inputs = known.inputs
        order = torch.from_numpy(training_order(len(inputs), budget.steps * budget.batch, run.seed))
        yield from ((inputs[chosen], known.classes[chosen]) for chosen in order.split(budget.batch))
        return
    drawn = training_order(len(data.train.names), budget.steps * budget.batch, run.seed)
    for batch in batches(data.train, drawn, budget.batch, left_out, workers=run.workers, seed=run.seed):
        pixels = torch.stack([image for _, (image, _) in batch])
        yield torch.cat(tokens_of_images(subject, pixels), 1), torch.tensor([label for _, (_, label) in batch])
