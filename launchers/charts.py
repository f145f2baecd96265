"""The report's charts: matplotlib figures as PNG bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]

#: One colour a task, the same in every chart.
COLOURS = ("#3b6fb6", "#d1603d", "#3f9b6b", "#8a5fb0", "#b89b2e", "#4aa3b5")
BLIND = "#888888"


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, bbox_inches="tight")
    return stream.getvalue()


def inline(data: bytes) -> str:
    """A PNG file as a URL that needs no network."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def panels(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """``count`` axes of a size in inches, at most ``columns`` side by side."""
    columns = min(columns, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for axis in axes[count:]:
        axis.set_axis_off()
    for axis in axes[:count]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes[:count]


def legend_beside(axis: Axes) -> None:
    """A legend to the right of the axes, where it covers no curve."""
    axis.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def steady(metrics: Rows) -> Rows:
    """Rows that are means over at least half as many steps as usual: those of a single sampled step jump."""
    spans = np.diff([0, *(row["step"] for row in metrics)])
    return [row for row, span in zip(metrics, spans, strict=True) if 2 * span >= np.median(spans)]


def losses(metrics: Rows, tasks: Sequence[str]) -> bytes:
    """A panel a task: its loss terms over the steps, before their weights."""
    metrics = steady(metrics)
    figure, axes = panels(len(tasks), 2, 5.6, 2.8)
    for axis, task in zip(axes, tasks, strict=True):
        terms = sorted({key for row in metrics for key in row if key.startswith(f"loss/{task}/")})
        for term in terms:
            points = [(row["step"], row[term]) for row in metrics if term in row]
            axis.plot(*zip(*points, strict=True), label=term.rpartition("/")[2], linewidth=1.2)
        axis.set_title(task, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        legend_beside(axis)
    return png(figure)


def held_out(rows: Rows, tasks: Sequence[str]) -> bytes:
    """A panel a measure: the model in its task's colour, and the better blind guess as a dashed line."""
    names = list(dict.fromkeys((row["task"], row["measure"]) for row in rows))
    figure, axes = panels(len(names), 4, 2.9, 2.2)
    for axis, (task, name) in zip(axes, names, strict=True):
        mine = [row for row in rows if (row["task"], row["measure"]) == (task, name) and row["value"] is not None]
        steps = [row["step"] for row in mine]
        axis.plot(steps, [row["value"] for row in mine], color=COLOURS[tasks.index(task) % len(COLOURS)], marker=".")
        axis.plot(steps, [row["blind"] for row in mine], color=BLIND, linestyle="--", linewidth=1)
        arrow = "↓" if mine and mine[0]["better"] == "lower" else "↑"
        axis.set_title(f"{task}\n{name} {arrow}", fontsize=9)
        axis.set_xlabel("step", fontsize=8)
    return png(figure)


def anatomy(metrics: Rows, tasks: Sequence[str]) -> bytes:
    """How a step's wall time is spent: data, each task's forward and backward, the update."""
    figure, (axis,) = panels(1, 1, 11.2, 1.3)
    parts = [("waiting for data", "time_share/data", BLIND)]
    parts += [(task, f"time_share/{task}", COLOURS[index % len(COLOURS)]) for index, task in enumerate(tasks)]
    parts.append(("update", "time_share/step", "#444444"))
    left, narrow = 0.0, list[str]()
    for label, key, colour in parts:
        share = float(np.mean([row.get(key, 0.0) for row in metrics]))
        axis.barh(0, share, left=left, color=colour)
        if share > 0.06:
            axis.text(left + share / 2, 0, f"{label}\n{share:.0%}", ha="center", va="center", color="white", fontsize=8)
        else:
            narrow.append(f"{label} {share:.1%}")
        left += share
    axis.set_xlim(0, max(1.0, left))
    axis.set_yticks([])
    too_narrow = f"; too narrow to name: {', '.join(narrow)}" if narrow else ""
    axis.set_xlabel(f"share of a step's wall time{too_narrow}", fontsize=8)
    return png(figure)


def cosines(metrics: Rows) -> bytes:
    """The cosine between each pair of tasks' gradients of the backbone, by step."""
    pairs = sorted({key for row in metrics for key in row if key.startswith("cosine/")})
    figure, (axis,) = panels(1, 1, 11.2, 2.6)
    for index, pair in enumerate(pairs):
        points = [(row["step"], row[pair]) for row in metrics if pair in row]
        label = " and ".join(pair.removeprefix("cosine/").split("~"))
        axis.plot(*zip(*points, strict=True), label=label, color=COLOURS[index % len(COLOURS)], marker=".", linewidth=1)
    axis.axhline(0, color=BLIND, linewidth=0.8)
    axis.set_xlabel("step", fontsize=8)
    legend_beside(axis)
    return png(figure)


def latency(seconds: Sequence[float]) -> bytes:
    """Milliseconds a frame of a stream took, frame by frame."""
    figure, (axis,) = panels(1, 1, 11.2, 2.2)
    axis.plot(range(len(seconds)), [1000 * value for value in seconds], color=COLOURS[0], linewidth=1)
    axis.set_ylim(0)
    axis.set_xlabel("frame of the stream", fontsize=8)
    axis.set_ylabel("ms", fontsize=8)
    return png(figure)


def contact_sheet(pictures: Mapping[str, Sequence[np.ndarray]]) -> bytes:
    """A row a source: one frame [H, W, 3] uint8 of each of its first samples."""
    columns = max(len(frames) for frames in pictures.values())
    figure = Figure(figsize=(1.12 * columns, 1.4 * len(pictures)), layout="constrained")
    axes = figure.subplots(len(pictures), columns, squeeze=False)
    for line, (name, frames) in zip(axes, pictures.items(), strict=True):
        line[0].set_title(name, fontsize=8, loc="left")
        for axis in line:
            axis.set_axis_off()
        for axis, frame in zip(line, frames, strict=False):
            axis.imshow(frame)
    return png(figure)
