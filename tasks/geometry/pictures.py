"""Pictures of what the heads see: depth beside the truth, the camera's path, a point cloud."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .clips import Clip
from .ply import write_ply
from .prediction import Prediction

#: Frames of a clip that a picture shows, spread over it.
ROWS = 4
#: Letters in a line of a path's title: more would run past its edge.
TITLE = 40
#: The relative error that is drawn in the brightest colour.
WORST = 0.5


def draw_depth(path: Path, clip: Clip, prediction: Prediction, title: str) -> None:
    """Rows of frame | depth | prediction | error, or of frame | prediction for a clip without any true depth.

    The prediction is aligned by the clip's median, as it is measured. Both depths share one colour scale, the clip's
    true 2% to 98%; the error is relative. Pixels without truth are drawn white.
    """
    frames, truth = clip.frames.numpy(), clip.depth.numpy()
    valid = truth > 0
    seen = prediction.depth[0].float().cpu().numpy()
    low, high = 0.0, float(np.quantile(seen, 0.98))
    if valid.any():
        seen = seen * np.median(truth[valid]) / np.median(seen[valid])
        low, high = (float(each) for each in np.quantile(truth[valid], (0.02, 0.98)))
    shown = np.unique(np.linspace(0, len(frames) - 1, min(ROWS, len(frames))).round().astype(int))
    depth = {"cmap": "turbo", "vmin": low, "vmax": high}
    columns: list[tuple[str, np.ndarray, dict[str, Any]]] = [("frame", frames.transpose(0, 2, 3, 1), {})]
    if valid.any():
        columns.append(("depth", np.where(valid, truth, np.nan), depth))
    columns.append(("prediction", seen, depth))
    if valid.any():
        error = np.where(valid, np.abs(seen / np.where(valid, truth, 1) - 1), np.nan)
        columns.append((f"error (bright = {WORST:.0%})", error, {"cmap": "magma", "vmin": 0, "vmax": WORST}))
    figure = Figure(figsize=(2 * len(columns), 2 * len(shown) + 0.6), layout="constrained")
    axes = figure.subplots(len(shown), len(columns), squeeze=False)
    for row, frame in zip(axes, shown, strict=True):
        for axis, (_, pictures, colours) in zip(row, columns, strict=True):
            axis.imshow(pictures[frame], **colours)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"frame {frame}")
    for axis, (name, _, _) in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=9)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=90)


def draw_path(path: Path, clip: Clip, prediction: Prediction, title: str) -> None:
    """The camera's path from above, true if known and predicted: right and forward of the first camera.

    In units of the clip's scale, or of the prediction where no truth is known.
    """
    truth, seen = clip.camera[:, :3, 3].numpy(), prediction.poses[0, :, 4:7].float().cpu().numpy()
    figure = Figure(figsize=(3.6, 3.6), layout="constrained")
    axis = figure.subplots()
    paths = [(truth, "truth", "black")] * clip.posed + [(seen, "prediction", "tab:orange")]
    for centres, name, colour in paths:
        axis.plot(centres[:, 0], centres[:, 2], "o-", color=colour, label=name, markersize=3, linewidth=1)
        axis.plot(*centres[0, [0, 2]], "s", color=colour, markersize=6)
    axis.set(xlabel="right", ylabel="forward", title=textwrap.fill(title, TITLE))
    axis.title.set_fontsize(9)
    axis.set_aspect("equal", adjustable="datalim")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=90)


def write_points(path: Path, clip: Clip, prediction: Prediction) -> None:
    """The predicted points of all frames in the first camera's frame, coloured by the frames, as PLY."""
    points = prediction.points()[0].float().cpu().numpy().reshape(-1, 3)
    write_ply(path, points, clip.frames.numpy().transpose(0, 2, 3, 1).reshape(-1, 3))
