"""What each command does. Imports are inside: ``interlace --help`` should not wait for torch."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .progress import Steps

#: The recipes that lie in the package, by file name.
RECIPES = Path(__file__).resolve().parents[1] / "data_recipes"
#: Where the demo's input lies; the recipes speak of it by this name.
DATA = "INTERLACE_DATA"


def check_recipe(recipe: Path, changes: tuple[str, ...], console: Console) -> None:
    """Print what a recipe will train, once nothing is wrong with it."""
    import torch

    from interlace.backbone import Backbone
    from interlace.data_recipes.check import summary
    from interlace.pretrain.train import recipe_from
    from interlace.tasks import TASKS
    from interlace.tasks.interface import TaskContext

    read = recipe_from(_known(recipe), changes)
    with torch.device("meta"):
        parts = {"backbone": Backbone(read.backbone.config)}
        context = TaskContext(read.backbone.config, read.seed)
        parts |= {name: TASKS[name](part.options, context) for name, part in read.tasks.items()}
    table = Table(title=f"{read.name}: nothing wrong", title_justify="left")
    for column in ("part", "parameters"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, module in parts.items():
        table.add_row(name, f"{sum(parameter.numel() for parameter in module.parameters()):,}")
    console.print(table)
    console.print(summary(read, recipe_from.sections))


def train(recipe: Path, changes: tuple[str, ...], run: Path, resume: bool, console: Console) -> None:
    """Train a recipe into a run folder, with progress."""
    from interlace.pretrain.train import pretrain, recipe_from

    read = recipe_from(_known(recipe), changes)
    with Steps(read.name, read.engine.steps, console) as steps:
        pretrain(read, run, resume=resume, observer=_observer(steps))
    console.print(f"run folder: {run}")


def replay_step(file: Path, console: Console) -> None:
    """Run a stopped step again and print its terms."""
    from interlace.pretrain.replay import replay

    for name, value in replay(file).items():
        console.print(f"{name} = {value}", highlight=False)


def run_demo(run: Path, seed: int, long: bool, resume: bool, console: Console) -> None:
    """Prepare, train, report."""
    from interlace.pretrain.train import pretrain, recipe_from

    prepare_input("demo", None, console)
    read = recipe_from(RECIPES / ("demo_long.yaml" if long else "demo.yaml"), (f"seed={seed}",))
    with Steps("demo", read.engine.steps, console) as steps:
        pretrain(read, run, resume=resume, observer=_observer(steps))
    write_report(run, console)


def prepare_input(what: str, to: Path | None, console: Console) -> None:
    """Make the demo's input, once, or shards of a folder of one's own."""
    from interlace.data_recipes.prepare_folder import prepare_folder
    from interlace.data_recipes.worlds.demo import prepare_demo

    if what == "demo":
        os.environ.setdefault(DATA, str(data_folder()))
        prepare_demo(Path(os.environ[DATA]) / "demo", say=console.print)
    elif to is None:
        raise ValueError(f"say where the shards of {what} go: interlace prepare {what} --to FOLDER")
    else:
        console.print(str(prepare_folder(Path(what), to)))


def inspect_data(what: Path, out: Path, console: Console) -> None:
    """Write a page about a recipe's data or a folder of shards."""
    from interlace.data_recipes.inspect import inspect

    console.print(f"page: {inspect(what, out)}")


def write_report(run: Path, console: Console) -> None:
    """Write ``report.html`` of a run."""
    from .report import report

    console.print(f"report: {report(run)}")


def data_folder() -> Path:
    """Where input that programs make is kept: ``interlace`` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "interlace"


def _known(recipe: Path) -> Path:
    """A recipe's path; a bare name such as ``demo`` or ``demo.yaml`` means one that ships."""
    shipped = RECIPES / recipe.with_suffix(".yaml").name
    return shipped if not recipe.exists() and recipe.parent == Path() and shipped.exists() else recipe


def _observer(steps: Steps):  # type: ignore[no-untyped-def]  # the type's import costs seconds
    from interlace.pretrain.train import Observer

    def note(done: int, outcome) -> None:  # type: ignore[no-untyped-def]
        tasks: dict[str, float] = {}
        for name, value in outcome.losses.items():
            task = name.split("/")[0]
            tasks[task] = tasks.get(task, 0.0) + value
        steps(done, "  ".join(f"{task} {value:.3f}" for task, value in tasks.items()))

    return Observer(step=note)
