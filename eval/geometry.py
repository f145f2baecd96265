"""Streaming video depth and camera pose by CUT3R's protocol, on data sets as they are distributed and on rooms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from interlace.data_recipes import DataError, Sample
from interlace.data_recipes.statistics import scene

from .album import Album, Shown, seen_from_first, small
from .depth_error import Alignment, DepthError, depth_error
from .feed import Share, alone
from .frozen import DataHash
from .recordings import DEPTH, POSE, Benchmark, Recording
from .result import Facts, Result, Scores, result
from .streaming import Reader, Said, watch
from .subjects import Subject
from .trajectory import PoseError, align, pose_error

Kind = Literal["depth", "pose"]

#: The long side of frames, CUT3R's.
LONG_SIDE = 512
#: How an alignment is called in a protocol's name.
ALIGNED = {
    "scale": "one scale a sequence",
    "scale_shift": "one scale and shift a sequence",
    "median": "one ratio of medians a sequence",
    "metric": "not aligned",
}


@dataclass(frozen=True)
class Entry:
    """A sequence to be read. ``unit``: what the interval resamples it with, itself or its room."""

    name: str
    unit: str
    read: Callable[[], Recording]


@dataclass(frozen=True)
class Suite:
    """Sequences with depth or cameras. ``deepest``, ``clip``: see :func:`~.depth_error.depth_error`."""

    kind: Kind
    title: str
    unit: str
    entries: Sequence[Entry]
    deepest: float | None = None
    clip: float | None = None


def benchmark(kind: Kind, name: str, root: Path) -> Suite:
    """One of :data:`~.recordings.DEPTH` or :data:`~.recordings.POSE` in the folder ``root``.

    Raises ValueError for another name, DataError where the folder is missing.
    """
    known: dict[str, Benchmark] = DEPTH if kind == "depth" else POSE
    if name not in known:
        raise ValueError(f"{name}: not measured for {kind}; allowed are rooms, {', '.join(known)}")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the one that {known[name].title} was unpacked to")
    found = known[name]

    def entry(sequence: str) -> Entry:
        return Entry(sequence, sequence, lambda: found.read(root, sequence))

    return Suite(kind, found.title, "sequence", [entry(each) for each in found.names], found.deepest, found.clip)


def rooms(kind: Kind, samples: Sequence[Sample], missing: Mapping[str, str] | None = None) -> Suite:
    """Clips of the built-in rooms, resampled by room. ``missing``: key -> why of those that are broken."""

    def entry(sample: Sample) -> Entry:
        return Entry(sample.key, scene(sample.key), lambda: Recording(sample.frames, sample.depth, sample.c2w))

    def broken(key: str, why: str) -> Entry:
        def read() -> Recording:
            raise DataError(why)

        return Entry(key, scene(key), read)

    lost = [broken(*each) for each in (missing or {}).items()]
    return Suite(kind, "built-in rooms", "room", [*(entry(each) for each in samples), *lost])


@dataclass(frozen=True)
class _Found:
    """What was found in one sequence."""

    error: Any
    unit: str
    shown: Shown
    hashed: DataHash


def stream_geometry(
    subject: Subject,
    reader: Reader,
    suite: Suite,
    *,
    long_side: int = LONG_SIDE,
    alignment: Alignment = "scale",
    seed: int = 0,
    albums: dict[str, list[Album]] | None = None,
    share: Share = alone,
    say: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Depth errors weighted by valid pixels, or pose errors, of one subject read by one reader.

    A sequence that cannot be read or measured is left out by name. Raises ValueError where none can be. ``albums``:
    takes the sequences with what was read of them, aligned, by the subject's name. ``share``: measures the sequences.
    """

    def measured(entry: Entry) -> _Found | str:
        """Or why the sequence is left out."""
        try:
            recording = entry.read()
            _check(suite.kind, recording)
        except DataError as broken:
            say(f"left out {entry.name}: {broken}")
            return str(broken)
        hashed = DataHash()
        hashed.add(entry.name, recording.frames, recording.depth, recording.c2w)
        said = watch(subject, reader, recording, long_side)
        error = _measure(subject, suite, recording, said, alignment, entry.name)
        if suite.unit == "sequence":
            say(f"{subject.name}: {entry.name}: {_brief(error)}")
        return _Found(error, entry.unit, _shown(entry.name, recording, said, error), hashed)

    with subject.held():
        outcomes = share(measured, suite.entries)
    missing = {entry.name: each for entry, each in zip(suite.entries, outcomes, strict=True) if isinstance(each, str)}
    found = [each for each in outcomes if not isinstance(each, str)]
    units, errors, hashed = [each.unit for each in found], [each.error for each in found], DataHash()
    for each in found:
        hashed.join(each.hashed)
    if albums is not None:
        album = _album(suite, alignment)
        album.shown.extend(each.shown for each in found)
        albums.setdefault(subject.name, []).append(album)
    how = ALIGNED[alignment] if suite.kind == "depth" else "one similarity a sequence"
    facts = Facts(
        protocol=f"{suite.kind}/{reader.name} (CUT3R's protocol, {how})",
        data=suite.title,
        unit=suite.unit,
        subject=subject.name,
        backbone_hash=subject.digest,
        data_hash=hashed.hexdigest(),
        seed=seed,
        settings={"long_side": long_side, **reader.settings()},
        missing=missing,
    )
    scored = depth_scores(units, errors) if suite.kind == "depth" else pose_scores(units, errors)
    return [result(each, facts) for each in scored]


