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


def label_propagation(
    subject: Subject,
    root: Path,
    *,
    data: str = "DAVIS 2017 val",
    short_side: int = SHORT_SIDE,
    values: Propagation | None = None,
    device: str = "cpu",
    albums: dict[str, list[Album]] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """J&F and the statistics of J and F over all objects of the sequences in ``root``, in DAVIS's layout.

    A sequence that cannot be read is left out by name. The interval resamples sequences. Raises DataError where the
    list of sequences is missing, ValueError where none can be measured. ``albums``: takes
    the sequences with the masks that were found, by the subject's name.
    """
    values = values or Propagation()
    scores: list[ObjectScore] = []
    missing: dict[str, str] = {}
    hashed = DataHash()
    album = Album("propagation", "masks carried from the first frame", "J&F mean", "higher")
    with subject.held():
        for name in sequence_names(root):
            try:
                clip = read_sequence(root, name)
            except DataError as error:
                missing[name] = str(error)
                say(f"left out {name}: {error}")
                continue
            hashed.add(name, clip.frames, clip.masks)
            guess = follow(subject, clip, short_side, values, device)
            found = score(name, guess, clip.masks)
            scores += found
            both = (_mean(found, "j") + _mean(found, "f")) / 2
            kept = spread(len(guess))
            album.shown.append(Shown(name, both, *(small(each[kept]) for each in (clip.frames, clip.masks, guess))))
            say(f"{subject.name}: {name}: J {_mean(found, 'j'):.3f}, F {_mean(found, 'f'):.3f}")
    if albums is not None:
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
    return [result(each, facts) for each in measures(scores)]


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
