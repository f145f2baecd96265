"""Real test samples as pictures: the best, the middle and the worst, each beside its truth, for every subject alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .charts import COLOURS
from .result_pictures import WHITE, depth_ends, legend_of, paint_classes, paint_depths

if TYPE_CHECKING:
    from interlace.eval.album import Album, Kind, Shown

#: The relative error that is drawn in the brightest colour.
WORST = 0.5
#: Classes: how many samples of the best, the middle and the worst are shown.
ASKED = 2
RIGHT, WRONG = "#005aaa", "#c85000"
_TITLES: dict[Kind, str] = {
    "classes": "Classes",
    "segmentation": "Segmentation",
    "depth": "Depth",
    "pose": "Camera path from above",
    "propagation": "Masks over time",
}
_NOTES: dict[Kind, str] = {
    "classes": "Under each frame the truth and what was answered: blue with ✓ is right, orange with ✗ is wrong.",
    "segmentation": "Frame, truth and predictions, in the same colours. White: no class there.",
    "depth": "Frame, truth, and for each the prediction and its relative error. All depths of a row share the colours "
    "told below the truth. White: no truth there.",
    "pose": "Right and forward of the first camera, seen from above. Black: truth. Squares: the first frame.",
    "propagation": "Masks over the frames, a colour an object. The first frame's mask was given.",
}


@dataclass(frozen=True)
class Picture:
    """A picture with what a reader must know. ``name`` is part of its file's."""

    name: str
    title: str
    caption: str
    figure: Figure


def draw_albums(albums: Mapping[str, Sequence[Album]]) -> list[Picture]:
    """A picture for each kind of question; the first subject's scores decide which samples are shown."""
    pictures = []
    named = {name: list(each) for name, each in albums.items()}
    first = next(iter(named))
    for kind in dict.fromkeys(album.kind for album in named[first]):
        parts = {name: [album for album in each if album.kind == kind] for name, each in named.items()}
        caption = _caption(parts[first], first, others=len(parts) > 1)
        pictures.append(Picture(kind, _TITLES[kind], f"{caption} {_NOTES[kind]}", _DRAWN[kind](parts)))
    return pictures


def _caption(albums: Sequence[Album], first: str, others: bool) -> str:
    album = albums[0]
    counts = sorted({len(each.shown) for each in albums})
    count = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    title = ", ".join(each.title for each in albums)
    which = f"The best, the middle and the worst of {count} samples by {first}'s {album.measure}"
    same = "; the others are shown the same" if others else ""
    return f"{title[:1].upper()}{title[1:]}. {which}{same}."


_Parts = Mapping[str, Sequence["Album"]]


def _rows(parts: _Parts) -> list[tuple[str, list[Shown]]]:
    """(which it is, the sample of every subject) of the chosen samples of the only album."""
    albums = [each[0] for each in parts.values()]
    return [(word, [album.shown[place] for album in albums]) for word, place in albums[0].chosen()]


