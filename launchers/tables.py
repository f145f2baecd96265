"""What is printed as tables: what a recipe will train on, and what a run has learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.table import Table

from interlace.backbone import Backbone
from interlace.data_recipes.check import TaskRow
from interlace.data_recipes.schema import Recipe
from interlace.tasks import TASKS
from interlace.tasks.interface import TaskContext


def parameters(recipe: Recipe) -> dict[str, int]:
    """Trained parameters of the backbone, of each task's heads, and of what a task shards over ranks.

    Everything is built on torch's meta device: no memory is taken and no weights are read.
    """
    config = recipe.backbone.config
    context = TaskContext(config, recipe.seed, device=torch.device("meta"))
    with torch.device("meta"):
        counts = {"backbone": _count(Backbone(config))}
        for name, part in recipe.tasks.items():
            task = TASKS[name](part.options, context)  # type: ignore[arg-type]  # the recipe read them as this task's
            counts[name] = _count(task)
            for shard in task.sharded():
                counts[f"{name}: {shard.name}"] = shard.rows * shard.local.shape[1]
    return counts


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def recipe_tables(recipe: Recipe, rows: Sequence[TaskRow]) -> list[Table]:
    """Parameters by part, cost of a step by task, and the share of every source."""
    parts = plain_table("part", "parameters")
    for name, count in parameters(recipe).items():
        parts.add_row(name, f"{count:,}")

    tasks = plain_table("task", "weight", "samples a step", "tokens a step")
    for row in rows:
        tasks.add_row(row.task, f"{row.weight:g}", f"{row.samples:,}", f"{row.tokens:,}")
    total = sum(row.samples for row in rows), sum(row.tokens for row in rows)
    tasks.add_row("together", "", *(f"{number:,}" for number in total))

    sources = plain_table("task", "source", "share", "it holds", "format")
    for row in rows:
        for source in row.sources:
            held = "" if source.available is None else f"{source.available:,}"
            known = source.format if source.readable else f"{source.format} (cannot be opened yet)"
            sources.add_row(row.task, source.name, f"{source.share:.1%}", held, known)
    return [parts, tasks, sources]


def measures_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line a held-out measure: see :func:`.report.gains`."""
    table = plain_table("task", "measure", "start", "end", "blind", "end against blind")
    for row in rows:
        numbers = (f"{row[key]:.3f}" for key in ("start", "value", "blind"))
        table.add_row(row["task"], f"{row['measure']} {arrow(row['better'])}", *numbers, row["verdict"])
    return table


def arrow(better: str) -> str:
    """Which way is better."""
    return "↓" if better == "lower" else "↑"


def plain_table(*columns: str) -> Table:
    """A table without lines: words to the left, numbers to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        words = column in ("part", "task", "measure", "source", "format", "end against blind")
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    return table
