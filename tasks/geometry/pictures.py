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

    Below each column is what its colours stand for. Pixels without truth are drawn white.
    """
    columns, count = _columns(clip, prediction), len(clip.frames)
    shown = np.unique(np.linspace(0, count - 1, min(ROWS, count)).round().astype(int))
    figure = Figure(figsize=(2 * len(columns), 2 * len(shown) + 1.2), layout="constrained")
    axes = figure.subplots(len(shown) + 1, len(columns), squeeze=False, height_ratios=[1] * len(shown) + [0.05])
    for row, frame in zip(axes[:-1], shown, strict=True):
        for axis, (_, pictures, colours, _) in zip(row, columns, strict=True):
            axis.imshow(pictures[frame], **colours)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"frame {frame}")
    for axis, bar, (name, _, colours, unit) in zip(axes[0], axes[-1], columns, strict=True):
        axis.set_title(name, fontsize=9)
        if not colours:
            bar.set_axis_off()
            continue
        figure.colorbar(axis.images[0], cax=bar, location="bottom", extend="both" if colours["vmin"] else "max")
        bar.set_xlabel(unit, fontsize=8)
        bar.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=90)


def _columns(clip: Clip, prediction: Prediction) -> list[tuple[str, np.ndarray, dict[str, Any], str]]:
    """(name, pictures [T, H, W, 3] uint8 or values [T, H, W], how values are coloured, what they are in).

    The prediction is aligned by the clip's median, as it is measured. Both depths share one colour scale, the clip's
    true 2% to 98%; the error is relative.
    """
    frames = ("frame", clip.frames.numpy().transpose(0, 2, 3, 1), dict[str, Any](), "")
    factor, unit = _unit(clip)
    truth, seen = clip.depth.numpy() * factor, prediction.depth[0].float().cpu().numpy() * factor
    valid = truth > 0
    if not valid.any():
        return [frames, ("prediction", seen, {"cmap": "turbo", "vmin": 0, "vmax": np.quantile(seen, 0.98)}, unit)]
    seen = seen * np.median(truth[valid]) / np.median(seen[valid])
    low, high = np.quantile(truth[valid], (0.02, 0.98))
    depth = {"cmap": "turbo", "vmin": low, "vmax": high}
    error = np.where(valid, np.abs(seen / np.where(valid, truth, 1) - 1), np.nan)
    return [
        frames,
        ("depth", np.where(valid, truth, np.nan), depth, unit),
        ("prediction", seen, depth, unit),
        ("error", error, {"cmap": "magma", "vmin": 0, "vmax": WORST}, "share of the depth"),
    ]


def _unit(clip: Clip) -> tuple[float, str]:
    """By how much a clip's lengths are multiplied for a reader, and what they then are."""
    if clip.metric:
        return clip.scale, "metres"
    return 1.0, "the clip's scale" if clip.posed else "the prediction's unit"


def draw_path(path: Path, clip: Clip, prediction: Prediction, title: str) -> None:
    """The camera's path from above, true if known and predicted: right and forward of the first camera.

    In metres where the source's unit is the metre, or else in the clip's scale, or the prediction's where no truth is
    known.
    """
    factor, unit = _unit(clip)
    truth, seen = clip.camera[:, :3, 3].numpy() * factor, prediction.poses[0, :, 4:7].float().cpu().numpy() * factor
    figure = Figure(figsize=(3.6, 3.6), layout="constrained")
    axis = figure.subplots()
    paths = [(truth, "truth", "black")] * clip.posed + [(seen, "prediction", "tab:orange")]
    for centres, name, colour in paths:
        axis.plot(centres[:, 0], centres[:, 2], "o-", color=colour, label=name, markersize=3, linewidth=1)
        axis.plot(*centres[0, [0, 2]], "s", color=colour, markersize=6)
    axis.set(xlabel=f"right, {unit}", ylabel=f"forward, {unit}", title=textwrap.fill(title, TITLE))
    axis.title.set_fontsize(9)
    axis.set_aspect("equal", adjustable="datalim")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=90)


def write_points(path: Path, clip: Clip, prediction: Prediction) -> None:
    """The predicted points of all frames in the first camera's frame, coloured by the frames, as PLY."""
    points = prediction.points()[0].float().cpu().numpy().reshape(-1, 3)
    write_ply(path, points, clip.frames.numpy().transpose(0, 2, 3, 1).reshape(-1, 3))