def _grid(lines: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """``lines`` x ``columns`` axes without marks, of a size in inches, with room for names on the left."""
    figure = Figure(figsize=(width * columns + 0.9, height * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    return figure, axes


def _side(shown: Shown) -> float:
    """Height of its frames for each unit of width."""
    return shown.frames.shape[1] / shown.frames.shape[2]


def _label(axis: Axes, word: str, shown: Shown) -> None:
    _beside(axis, f"{word}: {shown.score:.3f}\n{_short(shown.name)}")


def _beside(axis: Axes, text: str) -> None:
    axis.set_ylabel(text.replace("/", "/\n"), fontsize=7, rotation=0, ha="right", va="center")


def _short(name: str) -> str:
    """A key without its data set."""
    return name.partition("/")[2] or name


def _segmentation(parts: _Parts) -> Figure:
    rows, classes = _rows(parts), next(iter(parts.values()))[0].names
    figure, axes = _grid(len(rows), 2 + len(parts), 2.0, 2.0 * _side(rows[0][1][0]) + 0.25)
    for axis, title in zip(axes[0], ("frame", "truth", *parts), strict=True):
        axis.set_title(title, fontsize=8)
    for line, (word, samples) in zip(axes, rows, strict=True):
        _label(line[0], word, samples[0])
        line[0].imshow(samples[0].frames[-1])
        for axis, classes_there in zip(line[1:], (samples[0].truth, *(each.guess for each in samples)), strict=True):
            axis.imshow(paint_classes(classes_there), interpolation="nearest")
        _scores(line[3:], samples[1:])
    legend_of(figure, [samples[0].truth for _, samples in rows], classes)
    return figure


def _scores(axes: Sequence[Axes], samples: Sequence[Shown]) -> None:
    for axis, each in zip(axes, samples, strict=True):
        axis.set_xlabel(f"{each.score:.3f}", fontsize=7)


def _depth(parts: _Parts) -> Figure:
    rows = _rows(parts)
    figure, axes = _grid(len(rows), 2 + 2 * len(parts), 1.7, 1.7 * _side(rows[0][1][0]) + 0.3)
    unit = next(iter(parts.values()))[0].unit
    titles = [title for name in parts for title in (name, f"its error\nblack 0, yellow {WORST:.0%}+")]
    for axis, title in zip(axes[0], ("frame", "truth", *titles), strict=True):
        axis.set_title(title, fontsize=8)
    for line, (word, samples) in zip(axes, rows, strict=True):
        _label(line[0], word, samples[0])
        line[0].imshow(samples[0].frames[-1])
        truth = samples[0].truth
        maps = [truth, *(each.guess for each in samples)]
        painted = paint_depths(maps)
        low, high = depth_ends(maps)
        line[1].set_xlabel(f"blue {low:.1f}, red {high:.1f} {unit}", fontsize=7)
        for axis, colours in zip((line[1], *line[2::2]), painted, strict=True):
            axis.imshow(colours, interpolation="nearest")
        for axis, each in zip(line[3::2], samples, strict=True):
            axis.imshow(_paint_error(each.guess, truth), interpolation="nearest")
        _scores(line[4::2], samples[1:])
    return figure


def _paint_error(guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 of |guess / truth - 1|; white where the truth is not known."""
    known = truth > 0
    error = np.abs(guess / np.where(known, truth, 1) - 1)
    colours = (colormaps["inferno"](np.clip(error / WORST, 0, 1))[..., :3] * 255).astype(np.uint8)
    return np.where(known[..., None], colours, np.uint8(WHITE))


def _pose(parts: _Parts) -> Figure:
    """A column a sample: its first frame, and the paths below, each column on a scale of its own."""
    rows, unit = _rows(parts), next(iter(parts.values()))[0].unit
    figure = Figure(figsize=(3.2 * len(rows), 5.2 + 0.16 * len(parts)), layout="constrained")
    axes = figure.subplots(2, len(rows), squeeze=False, height_ratios=(1, 2))
    for (top, below), (word, samples) in zip(axes.T, rows, strict=True):
        top.imshow(samples[0].frames[0])
        top.set_axis_off()
        top.set_title(f"{word}: {samples[0].score:.3f}\n{_short(samples[0].name)}", fontsize=8)
        paths = [("truth", "black", samples[0].truth)]
        for number, (name, each) in enumerate(zip(parts, samples, strict=True)):
            paths.append((f"{name}: {each.score:.3f}", COLOURS[number % len(COLOURS)], each.guess))
        for name, colour, centres in paths:
            below.plot(centres[:, 0], centres[:, 2], "o-", color=colour, label=name, markersize=2.5, linewidth=1)
            below.plot(*centres[0, [0, 2]], "s", color=colour, markersize=6)
        below.set_aspect("equal", adjustable="datalim")
        below.tick_params(labelsize=7)
        below.set_xlabel(f"right, {unit}", fontsize=7)
        below.set_ylabel(f"forward, {unit}", fontsize=7)
        below.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    return figure


def _classes(parts: _Parts) -> Figure:
    """A row a label; of the best, the middle and the worst a few each."""
    albums = list(parts.values())
    chosen = [_few(album) for album in albums[0]]
    columns = max(len(row) for row in chosen)
    figure, axes = _grid(len(chosen), columns, 1.6, 1.6 + 0.155 * (2 + len(parts)))
    for number, (line, row) in enumerate(zip(axes, chosen, strict=True)):
        line[0].set_ylabel(albums[0][number].title, fontsize=9)
        for axis in line[len(row) :]:
            axis.set_axis_off()
        for axis, (word, place) in zip(line, row, strict=False):
            first = albums[0][number].shown[place]
            names = albums[0][number].names
            axis.imshow(first.frames[-1])
            axis.set_title(f"{word}: {first.score:.2f}", fontsize=7)
            lines = [(f"truth: {_class(names, first.truth)}", "black")]
            for subject, theirs in parts.items():
                said = theirs[number].shown[place]
                mark, colour = ("✓", RIGHT) if int(said.guess) == int(said.truth) else ("✗", WRONG)
                lines.append((f"{mark} {subject}: {_class(names, said.guess)}", colour))
            for below, (text, colour) in enumerate(lines):
                # In points: a share of the axes would grow with them, into the row below.
                axis.annotate(
                    text,
                    (0, 0),
                    (0, -3 - 9 * below),
                    "axes fraction",
                    "offset points",
                    color=colour,
                    fontsize=6.5,
                    va="top",
                )
    return figure


def _few(album: Album) -> list[tuple[str, int]]:
    """(which, place) of the best, those in the middle and the worst; each once."""
    sign = 1 if album.better == "higher" else -1
    order = [int(place) for place in np.argsort([-sign * each.score for each in album.shown], kind="stable")]
    if len(order) < 3 * ASKED:
        return [("by score", place) for place in order]
    middle = (len(order) - ASKED) // 2
    spans = (("best", order[:ASKED]), ("middle", order[middle : middle + ASKED]), ("worst", order[-ASKED:]))
    return [(word, place) for word, places in spans for place in places]


def _class(names: Sequence[str], number: np.ndarray) -> str:
    return names[int(number)] if int(number) < len(names) else f"class {int(number)}"


def _propagation(parts: _Parts) -> Figure:
    """A row a sample and subject, the truth first; a column a frame."""
    rows = _rows(parts)
    columns = max(len(samples[0].frames) for _, samples in rows)
    figure, axes = _grid(len(rows) * (1 + len(parts)), columns, 1.5, 1.5 * _side(rows[0][1][0]))
    lines = iter(axes)
    for word, samples in rows:
        masks = [("truth", samples[0].truth), *zip(parts, (each.guess for each in samples), strict=True)]
        for number, (name, found) in enumerate(masks):
            line = next(lines)
            score = (
                f"{name}\n{samples[number - 1].score:.3f}" if number else f"{word}: {_short(samples[0].name)}\ntruth"
            )
            _beside(line[0], score)
            for axis, frame, ids in zip(line, samples[0].frames, found, strict=False):
                axis.imshow(overlay(frame, ids), interpolation="nearest")
    return figure


def overlay(frame: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8: the frame in grey with a colour over each object; id 0 is none."""
    grey = np.repeat(frame.mean(-1, keepdims=True), 3, -1) * 0.8
    colours = 255 * np.array([colormaps["tab10"](number % 10)[:3] for number in range(256)])
    mixed = np.where((ids > 0)[..., None], 0.3 * grey + 0.7 * colours[np.maximum(ids, 1) - 1], grey)
    return mixed.round().astype(np.uint8)


_DRAWN = {
    "classes": _classes,
    "segmentation": _segmentation,
    "depth": _depth,
    "pose": _pose,
    "propagation": _propagation,
}
