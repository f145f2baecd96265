"""What each command does. Imports are inside: ``interlace --help`` should not wait for torch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from .progress import Stages, Steps

if TYPE_CHECKING:
    from interlace.data_recipes.schema import Recipe
    from interlace.pretrain.train import Observer

#: Where prepared input lies; recipes speak of it by this name, and take ~/.cache/interlace where it is not set.
DATA = "INTERLACE_DATA"
#: What ``interlace prepare`` makes by name, each in a folder of that name there.
MADE = ("demo", "questions", "table")


def check_recipe(
    recipe: Path,
    changes: tuple[str, ...],
    machines: tuple[int | None, float | None, float | None, float],
    console: Console,
) -> None:
    """Print what a recipe will train and take, once nothing is wrong with it.

    ``machines``: GPUs, or None, and of each GB, TFLOP/s and their utilisation.
    """
    read = _read(recipe, changes)
    from interlace.data_recipes.check import summary
    from interlace.pretrain.beginning import check_beginning
    from interlace.pretrain.train import SECTIONS

    from .prediction import Machines, predict, prediction_lines, prediction_tables
    from .rehearsal import Stage
    from .tables import recipe_tables

    rows = summary(read, SECTIONS)
    if read.backbone.init is not None or read.start_from is not None:
        stage = Stage(read, 1)
        check_beginning(read, stage.student, stage.teachers)
    console.print(f"{read.name}: nothing wrong; {read.engine.steps:,} steps", highlight=False)
    for table in recipe_tables(read, rows):
        console.print()
        console.print(table)
    gpus, memory, tflops, utilisation = machines
    known = None if gpus is None else Machines(gpus, memory, tflops, utilisation)
    prediction = predict(read, rows, gpus, say=lambda line: console.print(line, highlight=False))
    for table in prediction_tables(prediction, known):
        console.print()
        console.print(table)
    for line in prediction_lines(prediction, read, known):
        console.print(line, highlight=False, markup=False)


def train(recipe: Path, changes: tuple[str, ...], run: Path, resume: bool, console: Console) -> None:
    """Train a recipe into a run folder, with progress."""
    _pretrain(_read(recipe, changes), run, resume, console)
    console.print(f"run folder: {run}", highlight=False)


def replay_step(file: Path, console: Console) -> None:
    """Run a stopped step again and print its terms."""
    from interlace.pretrain.train import replay

    for name, value in replay(file).items():
        console.print(f"{name} = {value}", highlight=False)


def run_demo(run: Path, seed: int, long: bool, resume: bool, console: Console) -> None:
    """Prepare, train, report."""
    prepare_input("demo", None, console, long)
    _pretrain(_read(Path("demo_long" if long else "demo"), (f"seed={seed}",)), run, resume, console)
    write_report(run, console)


def prepare_input(what: str, to: Path | None, console: Console, long: bool = False) -> None:
    """Make the demo's input, its questions or the robot table's episodes, once, or shards of one's own files."""
    if what in MADE and to is not None:
        raise ValueError(f"--to {to}: the shards of a folder go there; {what} goes where {DATA} says, or to the cache")
    if what not in MADE and not Path(what).is_dir():
        raise ValueError(
            f"{what}: no such folder; allowed are {', '.join(MADE)}, or a folder of jpg, png and mp4 files"
        )
    if what == "demo":
        from interlace.data_recipes.worlds.demo import prepare_demo

        with Stages(console) as stages:
            data = prepare_demo(long=long, progress=stages, say=lambda line: console.print(line, highlight=False))
        known = "made" if data.made else "ready"
        console.print(f"input {known}: {sum(data.counts.values()):,} samples in {data.folder}", highlight=False)
    elif what == "questions":
        from interlace.data_recipes.worlds.questions_data import prepare_questions

        with Stages(console) as stages:
            asked = prepare_questions(progress=stages, say=lambda line: console.print(line, highlight=False))
        known = "made" if asked.made else "ready"
        counts = ", ".join(f"{count} clips in {name}" for name, count in asked.counts.items())
        console.print(f"questions {known}: {counts}, in {asked.folder}", highlight=False)
    elif what == "table":
        from interlace.data_recipes.worlds.table_episodes import prepare_table

        with Stages(console) as stages:
            episodes = prepare_table(progress=stages, say=lambda line: console.print(line, highlight=False))
        known = "made" if episodes.made else "ready"
        counts = ", ".join(f"{count} in {name}" for name, count in episodes.counts.items())
        console.print(f"episodes {known}: {counts}, in {episodes.folder}", highlight=False)
    elif to is None:
        raise ValueError(f"say where the shards of {what} go: interlace prepare {what} --to SHARDS")
    else:
        from interlace.data_recipes.prepare_folder import prepare_folder

        with Stages(console) as stages:
            report = prepare_folder(what, to, progress=lambda done, files: stages("files", done, files))
        console.print(str(report), highlight=False, markup=False)


