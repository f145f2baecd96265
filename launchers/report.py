"""A run's report: one page that needs no network, made from the files in the run's folder."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from interlace import backbone as backbones
from interlace.data_recipes.schema import Recipe
from interlace.data_recipes.sources import open_source
from interlace.pretrain.run_folder import RunFolder
from interlace.pretrain.train import SECTIONS

from . import charts

#: Frames of the latency measurement, and samples a source in the contact sheet.
STREAM_FRAMES, SHOWN = 64, 10


def report(run: Path) -> Path:
    """Write ``report.html`` into a run's folder. Raises ValueError where the folder holds no finished run."""
    folder = RunFolder(run)
    if not folder.recipe.is_file() or not folder.evaluations.is_file() or not folder.metrics.is_file():
        raise ValueError(f"{run} holds no run with recipe.yaml, metrics.jsonl and eval.jsonl; give a run's folder")
    recipe = _recipe(folder)
    metrics, rows = _lines(folder.metrics), _lines(folder.evaluations)
    tasks = list(recipe.tasks)
    figures = {
        "held_out": charts.held_out(rows),
        "losses": charts.losses(metrics, tasks),
        "anatomy": charts.anatomy(metrics, tasks),
        "cosines": charts.cosines(metrics),
        "data": charts.contact_sheet(_first_frames(recipe)),
    }
    seconds, cache = _stream(run / "backbone", recipe) if (run / "backbone").is_dir() else ([], 0)
    if seconds:
        figures["latency"] = charts.latency(seconds)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html").render(
        name=recipe.name,
        recipe=folder.recipe.read_text(),
        environment=(run / "environment.txt").read_text().splitlines()[:5],
        tasks=tasks,
        steps=metrics[-1]["step"] if metrics else 0,
        rate=float(np.mean([row["samples_per_second"] for row in metrics])) if metrics else 0.0,
        minutes=sum(_duration(metrics)) / 60,
        table=_table(rows),
        figures={name: _inline(data) for name, data in figures.items() if data is not None},
        pictures=_pictures(folder.pictures),
        latency_ms=1000 * float(np.median(seconds[1:])) if seconds else None,
        cache_mib=cache / 2**20,
    )
    target = run / "report.html"
    partial = run / ".report.html.partial"
    partial.write_text(page)
    partial.replace(target)
    return target


def _recipe(folder: RunFolder) -> Recipe:
    from interlace.data_recipes.recipe import resolve

    return resolve(folder.recipe.read_text(), SECTIONS, file=str(folder.recipe))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _duration(metrics: Sequence[dict[str, Any]]) -> list[float]:
    """Seconds of each logged interval."""
    ends = [row["step"] for row in metrics]
    return [row["seconds_per_step"] * (end - start) for row, end, start in zip(metrics, ends, [0, *ends], strict=False)]


def _table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line a measure: at the start, at the end, the blind guess, and whether the gain's interval leaves out 0."""
    table = []
    for task, name in dict.fromkeys((row["task"], row["measure"]) for row in rows):
        mine = [row for row in rows if (row["task"], row["measure"]) == (task, name) and row["value"] is not None]
        if mine:
            verdict = (
                "better than blind" if mine[-1]["low"] > 0 else "worse" if mine[-1]["high"] < 0 else "no different"
            )
            table.append({**mine[-1], "start": mine[0]["value"], "verdict": verdict})
    return table


def _first_frames(recipe: Recipe) -> dict[str, list[np.ndarray]]:
    """The middle frame of the first samples of every source, sources that tasks share once."""
    found: dict[str, list[np.ndarray]] = {}
    for task in recipe.tasks.values():
        for source in (*task.sources, *task.held_out):
            label = Path(source.path).name
            if label not in found and Path(source.path).exists():
                opened = open_source(source.name, source.format, source.path)
                samples = [opened.read(index, ("frames",)) for index in range(min(SHOWN, len(opened)))]
                found[label] = [sample.frames[len(sample.frames) // 2] for sample in samples]
    return found


def _stream(folder: Path, recipe: Recipe) -> tuple[list[float], int]:
    """Seconds each frame of a stream takes the run's backbone, and the bytes of its cache."""
    backbone = backbones.load(folder).eval()
    frames = next(iter(_first_frames(recipe).values()))
    side = min(frames[0].shape[:2]) // backbone.config.patch_size * backbone.config.patch_size
    pixels = torch.from_numpy(frames[0][:side, :side].copy()).permute(2, 0, 1)[None, None]
    prepared = backbones.normalise(pixels)
    seconds = []
    with torch.no_grad(), backbone.stream(1, side, side, max_frames=STREAM_FRAMES) as stream:
        for _ in range(STREAM_FRAMES):
            began = time.perf_counter()
            stream(prepared)
            seconds.append(time.perf_counter() - began)
        return seconds, stream.cache_bytes


def _pictures(folder: Path) -> list[dict[str, str]]:
    """Pairs of the same picture at the start and at the end of training."""
    pairs = []
    for end in sorted(folder.glob("end_*.png")):
        name = end.name.removeprefix("end_")
        start = folder / f"start_{name}"
        pair = {"name": name.removesuffix(".png").replace("_", " "), "end": _inline(end.read_bytes())}
        pairs.append({**pair, "start": _inline(start.read_bytes()) if start.exists() else ""})
    return pairs


def _inline(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()
