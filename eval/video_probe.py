"""Attentive probes of videos: several of them, that differ in rate and decay, learn from one frozen forward.

On Kinetics-400 and Something-Something V2 videos are read again in every epoch, each time cropped anew. On the
built-in rooms tokens are computed once, nothing is augmented, and the protocol says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from interlace.data_recipes import Sample, generator
from interlace.data_recipes.statistics import scene

from .actions import Actions, VideoItems, Views
from .attentive import Trial, Trials, grid
from .feed import batches, training_order
from .frozen import DataHash
from .heads import split
from .result import Facts, Result, Scores, result
from .rooms import PATHS, path_classes, read_rooms
from .subjects import Subject

#: Test views (OmniStream, table 11) and trials: its rates with V-JEPA 2's decays.
VIEWS = {"k400": Views(8, 3), "ssv2": Views(2, 3)}
DECAYS = (0.01, 0.1, 0.4, 0.8)
TRIALS = {"k400": grid((1e-4, 3e-4), DECAYS), "ssv2": grid((3e-4,), DECAYS)}
ROOM_TRIALS = grid((3e-4, 1e-3), (0.01,))
#: Clips of a frozen forward pass.
CLIPS_AT_ONCE = 16

Combine = Literal["concatenated", "flat"]
_NAMES: dict[Combine, str] = {
    "concatenated": "video/attentive probe (segments concatenated, softmax averaged over crops; {} picked on val)",
    "flat": "video/attentive probe (every view alone, softmax averaged over all; {} picked on val)",
}


@dataclass(frozen=True, kw_only=True)
class VideoBudget:
    """What training costs. ``at_once``: videos of a batch that are in memory together; it changes nothing else."""

    trials: tuple[Trial, ...]
    epochs: int = 20
    batch: int = 256
    at_once: int = 4

    def settings(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "batch": self.batch, "trials": "; ".join(map(str, self.trials))}


def tokens_of(subject: Subject, views: Tensor, combine: Combine) -> Tensor:
    """Frozen tokens of uint8 views [crops, segments, T, 3, S, S] of one video, each clip a stream of its own.

    [crops, segments * T * h * w, D] where segments are concatenated, else [crops * segments, T * h * w, D].
    """
    clips = views.flatten(0, 1)
    patches = torch.cat([subject.clips(part).patches for part in clips.split(CLIPS_AT_ONCE)])
    rows = patches.flatten(1, 3)
    return rows.unflatten(0, views.shape[:2]).flatten(1, 2) if combine == "concatenated" else rows


def probe_videos(
    subject: Subject,
    actions: Actions,
    views: Views,
    budget: VideoBudget,
    *,
    combine: Combine = "concatenated",
    seed: int = 0,
    workers: int = 0,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Top-1 and top-5 on the test videos; the probe that is best there is the one reported, as in V-JEPA 2.

    A video that is missing or broken is left out by name; of training videos the number is among the settings. Raises
    ValueError where none can be read.
    """
    left_out: dict[str, str] = {}
    with subject.held():
        trials = _trained(subject, actions, views, budget, combine, left_out, seed, workers, device, say)
        shares, truth, names, missing, digest = _tested(subject, actions, views, trials, combine, workers)
    for name, why in {**left_out, **missing}.items():
        say(f"left out {name}: {why}")
    right = shares.argmax(-1) == truth
    best = int(right.mean(1).argmax())
    facts = Facts(
        protocol=_NAMES[combine].format("rate and decay"),
        data=actions.name,
        unit="video",
        subject=subject.name,
        backbone_hash=subject.digest,
        data_hash=digest,
        seed=seed,
        settings={**views.settings(), **budget.settings(), "left_out_of_training": len(left_out)},
        missing=missing,
        found={"kept": str(trials.trials[best]), "on val": _each(trials, right)},
    )
    rank = (shares[best] > shares[best][np.arange(len(truth)), truth][:, None]).sum(1)
    return [
        result(Scores.of(f"top-{most}", "higher", names, rank < most), facts)
        for most in (1, 5)
        if most < len(actions.classes)
    ]


def _each(trials: Trials, right: np.ndarray) -> dict[str, float]:
    return {str(trial): float(value) for trial, value in zip(trials.trials, right.mean(1), strict=True)}


def _trained(
    subject: Subject,
    actions: Actions,
    views: Views,
    budget: VideoBudget,
    combine: Combine,
    left_out: dict[str, str],
    seed: int,
    workers: int,
    device: str,
    say: Callable[[str], None],
) -> Trials:
    """Probes after ``budget.epochs``. Clips that are tested alone are trained alone."""
    seen = views if combine == "concatenated" else Views(1, 1, views.frames, views.stride, views.size)
    items = VideoItems(actions.train, seen)
    length = len(items.names)
    order = training_order(length, length * budget.epochs, seed)
    steps = -(-len(order) // budget.batch)
    trials: Trials | None = None
    for step, batch in enumerate(batches(items, order, budget.batch, left_out, workers=workers, seed=seed)):
        parts = [batch[start : start + budget.at_once] for start in range(0, len(batch), budget.at_once)]
        if trials is None:
            width = tokens_of(subject, batch[0][1][0], combine).shape[-1]
            trials = Trials(width, len(actions.classes), budget.trials, steps, seed, device)
        trials.learn((_stacked(subject, part, combine) for part in parts), len(batch))
        if (step + 1) * budget.batch // length > step * budget.batch // length:
            say(f"{subject.name}: epoch {min((step + 1) * budget.batch // length, budget.epochs)} of {budget.epochs}")
    if trials is None:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:3])
        raise ValueError(f"{actions.name}: no training video could be read: {why}")
    return trials