def inspect_data(what: Path, out: Path, console: Console) -> None:
    """Write a page about a recipe's data or a folder of shards."""
    from interlace.data_recipes.inspect import inspect

    page = inspect(what if what.is_dir() else _read(what, ()), out)
    console.print(f"page: {page}", highlight=False)


def write_report(run: Path, console: Console) -> None:
    """Write ``report.html`` of a run, and print its held-out measures."""
    from interlace.pretrain.run_folder import RunFolder, rows

    from .report import gains, report
    from .tables import measures_table

    page = report(run)
    console.print(measures_table(gains(rows(RunFolder(run).evaluations))))
    console.print(f"report: {page}", highlight=False)


def export_backbone(run: Path, to: Path, licence: str | None, console: Console) -> None:
    """Write a run as a Hugging Face folder, and say what is in it."""
    from .export import export_run

    done = export_run(run, to, licence)
    console.print(str(done.loaded), highlight=False, markup=False)
    for note in done.notes:
        console.print(note, highlight=False, markup=False)
    heads = f" with heads: {', '.join(done.heads)}" if done.heads else ""
    console.print(
        f"exported: {done.folder}{heads}; licence of the weights: {done.licence}", highlight=False, markup=False
    )


def _read(recipe: Path, changes: tuple[str, ...]) -> Recipe:
    from interlace.data_recipes.recipe import RecipeErrors
    from interlace.pretrain.train import recipe_from

    _tell_place()
    try:
        return recipe_from(recipe, changes)
    except RecipeErrors as errors:
        for hint in _hints(error.found for error in errors.errors):
            errors.add_note(hint)
        raise


def _hints(found: Iterable[str]) -> list[str]:
    """Which ``interlace prepare`` makes the paths among what was ``found`` wrong, a line each."""
    from interlace.data_recipes.worlds.demo import demo_folder

    root, wrong, hints = demo_folder().parent, [Path(text) for text in found], []
    for name in MADE:
        missing = [path for path in wrong if path.is_relative_to(root / name) and not path.exists()]
        if missing:
            long = " --long" if any(path.name == "rooms_more" for path in missing) else ""
            hints.append(f"interlace prepare {name}{long} makes what is missing in {root / name}")
    return hints


def _tell_place() -> None:
    """Where XDG_CACHE_HOME moves the cache, ``interlace prepare demo`` writes there: recipes should look there too."""
    cache = os.environ.get("XDG_CACHE_HOME")
    if cache and not os.environ.get(DATA):
        os.environ[DATA] = str(Path(cache).expanduser() / "interlace")


def _pretrain(recipe: Recipe, run: Path, resume: bool, console: Console) -> None:
    from interlace.pretrain.train import pretrain

    with Steps(recipe.name, recipe.engine.steps, console) as steps:
        pretrain(recipe, run, resume=resume, observer=_observer(steps, console))


def _observer(steps: Steps, console: Console) -> Observer:
    from interlace.pretrain.step import Outcome
    from interlace.pretrain.train import Observer

    def note(done: int, outcome: Outcome) -> None:
        tasks: dict[str, float] = {}
        for name, value in outcome.losses.items():
            task = name.split("/")[0]
            tasks[task] = tasks.get(task, 0.0) + value
        steps(done, "  ".join(f"{task} {value:.3f}" for task, value in tasks.items()))

    # what is said may hold names and errors: brackets in them are no markup
    return Observer(step=note, say=lambda line: console.print(line, highlight=False, markup=False))
