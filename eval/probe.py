"""Probes on the built-in rooms: nearest neighbours, linear classes, segmentation, depth and pose.

One forward over every clip gives the tokens that all probes share. Frames are not augmented: these protocols are named
so, and are compared with nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from interlace.data_recipes import Sample
from interlace.data_recipes.statistics import scene
from interlace.data_recipes.worlds.rooms import LABELS
from interlace.tasks.geometry.measures import rotation_degrees
from interlace.tasks.geometry.targets import quaternions, relative_to_first
from interlace.tasks.ssl.measures import UNLABELLED, classes, directions, vote

from .album import Album, Shown, small
from .frozen import DataHash
from .heads import Budget, DenseHead, PoseHead, class_loss, depth_loss, fit, pose_loss
from .linear import fit_linear
from .result import Facts, Result, Scores, result
from .rooms import CLASSES, IGNORED, pixel_classes, read_rooms
from .subjects import Subject

#: Clips of a forward pass, frames of a clip that dense heads see (spread over it), and voting neighbours.
CLIPS_AT_ONCE, DENSE_FRAMES, NEIGHBOURS = 16, 2, 20


@dataclass(frozen=True)
class Rooms:
    """Training and held-out clips of the rooms with the classes of the pixels of ``dense`` [n, f], frames by clip.

    ``left_out`` and ``missing``: key -> why of training and of held-out clips that are broken.
    """

    train: Sequence[Sample]
    test: Sequence[Sample]
    train_frames: np.ndarray
    test_frames: np.ndarray
    train_classes: np.ndarray
    test_classes: np.ndarray
    digest: str
    left_out: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cached:
    """Tokens of n clips: ``cls`` [n, C] and ``mean`` [n, D], means over time; ``camera`` [n, T, K]; ``patches``
    [n, f, h, w, D] of the dense frames."""

    cls: Tensor
    mean: Tensor
    camera: Tensor
    patches: Tensor


def load_rooms(folder: Path | None = None, *, train: int | None = None, test: int | None = None) -> Rooms:
    """The demo's rooms, of each split the first ``train`` and ``test`` rooms, ready for all probes."""
    parts = []
    found = DataHash()
    lost: dict[str, dict[str, str]] = {"train": {}, "held_out": {}}
    for name, rooms in (("train", train), ("held_out", test)):
        samples, reader = read_rooms(name, folder=folder, rooms=rooms, missing=lost[name])
        chosen = spread_frames(samples, DENSE_FRAMES)
        maps = pixel_classes(samples, chosen, reader)
        for sample, each in zip(samples, maps, strict=True):
            labels = np.array([f"{key} {value}" for key, value in sorted(sample.labels.items())])
            found.add(sample.key, sample.frames, sample.depth, sample.c2w, labels, each)
        parts.append((samples, chosen, maps))
    (train_samples, train_frames, train_maps), (test_samples, test_frames, test_maps) = parts
    digest = found.hexdigest()
    clips = (train_samples, test_samples, train_frames, test_frames, train_maps, test_maps)
    return Rooms(*clips, digest, lost["train"], lost["held_out"])


