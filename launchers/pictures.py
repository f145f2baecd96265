"""The pictures a run left, put in order for its report: kinds with a heading, and before beside after."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

#: Pictures of one kind that a page shows.
MOST = 4


@dataclass(frozen=True)
class Kind:
    """Pictures whose names match ``pattern`` in full; its groups caption them."""

    pattern: str
    title: str
    note: str = ""
    small: bool = False


KINDS = (
    Kind(
        r"geometry_(.+)_depth",
        "Depth",
        "Frame, true depth, predicted depth in the same colours, relative error. White: no truth there.",
    ),
    Kind(
        r"geometry_(.+)_camera",
        "Camera path from above",
        "Black: truth. Orange: prediction. Squares: the first frame.",
        small=True,
    ),
    Kind(r"captioning", "Captions, signs and boxes", "What it answers to held-out questions, above the truth."),
    Kind(
        r"pca_(\d+)",
        "Features over a clip",
        "Below each frame, the first three principal components of its patch features as red, green and blue.",
    ),
    Kind(
        r"neighbours", "Nearest neighbours", "Left: a held-out frame. Right of it: those whose frozen CLS is nearest."
    ),
    Kind(
        r"clusters_(.+)",
        "Neighbours by cluster embedding",
        "Left: a held-out sample. Right of it: those nearest in what cluster discrimination compares.",
    ),
)


@dataclass(frozen=True)
class Pair:
    """One picture after training, and before, where there is one."""

    caption: str
    end: Path
    start: Path | None


@dataclass(frozen=True)
class Group:
    """Pictures of one kind."""

    kind: Kind
    pairs: list[Pair]


def picture_groups(folder: Path) -> list[Group]:
    """The pictures ``end_NAME.png`` of a run, at most :data:`MOST` of a kind; unknown kinds come last, by name."""
    names = [path.stem.removeprefix("end_") for path in sorted(folder.glob("end_*.png"))]
    groups = []
    for kind in KINDS:
        matches = [match for name in names if (match := re.fullmatch(kind.pattern, name))]
        names = [name for name in names if not re.fullmatch(kind.pattern, name)]
        pairs = [_pair(folder, match[0], ", ".join(match.groups())) for match in matches[:MOST]]
        if pairs:
            groups.append(Group(kind, pairs))
    others = [Group(Kind(re.escape(name), name.replace("_", " ")), [_pair(folder, name, "")]) for name in names]
    return groups + others


def _pair(folder: Path, name: str, caption: str) -> Pair:
    start = folder / f"start_{name}.png"
    return Pair(caption.replace("_", " "), folder / f"end_{name}.png", start if start.exists() else None)
