"""What a recipe asks for, in numbers: samples and tokens a step, and each source's share. For ``interlace check``."""

from __future__ import annotations

from dataclasses import dataclass

from .formats import FORMATS
from .schema import Recipe, Sections, Source
from .shards import ShardReader
from .sources import READERS


@dataclass(frozen=True)
class SourceRow:
    """``share``: of the task's samples. ``available``: samples it holds; None where only opening it would tell.

    ``readable``: whether training can open its format. ``still``: each of its samples is known to be one image.
    """

    name: str
    format: str
    share: float
    available: int | None
    readable: bool
    still: bool


@dataclass(frozen=True)
class TaskRow:
    """``samples`` and ``tokens`` of one step over all ranks. Tokens are the backbone's, at most, without teachers."""

    task: str
    weight: float
    samples: int
    tokens: int
    sources: tuple[SourceRow, ...]


def summary(recipe: Recipe, sections: Sections) -> list[TaskRow]:
    """A row for each task, in the recipe's order. Creates nothing; MDS folders are opened for their counts."""
    rows = []
    for name, task in recipe.tasks.items():
        samples = task.batch * task.micro_batches
        cost = sections.tasks[name].tokens_per_sample(task.options, recipe.backbone.config)
        total = sum(source.weight for source in task.sources)
        sources = tuple(_row(source, source.weight / total) for source in task.sources)
        rows.append(TaskRow(name, task.weight, samples, samples * cost, sources))
    return rows


def _row(source: Source, share: float) -> SourceRow:
    reader = ShardReader(source.path) if source.format == "mds" else None
    available = None if reader is None else len(reader)
    still = FORMATS[source.format].still if reader is None else reader.manifest["frames"] == len(reader)
    return SourceRow(source.name, source.format, share, available, source.format in READERS, still)