def depth_scores(units: Sequence[str], errors: Sequence[DepthError]) -> list[Scores]:
    """Means over sequences, weighted by their valid pixels."""
    pixels = [each.pixels for each in errors]
    return [
        Scores.of("abs_rel", "lower", units, [each.abs_rel for each in errors], pixels),
        Scores.of("delta_1.25", "higher", units, [each.delta_1 for each in errors], pixels),
        Scores.of("rmse", "lower", units, [each.rmse for each in errors], pixels),
        Scores.of("log_rmse", "lower", units, [each.log_rmse for each in errors], pixels),
    ]


def pose_scores(units: Sequence[str], errors: Sequence[PoseError]) -> list[Scores]:
    """Means over sequences."""
    return [
        Scores.of("ate", "lower", units, [each.ate for each in errors]),
        Scores.of("rpe_translation", "lower", units, [each.rpe_translation for each in errors]),
        Scores.of("rpe_rotation_degrees", "lower", units, [each.rpe_rotation for each in errors]),
    ]


def _check(kind: Kind, recording: Recording) -> None:
    """What a subject cannot be blamed for is found before it is asked."""
    if kind == "depth":
        if recording.depth is None or len(recording.depth) != len(recording.frames):
            raise DataError("there is not a depth map for every frame")
        if not (np.isfinite(recording.depth) & (recording.depth > 0)).any():
            raise DataError("no pixel has a valid depth")
    elif recording.c2w is None or recording.c2w.shape != (len(recording.frames), 4, 4) or len(recording.c2w) < 2:
        raise DataError("there is not a pose for every frame, of two at least")
    elif not np.isfinite(recording.c2w).all():
        raise DataError("a true pose is not finite")


def _album(suite: Suite, alignment: Alignment) -> Album:
    unit = "metres" if suite.unit == "room" else "the data set's unit"
    if suite.kind == "depth":
        return Album("depth", f"depth, {ALIGNED[alignment]}", "abs_rel", "lower", unit=unit)
    return Album("pose", "path of the camera, one similarity a sequence", "ate", "lower", unit=unit)


def _shown(name: str, recording: Recording, said: Said, error: DepthError | PoseError) -> Shown:
    """Depth of the middle frame, or the whole path, as it was compared with the truth."""
    middle = len(recording.frames) // 2
    if isinstance(error, DepthError):
        assert recording.depth is not None  # _check
        truth = recording.depth[middle]
        guess = error.scale * said.depth[middle] + error.shift
        frames = small(recording.frames[middle : middle + 1])
        return Shown(name, error.abs_rel, frames, small(np.where(np.isfinite(truth), truth, 0)), small(guess))
    assert recording.c2w is not None  # _check
    true = recording.c2w.astype(np.float64)
    paths = [seen_from_first(each, true[0]) for each in (true, align(said.c2w, true))]
    return Shown(name, error.ate, small(recording.frames[:1]), *paths)


def _measure(
    subject: Subject, suite: Suite, recording: Recording, said: Said, alignment: Alignment, name: str
) -> DepthError | PoseError:
    """A failure here is the subject's, so it stops the measurement instead of sparing it a hard sequence."""
    try:
        if suite.kind == "depth":
            assert recording.depth is not None  # _check
            return depth_error(said.depth, recording.depth, alignment=alignment, deepest=suite.deepest, clip=suite.clip)
        assert recording.c2w is not None  # _check
        return pose_error(said.c2w, recording.c2w)
    except ValueError as error:
        raise ValueError(f"{subject.name} on {name}: {error}") from None


def _brief(error: DepthError | PoseError) -> str:
    return f"abs_rel {error.abs_rel:.3f}" if isinstance(error, DepthError) else f"ate {error.ate:.3f}"
