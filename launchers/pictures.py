"""The pictures a run left, put in order for its report: kinds with a heading, and before beside after."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Pictures of one kind that a page shows.
MOST = 4


@dataclass(frozen=True)
class Kind:
    """Pictures whose names match ``pattern`` in full; ``caption`` is filled with its groups.

    ``layout``: "half" puts before and after beside each other, "small" too but smaller, "wide" one below the other.
    ``measures``: a pattern of TASK/MEASURE, the measures of what these pictures show; empty where there are none.
    """

    pattern: str
    title: str
    note: str = ""
    caption: str = "{0}"
    layout: str = "half"
    measures: str = ""


KINDS = (
    Kind(
        r"geometry_(.+)_depth",
        "Depth",
        "Frame, true depth (blue is near, red is far), predicted depth in the same colours, relative error; below them "
        "what the colours stand for. "
        "White: no truth there; frame and prediction alone: no truth at all.",
        measures=r"geometry/(abs_rel|delta_1\.25)",
    ),
    Kind(
        r"geometry_(.+)_camera",
        "Camera path from above",
        "Black: truth. Orange: prediction. Squares: the first frame. The axes tell their unit.",
        layout="small",
        measures=r"geometry/(rotation_degrees|translation_error)",
    ),
    Kind(
        r"captioning",
        "Captions, signs and boxes",
        "Under each frame the question, the model's answer and the truth. Blue: the truth, its box, a right answer. "
        "Orange: a wrong one, or a box with its overlap with the true one. Grey: a caption, of which many are right.",
        caption="",
        layout="wide",
        measures=r"captioning/.+",
    ),
    Kind(
        r"vlm",
        "Questions and answers",
        "Under each clip or image the question, the model's answer (blue: right, orange: wrong) and the truth.",
        caption="",
        layout="wide",
        measures=r"vlm/.+",
    ),
    Kind(
        r"pca_(\d+)",
        "Features over a clip",
        "Below each frame, the first three principal components of its patch features as red, green and blue.",
        caption="clip {0}",
    ),
    Kind(
        r"neighbours",
        "Nearest neighbours",
        "Framed: a held-out frame. Right of it: those whose frozen CLS is nearest, the nearest first.",
        caption="",
        measures=r"ssl/knn",
    ),
    Kind(
        r"clusters_(.+)",
        "Neighbours by cluster embedding",
        "Framed: a held-out sample. Right of it: those nearest in what cluster discrimination compares.",
        caption="{0} bank",
        measures=r"clusters/recall_.+",
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
        pairs = [_pair(folder, match[0], kind.caption.format(*match.groups())) for match in matches[:MOST]]
        if pairs:
            groups.append(Group(kind, pairs))
    others = [Group(Kind(re.escape(name), name.replace("_", " ")), [_pair(folder, name, "")]) for name in names]
    return groups + others


def doubt(kind: Kind, table: Sequence[Mapping[str, Any]]) -> str:
    """Which measures of what these pictures show are no better than blind; empty where none is.

    ``table``: lines of :func:`.report.gains`.
    """
    found = [
        f"{row['measure']} {row['value']:.3f} (blind {row['blind']:.3f})"
        for row in table
        if re.fullmatch(kind.measures, f"{row['task']}/{row['measure']}")
        and row["verdict"] in ("worse", "no different")
    ]
    if not found:
        return ""
    return f"No better than blind here: {', '.join(found)}. The pictures after may show the same guess for any input."


def _pair(folder: Path, name: str, caption: str) -> Pair:
    start = folder / f"start_{name}.png"
    return Pair(caption.replace("_", " "), folder / f"end_{name}.png", start if start.exists() else None)
