"""A run's report: one page that needs no network, made from the files in the run's folder."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from interlace import backbone as backbones
from interlace.data_recipes.broken import read_samples
from interlace.data_recipes.errors import RecipeErrors
from interlace.data_recipes.recipe import resolve
from interlace.data_recipes.schema import Recipe
from interlace.data_recipes.sources import open_source
from interlace.data_recipes.statistics import signed, verdict
from interlace.eval.compare import RESULTS
from interlace.eval.result import read as read_results
from interlace.pretrain.run_folder import RunFolder
from interlace.pretrain.run_folder import rows as read_rows
from interlace.pretrain.train import SECTIONS
from interlace.tasks import TASKS
from interlace.tasks.interface import Task

from . import charts
from .charts import inline
from .pictures import doubt, picture_groups
from .tables import arrow

#: Frames of the latency measurement, and samples a source in the contact sheet.
STREAM_FRAMES, SHOWN = 64, 10


def report(run: Path) -> Path:
    """Write ``report.html`` into a run's folder. Raises ValueError where the folder holds no run."""
    folder = RunFolder(run)
    if not folder.recipe.is_file():
        raise ValueError(f"{run} holds no run: it has no {folder.recipe.name}; give the folder that --run named")
    for file in (folder.metrics, folder.evaluations):
        if not file.is_file():
            raise ValueError(f"{run}: a run that has taken no step yet: it has no {file.name}; go on with --resume")
    recipe = _recipe_of(folder)
    metrics, rows = read_rows(folder.metrics), read_rows(folder.evaluations)
    table = gains(rows)
    frames = first_frames(recipe)
    seconds, cache = stream(run / "backbone", frames) if (run / "backbone").is_dir() and frames else ([], 0)
    figures = draw(recipe, metrics, rows, frames, seconds)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html").render(
        name=recipe.name,
        recipe=folder.recipe.read_text(),
        environment=[line for line in (run / "environment.txt").read_text().splitlines() if "==" not in line],
        tasks=list(recipe.tasks),
        steps=metrics[-1]["step"] if metrics else 0,
        rate=float(np.mean([row["samples_per_second"] for row in metrics])) if metrics else 0.0,
        minutes=sum(durations(metrics)) / 60,
        peak_gib=max((row["peak_bytes"] for row in metrics), default=0.0) / 2**30,
        broken=len(read_rows(folder.broken)),
        table=table,
        arrow=arrow,
        signed=signed,
        figures={name: inline(data) for name, data in figures.items()},
        groups=[(group, doubt(group.kind, table)) for group in picture_groups(folder.pictures)],
        evaluations=evaluations(run),
        inline=lambda path: inline(path.read_bytes()),
        latency_ms=1000 * float(np.median(seconds[1:])) if seconds else None,
        cache_mib=cache / 2**20,
    )
    target = run / "report.html"
    partial = run / ".report.html.partial"
    partial.write_text(page)
    partial.replace(target)
    return target


def _recipe_of(folder: RunFolder) -> Recipe:
    try:
        return resolve(folder.recipe.read_text(), SECTIONS, file=str(folder.recipe))
    except RecipeErrors as errors:
        errors.add_note(
            f"{folder.root} was made by another version of Interlace, with other keys in its recipes, or its recipe "
            "was changed: its environment.txt names the revision that reads it"
        )
        raise


def draw(
    recipe: Recipe,
    metrics: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    frames: dict[str, list[np.ndarray]],
    seconds: Sequence[float],
) -> dict[str, bytes]:
    """The charts that there are numbers for, as PNG files by name."""
    tasks = list(recipe.tasks)
    figures = {}
    if rows:
        figures["held_out"] = charts.held_out(rows, tasks)
    if metrics:
        figures["losses"] = charts.losses(metrics, tasks)
        figures["anatomy"] = charts.anatomy(metrics, tasks)
    if any(key.startswith("cosine/") for row in metrics for key in row):
        figures["cosines"] = charts.cosines(metrics)
    if frames:
        figures["data"] = charts.contact_sheet(frames)
    if seconds:
        figures["latency"] = charts.latency(seconds)
    return figures


def durations(metrics: Sequence[dict[str, Any]]) -> list[float]:
    """Seconds of each logged interval."""
    ends = [row["step"] for row in metrics]
    return [row["seconds_per_step"] * (end - start) for row, end, start in zip(metrics, ends, [0, *ends], strict=False)]


def gains(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line a measure: its last row, its ``start``, its ``meaning``, and the ``verdict``.

    The verdict is what its gain's interval says, and "reference" of a measure that no training moves; a bound that is
    None in a row is infinite here. Measures that applied to no sample are left out. The meaning is empty for what this
    version does not know.
    """
    table = []
    for task, name in dict.fromkeys((row["task"], row["measure"]) for row in rows):
        mine = [row for row in rows if (row["task"], row["measure"]) == (task, name) and row["value"] is not None]
        if mine:
            last, known = mine[-1], TASKS.get(task, Task)
            meaning = next((text for key, text in known.meanings.items() if fnmatchcase(name, key)), "")
            low = -math.inf if last["low"] is None else last["low"]
            high = math.inf if last["high"] is None else last["high"]
            said = "reference" if name in known.references else verdict(low, high)
            told = {"low": low, "high": high, "start": mine[0]["value"], "meaning": meaning, "verdict": said}
            table.append({**last, **told})
    return table


def evaluations(run: Path) -> list[tuple[str, str]]:
    """(link, what it tells) of the pages that `interlace eval` left in the run's folder, relative to it."""
    found = []
    for page in sorted((run / RESULTS).glob("*.html")):
        if (file := page.with_suffix(".json")).is_file():
            told = dict.fromkeys(
                f"{each.facts.protocol.partition(' (')[0]} on {each.facts.data}" for each in read_results(file)
            )
            found.append((f"{RESULTS}/{page.name}", ", ".join(told)))
    return found


def first_frames(recipe: Recipe) -> dict[str, list[np.ndarray]]:
    """The middle frame of samples spread over every source that is on this machine, each once."""
    found: dict[str, list[np.ndarray]] = {}
    seen: set[str] = set()
    for task in recipe.tasks.values():
        for source in (*task.sources, *task.held_out, *task.pictured):
            if source.path not in seen and Path(source.path).exists():
                seen.add(source.path)
                opened = open_source(source.name, source.format, source.path)
                spread = [place * len(opened) // min(SHOWN, len(opened)) for place in range(min(SHOWN, len(opened)))]
                samples = read_samples(opened, source.name, spread, ("frames",)).samples
                shown = [sample.frames[len(sample.frames) // 2] for sample in samples if len(sample.frames)]
                label = Path(source.path).name
                if shown:
                    found[source.path if label in found else label] = shown
    return found


def stream(folder: Path, pictures: dict[str, list[np.ndarray]]) -> tuple[list[float], int]:
    """Seconds that each frame of a stream takes the backbone in ``folder``, and the bytes of its cache."""
    backbone = backbones.load(folder).eval()
    patch, frame = backbone.config.patch_size, next(iter(pictures.values()))[0]
    height, width = (side // patch * patch for side in frame.shape[:2])
    pixels = torch.from_numpy(frame[:height, :width].copy()).permute(2, 0, 1)[None, None]
    prepared = backbones.normalise(pixels)
    seconds = []
    with torch.no_grad(), backbone.stream(1, height, width, max_frames=STREAM_FRAMES) as cached:
        for _ in range(STREAM_FRAMES):
            began = time.perf_counter()
            cached(prepared)
            seconds.append(time.perf_counter() - began)
        return seconds, cached.cache_bytes