def _stacked(
    subject: Subject, part: Sequence[tuple[int, tuple[Tensor, int]]], combine: Combine
) -> tuple[Tensor, Tensor]:
    tokens = torch.cat([tokens_of(subject, views, combine) for _, (views, _) in part])
    return tokens, torch.tensor([label for _, (_, label) in part])


def _tested(
    subject: Subject, actions: Actions, views: Views, trials: Trials, combine: Combine, workers: int
) -> tuple[np.ndarray, np.ndarray, list[str], dict[str, str], str]:
    """Of the test videos: mean softmax [trials, n, classes], classes [n], names [n], what is missing, their hash."""
    items, missing, hashed = VideoItems(actions.test, views), dict[str, str](), DataHash()
    shares, truth, names = [], [], []
    for batch in batches(items, np.arange(len(items.names)), 1, missing, workers=workers):
        for index, (seen, label) in batch:
            shares.append(trials.shares(tokens_of(subject, seen, combine)).mean(1))
            truth.append(label)
            names.append(items.names[index])
            hashed.add(names[-1], seen.numpy(), np.array(label))
    if not names:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(missing.items())[:3])
        raise ValueError(f"{actions.name}: no test video could be read: {why}")
    return torch.stack(shares, 1).numpy(), np.array(truth), names, missing, hashed.hexdigest()


@dataclass(frozen=True)
class RoomClips:
    """Clips of the rooms with the kind of their camera's path, [n] each; ``digest`` of all.

    ``left_out`` and ``missing``: key -> why of training and of test clips that are broken.
    """

    train: Sequence[Sample]
    test: Sequence[Sample]
    train_paths: np.ndarray
    test_paths: np.ndarray
    digest: str
    left_out: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def room_clips(folder: Path | None = None, *, rooms: int | None = None) -> RoomClips:
    """Of the first ``rooms`` training rooms (None: all) and the held-out ones: see :func:`~.rooms.read_rooms`."""
    left_out, missing = dict[str, str](), dict[str, str]()
    train = read_rooms("train", folder=folder, rooms=rooms, missing=left_out)
    test = read_rooms("held_out", folder=folder, missing=missing)
    paths = [path_classes(samples, reader) for samples, reader in (train, test)]
    hashed = DataHash()
    for (samples, _), kinds in zip((train, test), paths, strict=True):
        for sample, kind in zip(samples, kinds, strict=True):
            hashed.add(sample.key, sample.frames, np.array(kind))
    return RoomClips(train[0], test[0], paths[0], paths[1], hashed.hexdigest(), left_out, missing)


def probe_rooms(
    subject: Subject,
    rooms: RoomClips,
    *,
    trials: tuple[Trial, ...] = ROOM_TRIALS,
    steps: int = 150,
    batch: int = 8,
    held_back: float = 0.2,
    seed: int = 0,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """How the camera moves, told from all tokens of a clip. Training rooms that are held back pick the probe."""
    with subject.held():
        for key, why in {**rooms.left_out, **rooms.missing}.items():
            say(f"left out {key}: {why}")
        say(f"{subject.name}: tokens of {len(rooms.train) + len(rooms.test)} clips")
        known, asked = (_room_tokens(subject, samples) for samples in (rooms.train, rooms.test))
        labels = torch.from_numpy(rooms.train_paths)
        learning, aside = split([scene(sample.key) for sample in rooms.train], held_back, seed)
        probes = Trials(known.shape[-1], len(PATHS), trials, steps, seed, device)
        rng = generator(seed, "attentive batches")
        for step in range(steps):
            chosen = learning[torch.from_numpy(rng.integers(0, len(learning), batch))]
            probes.learn([(known[chosen], labels[chosen])], batch)
            if (step + 1) % 50 == 0:
                say(f"{subject.name}: step {step + 1} of {steps}")
        back = np.concatenate([probes.shares(part).argmax(-1).numpy() for part in known[aside].split(batch)], 1)
        right = back == rooms.train_paths[aside.numpy()]
        best = int(right.mean(1).argmax())
        guess = np.concatenate([probes.shares(part)[best].argmax(-1).numpy() for part in asked.split(batch)])
    facts = Facts(
        protocol="video/attentive probe (un-augmented, rate picked on held-back rooms)",
        data="built-in rooms",
        unit="room",
        subject=subject.name,
        backbone_hash=subject.digest,
        data_hash=rooms.digest,
        seed=seed,
        settings={"steps": steps, "batch": batch, "trials": "; ".join(map(str, trials)), "held_back": held_back},
        missing=rooms.missing,
        found={"kept": str(trials[best]), "on held-back rooms": _each(probes, right)},
    )
    units = [scene(sample.key) for sample in rooms.test]
    commonest = np.bincount(rooms.train_paths).argmax()
    say(f"{subject.name}: always the commonest path: {(rooms.test_paths == commonest).mean():.3f}")
    return [result(Scores.of("camera_path", "higher", units, guess == rooms.test_paths), facts)]


def _room_tokens(subject: Subject, samples: Sequence[Sample]) -> Tensor:
    """[n, T * h * w, D]."""
    rows = []
    for start in range(0, len(samples), CLIPS_AT_ONCE):
        frames = np.stack([sample.frames for sample in samples[start : start + CLIPS_AT_ONCE]])
        pixels = torch.from_numpy(frames).permute(0, 1, 4, 2, 3).contiguous()
        rows.append(subject.clips(pixels).patches.flatten(1, 3))
    return torch.cat(rows)