def spread_frames(samples: Sequence[Sample], count: int) -> np.ndarray:
    """[n, f] the last frame of each of ``count`` equal parts of clips of one length, or all frames of shorter clips."""
    length = len(samples[0].frames)
    count = min(count, length)
    return np.tile(((np.arange(count) + 1) * length // count - 1)[None], (len(samples), 1))


def cache(subject: Subject, samples: Sequence[Sample], frames: np.ndarray) -> Cached:
    """One forward over all clips, all of one shape; ``frames`` [n, f]: the dense ones."""
    rows: list[tuple[Tensor, ...]] = []
    for start in range(0, len(samples), CLIPS_AT_ONCE):
        part = samples[start : start + CLIPS_AT_ONCE]
        pixels = torch.from_numpy(np.stack([sample.frames for sample in part])).permute(0, 1, 4, 2, 3)
        tokens = subject.clips(pixels.contiguous())
        chosen = torch.from_numpy(frames[start : start + len(part)])
        dense = tokens.patches[torch.arange(len(part))[:, None], chosen]
        rows.append((tokens.cls.mean(1), tokens.patches.mean((1, 2, 3)), tokens.camera, dense))
    return Cached(*(torch.cat(each) for each in zip(*rows, strict=True)))


@dataclass(frozen=True)
class Measured:
    """What a probe found, with its test clips for pictures."""

    scores: Scores
    protocol: str
    settings: dict[str, object] = field(default_factory=dict)
    album: Album | None = None


#: A fitted probe: from tokens of the held-out clips to what it finds.
Reading = Callable[[Cached], Iterator[Measured]]


def probe(
    subject: Subject,
    rooms: Rooms,
    *,
    budget: Budget | None = None,
    seed: int = 0,
    others: Sequence[Subject] = (),
    albums: dict[str, list[Album]] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Every probe of one subject. ``say`` hears which is under way. Nothing about the subject may change meanwhile.

    ``others``: what else is read with the very heads that were fitted on this subject's tokens, such as its stream in
    8 bits. ``albums``: takes the test clips with what was said of them by ``subject``, under its name.
    """
    budget = budget or Budget()
    results = []
    with ExitStack() as held:
        for each in (subject, *others):
            held.enter_context(each.held())
        for key, why in {**rooms.left_out, **rooms.missing}.items():
            say(f"left out {key}: {why}")
        say(f"{subject.name}: features of {len(rooms.train) + len(rooms.test)} clips")
        train = cache(subject, rooms.train, rooms.train_frames)
        tests = [(each, cache(each, rooms.test, rooms.test_frames)) for each in (subject, *others)]
        for fitted in (_neighbours, _linear, _segmentation, _depth, _pose):
            say(f"{subject.name}: {fitted.__name__.strip('_')}")
            read = fitted(train, rooms, budget, seed)
            for each, test in tests:
                for found in read(test):
                    facts = Facts(
                        protocol=found.protocol,
                        data="built-in rooms",
                        unit="room",
                        subject=each.name,
                        backbone_hash=each.digest,
                        data_hash=rooms.digest,
                        seed=seed,
                        settings=found.settings,
                        missing=rooms.missing,
                    )
                    results.append(result(found.scores, facts))
                    if albums is not None and found.album is not None and each is subject:
                        albums.setdefault(subject.name, []).append(found.album)
    return results


def _neighbours(train: Cached, rooms: Rooms, budget: Budget, seed: int) -> Reading:
    """The vote of the nearest training clips by the cosine of CLS around its mean."""

    def read(test: Cached) -> Iterator[Measured]:
        reference, query = directions(train.cls, test.cls)
        for name, known, truth in _labels(rooms):
            within, applies = known != UNLABELLED, truth != UNLABELLED
            guess = vote(reference[within], known[within], query[applies], NEIGHBOURS)
            scores = Scores.of(name, "higher", _units(rooms, applies), guess == truth[applies])
            yield Measured(scores, "probe/knn (CLS, un-augmented)", {"neighbours": NEIGHBOURS})

    return read


def _linear(train: Cached, rooms: Rooms, budget: Budget, seed: int) -> Reading:
    """A linear classifier on CLS and mean patch, its weight decay chosen on held-back rooms."""
    scenes = [scene(sample.key) for sample in rooms.train]
    fitted = []
    for name, known, truth in _labels(rooms):
        within = known != UNLABELLED
        mine = [each for each, used in zip(scenes, within, strict=True) if used]
        inputs = torch.cat((train.cls, train.mean), 1)[within]
        fitted.append((name, truth, fit_linear(inputs, known[within], mine, budget.held_back, seed)))

    def read(test: Cached) -> Iterator[Measured]:
        for name, truth, classifier in fitted:
            places = np.flatnonzero(truth != UNLABELLED)
            shares = classifier.shares(torch.cat((test.cls, test.mean), 1)[places]).numpy()
            guess, true = shares.argmax(1), truth[places]
            album = Album("classes", name, "probability of the truth", "higher", LABELS.get(name, ()))
            for place, row, said, right in zip(places, shares, guess, true, strict=True):
                # a class that no training clip has is never given any share
                score = float(row[right]) if right < len(row) else 0.0
                sample = rooms.test[place]
                album.shown.append(Shown(sample.key, score, small(sample.frames[-1:]), right, said))
            scores = Scores.of(name, "higher", _units(rooms, truth != UNLABELLED), guess == true)
            protocol = "probe/linear (CLS and mean patch, un-augmented)"
            yield Measured(scores, protocol, {"held_back": budget.held_back}, album)

    return read


def _segmentation(train: Cached, rooms: Rooms, budget: Budget, seed: int) -> Reading:
    """A linear head on patches; intersections and unions are summed over all clips before they are divided."""
    patches, truth = train.patches.flatten(0, 1), torch.from_numpy(rooms.train_classes).flatten(0, 1)
    fitted = fit(
        lambda: DenseHead(patches, len(CLASSES)),
        class_loss(patches, truth, IGNORED),
        _frame_scenes(rooms.train, rooms.train_frames),
        budget,
        seed,
    )
    size = rooms.test_classes.shape[2:]

    def read(test: Cached) -> Iterator[Measured]:
        with torch.no_grad():
            guesses = np.stack([fitted.head(each, size).argmax(1).numpy() for each in test.patches]).astype(np.uint8)
        both, either = overlaps(guesses, rooms.test_classes, len(CLASSES))
        album = Album("segmentation", "classes of pixels", "mean IoU of its own classes", "higher", CLASSES)
        for row, score in enumerate(own_iou(both, either)):
            maps = small(rooms.test_classes[row, -1]), small(guesses[row, -1])
            album.shown.append(Shown(rooms.test[row].key, score, _dense_frame(rooms, row), *maps))
        scores = Scores("miou", "higher", _units(rooms), both, either)
        yield Measured(scores, "probe/segmentation (linear on patches)", budget.settings(), album)

    return read


def _depth(train: Cached, rooms: Rooms, budget: Budget, seed: int) -> Reading:
    """A linear head on patches that says log metres; nothing is aligned."""
    truth = [true_depths(*each) for each in ((rooms.train, rooms.train_frames), (rooms.test, rooms.test_frames))]
    patches, known = train.patches.flatten(0, 1), truth[0].flatten(0, 1)
    start = float(known[known > 0].log().mean())
    fitted = fit(
        lambda: DenseHead(patches, 1, start),
        depth_loss(patches, known),
        _frame_scenes(rooms.train, rooms.train_frames),
        budget,
        seed,
    )

    def read(test: Cached) -> Iterator[Measured]:
        with torch.no_grad():
            guess = [fitted.head(each, tuple(known.shape[1:]))[:, 0].exp() for each in test.patches]
        relative, inside = [], []
        album = Album("depth", "depth in metres, not aligned", "abs_rel", "lower")
        for row, (seen, true) in enumerate(zip(guess, truth[1], strict=True)):
            factor = (seen / true)[true > 0].double()
            relative.append(float((factor - 1).abs().mean()))
            inside.append(float((torch.maximum(factor, 1 / factor) < 1.25).double().mean()))
            maps = small(true[-1].numpy()), small(seen[-1].numpy())
            album.shown.append(Shown(rooms.test[row].key, relative[-1], _dense_frame(rooms, row), *maps))
        protocol = "probe/depth (linear on patches, metres, not aligned)"
        yield Measured(Scores.of("abs_rel", "lower", _units(rooms), relative), protocol, budget.settings(), album)
        yield Measured(Scores.of("delta_1.25", "higher", _units(rooms), inside), protocol, budget.settings())

    return read


def _pose(train: Cached, rooms: Rooms, budget: Budget, seed: int) -> Reading:
    """A fresh head on camera tokens; errors of frames 1 on, relative to the first camera, not aligned."""
    known, truth = relative_poses(rooms.train), relative_poses(rooms.test)
    later = train.camera[:, 1:]
    first = train.camera[:, :1].expand_as(later)
    flat = [each.flatten(0, 1) for each in (later, first, known[:, 1:])]
    scenes = np.repeat([scene(sample.key) for sample in rooms.train], later.shape[1]).tolist()
    fitted = fit(lambda: PoseHead(train.camera), pose_loss(flat[0], flat[1], flat[2]), scenes, budget, seed)
    true = truth[:, 1:].double().numpy()

    def read(test: Cached) -> Iterator[Measured]:
        with torch.no_grad():
            guess = fitted.head(test.camera[:, 1:], test.camera[:, :1].expand_as(test.camera[:, 1:])).double().numpy()
        protocol = "probe/pose (2 layers on camera tokens, not aligned)"
        degrees = rotation_degrees(guess[..., :4], true[..., :4]).mean(1)
        metres = np.linalg.norm(guess[..., 4:] - true[..., 4:], axis=-1).mean(1)
        album = Album("pose", "path of the camera in metres, not aligned", "mean error of the place", "lower")
        for row, sample in enumerate(rooms.test):
            # the first camera is where it is by definition
            paths = [np.concatenate((np.zeros((1, 3)), each[row, :, 4:])) for each in (true, guess)]
            album.shown.append(Shown(sample.key, float(metres[row]), small(sample.frames[:1]), *paths))
        yield Measured(
            Scores.of("rotation_degrees", "lower", _units(rooms), degrees), protocol, budget.settings(), album
        )
        yield Measured(Scores.of("translation_metres", "lower", _units(rooms), metres), protocol, budget.settings())

    return read


def overlaps(guess: np.ndarray, truth: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Intersections and unions, [n, classes] pixels each, of maps [n, ...]; IGNORED pixels count in neither."""
    both, either = np.zeros((len(truth), classes)), np.zeros((len(truth), classes))
    for row, (seen, true) in enumerate(zip(guess, truth, strict=True)):
        valid = true != IGNORED
        table = np.bincount(true[valid].astype(np.int64) * classes + seen[valid], minlength=classes**2)
        table = table.reshape(classes, classes)
        both[row] = np.diag(table)
        either[row] = table.sum(0) + table.sum(1) - np.diag(table)
    return both, either


def own_iou(both: np.ndarray, either: np.ndarray) -> list[float]:
    """[n] of each sample: the mean IoU of the classes that it or its guess has; intersections and unions [n, k]."""
    return [
        float((one[of > 0] / of[of > 0]).mean()) if (of > 0).any() else 0.0
        for one, of in zip(both, either, strict=True)
    ]


def relative_poses(samples: Sequence[Sample]) -> Tensor:
    """[n, T, 7] float32: quaternion xyzw (w >= 0) and translation in metres, in the first camera's frame."""
    rows = []
    for sample in samples:
        if sample.c2w is None or not np.isfinite(sample.c2w).all():
            raise ValueError(f"{sample.key}: a camera is missing or not finite")
        camera = relative_to_first(torch.from_numpy(sample.c2w))
        rows.append(torch.cat((quaternions(camera[:, :3, :3]), camera[:, :3, 3]), -1))
    return torch.stack(rows).float()


def true_depths(samples: Sequence[Sample], frames: np.ndarray) -> Tensor:
    """[n, f, H, W] float32 metres of the dense frames."""
    rows = []
    for sample, chosen in zip(samples, frames, strict=True):
        if sample.depth is None:
            raise ValueError(f"{sample.key}: has no depth")
        rows.append(np.where(np.isfinite(sample.depth[chosen]), sample.depth[chosen], 0))
    return torch.from_numpy(np.stack(rows)).float()


def _labels(rooms: Rooms) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(label, classes of training clips, classes of held-out clips) of every label that both have."""
    for name in sorted({name for sample in rooms.train for name in sample.labels}):
        known, truth = classes(rooms.train, name), classes(rooms.test, name)
        if (truth != UNLABELLED).any():
            yield name, known, truth


def _dense_frame(rooms: Rooms, row: int) -> np.ndarray:
    """[1, H, W, 3] the last dense frame of a held-out clip."""
    return small(rooms.test[row].frames[rooms.test_frames[row, -1:]])


def _units(rooms: Rooms, applies: np.ndarray | None = None) -> list[str]:
    """The room of each held-out clip (that a measure applies to)."""
    used = np.ones(len(rooms.test), bool) if applies is None else applies
    return [scene(sample.key) for sample, each in zip(rooms.test, used, strict=True) if each]


def _frame_scenes(samples: Sequence[Sample], frames: np.ndarray) -> list[str]:
    """The room of each dense frame."""
    return [scene(sample.key) for sample in samples for _ in range(frames.shape[1])]
