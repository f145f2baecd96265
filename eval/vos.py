"""Video object segmentation by label propagation: one stream a clip, the first mask carried along by features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from interlace.data_recipes import DataError

from .album import Album, Shown, small, spread
from .davis import MaskedClip, read_sequence, sequence_names
from .feed import Share, alone
from .frozen import DataHash
from .masks import Statistics, boundary, region, statistics
from .propagation import Propagation, propagate, rounded_size
from .result import Facts, Result, Scores, result
from .subjects import Subject

SHORT_SIDE = 480


@dataclass(frozen=True)
class ObjectScore:
    """J and F of one object of one sequence."""

    sequence: str
    j: Statistics
    f: Statistics


@dataclass(frozen=True)
class _Followed:
    """What was found in one sequence."""

    scores: list[ObjectScore]
    shown: Shown
    hashed: DataHash


def label_propagation(
    subject: Subject,
    root: Path,
    *,
    data: str = "DAVIS 2017 val",
    short_side: int = SHORT_SIDE,
    values: Propagation | None = None,
    device: str = "cpu",
    albums: dict[str, list[Album]] | None = None,
    share: Share = alone,
    say: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """J&F and the statistics of J and F over all objects of the sequences in ``root``, in DAVIS's layout.

    A sequence that cannot be read is left out by name. The interval resamples sequences. Raises DataError where the
    list of sequences is missing, ValueError where none can be measured. ``albums``: takes
    the sequences with the masks that were found, by the subject's name. ``share``: measures the sequences.
    """
    values = values or Propagation()

    def followed(name: str) -> _Followed | str:
        """Or why the sequence is left out."""
        try:
            clip = read_sequence(root, name)
        except DataError as error:
            say(f"left out {name}: {error}")
            return str(error)
        hashed = DataHash()
        hashed.add(name, clip.frames, clip.masks)
        guess = follow(subject, clip, short_side, values, device)
        scores = score(name, guess, clip.masks)
        both = (_mean(scores, "j") + _mean(scores, "f")) / 2
        kept = spread(len(guess))
        say(f"{subject.name}: {name}: J {_mean(scores, 'j'):.3f}, F {_mean(scores, 'f'):.3f}")
        shown = Shown(name, both, *(small(each[kept]) for each in (clip.frames, clip.masks, guess)))
        return _Followed(scores, shown, hashed)

    names = sequence_names(root)
    with subject.held():
        outcomes = share(followed, names)
    missing = {name: each for name, each in zip(names, outcomes, strict=True) if isinstance(each, str)}
    found = [each for each in outcomes if not isinstance(each, str)]
    hashed = DataHash()
    for each in found:
        hashed.join(each.hashed)
    if albums is not None:
        album = Album("propagation", "masks carried from the first frame", "J&F mean", "higher")
        album.shown.extend(each.shown for each in found)
        albums.setdefault(subject.name, []).append(album)
    kind = "DINOv3's values" if values == Propagation() else "other values"
    facts = Facts(
        protocol=f"vos/label propagation ({kind}, one stream a clip)",
        data=data,
        unit="sequence",
        subject=subject.name,
        backbone_hash=subject.digest,
        data_hash=hashed.hexdigest(),
        settings={"short_side": short_side, **values.settings()},
        missing=missing,
    )
    return [result(each, facts) for each in measures([score for each in found for score in each.scores])]


def follow(subject: Subject, clip: MaskedClip, short_side: int, values: Propagation, device: str = "cpu") -> np.ndarray:
    """Ids [T, H, W] uint8, the first frame's as given."""
    height, width = clip.masks.shape[1:]
    size = rounded_size(height, width, short_side, subject.patch_size)
    frames = resized(clip.frames, size)

    def patches() -> Iterator[Tensor]:
        for tokens in subject.stream(frames):
            yield tokens.patches[0, 0].to(device)

    first = torch.from_numpy(clip.masks[0])
    return np.stack([clip.masks[0], *(mask.numpy() for mask in propagate(patches(), first, values))])


def resized(frames: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Frames [T, H, W, 3] uint8 -> [T, 3, *size] uint8, bicubic and anti-aliased."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    if tuple(pixels.shape[-2:]) == size:
        return pixels.contiguous()
    rows = [F.interpolate(each[None].float(), size, mode="bicubic", antialias=True)[0] for each in pixels]
    return torch.stack([row.round().clamp(0, 255).to(torch.uint8) for row in rows])


def score(sequence: str, guess: np.ndarray, truth: np.ndarray) -> list[ObjectScore]:
    """Of each object of ``truth`` [T, H, W]; the first frame, which was given, and the last do not count.

    An object that ``guess`` lacks is an empty mask. Raises ValueError for an object that ``truth`` does not have.
    """
    objects = int(truth.max())
    if guess.max() > objects:
        raise ValueError(f"{sequence}: the guess has object {guess.max()}, the truth only {objects}")
    found = []
    for each in range(1, objects + 1):
        pairs = [(guess[t] == each, truth[t] == each) for t in range(1, len(truth) - 1)]
        j, f = (np.array([measure(*pair) for pair in pairs]) for measure in (region, boundary))
        found.append(ObjectScore(sequence, statistics(j), statistics(f)))
    return found


def measures(scores: list[ObjectScore]) -> list[Scores]:
    """The benchmark's seven numbers, means over objects."""
    units = [each.sequence for each in scores]
    both = [(each.j.mean + each.f.mean) / 2 for each in scores]
    found = [Scores.of("J&F mean", "higher", units, both)]
    for letter in ("j", "f"):
        parts: list[Statistics] = [getattr(each, letter) for each in scores]
        found += [
            Scores.of(f"{letter.upper()} mean", "higher", units, [part.mean for part in parts]),
            Scores.of(f"{letter.upper()} recall", "higher", units, [part.recall for part in parts]),
            Scores.of(f"{letter.upper()} decay", "lower", units, [part.decay for part in parts]),
        ]
    return found


def _mean(scores: list[ObjectScore], letter: str) -> float:
    return float(np.mean([getattr(each, letter).mean for each in scores]))
