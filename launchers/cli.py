"""The command line: ``interlace demo | prepare | inspect | check | pretrain | report``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console()
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Multi-task pretraining of a streaming visual backbone.",
)

RecipePath = Annotated[Path, typer.Argument(help="A recipe's YAML file.", show_default=False)]
Changes = Annotated[
    list[str] | None, typer.Argument(help="Changes to the recipe, e.g. engine.steps=100", metavar="[KEY=VALUE]...")
]
RunPath = Annotated[Path, typer.Option("--run", help="The run's folder.")]


@app.command(epilog="Example: interlace check data_recipes/omnistream_stage1.yaml engine.lr=2e-4")
def check(recipe: RecipePath, changes: Changes = None) -> None:
    """Say everything that is wrong with a recipe, or what it will train on. Creates nothing."""
    from .commands import check_recipe

    check_recipe(recipe, tuple(changes or ()), console)


@app.command(epilog="Example: torchrun --nproc-per-node 8 -m interlace.launchers pretrain my.yaml --run runs/mine")
def pretrain(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe's YAML file.", show_default=False)] = None,
    changes: Changes = None,
    run: RunPath = Path("runs/pretrain"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint, if any.")] = False,
    replay: Annotated[
        Path | None, typer.Option(help="Run a stopped step again in this process, from the file it left.")
    ] = None,
) -> None:
    """Train. Works alone, under torchrun and under srun."""
    from .commands import replay_step, train

    if replay is not None:
        replay_step(replay, console)
    elif recipe is None:
        raise typer.BadParameter("name a recipe, or a --replay file")
    else:
        train(recipe, tuple(changes or ()), run, resume, console)


@app.command(epilog="Example: interlace demo --run runs/demo --seed 1")
def demo(
    run: RunPath = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Decides the initial weights and every random draw.")] = 0,
    long: Annotated[bool, typer.Option("--long", help="Train for longer: at most 90 minutes on 2 cores.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted demo.")] = False,
) -> None:
    """Prepare input, train four tasks at once, and write a report: minutes, on a laptop's CPU."""
    from .commands import run_demo

    run_demo(run, seed, long, resume, console)


@app.command(epilog="Example: interlace prepare demo   or   interlace prepare ~/Pictures --to ~/shards/pictures")
def prepare(
    what: Annotated[str, typer.Argument(help="'demo', or a folder of jpg, png and mp4 files.", show_default=False)],
    to: Annotated[Path | None, typer.Option(help="Where the shards of a folder go.")] = None,
) -> None:
    """Make shards: of the demo's rooms, photographs and clips, or of your own files."""
    from .commands import prepare_input

    prepare_input(what, to, console)


@app.command(epilog="Example: interlace inspect data_recipes/demo.yaml --out page.html")
def inspect(
    what: Annotated[Path, typer.Argument(help="A recipe, or a folder of shards.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("inspect.html"),
) -> None:
    """Write a page that shows the data: frames, depth, camera paths, boxes, captions, statistics."""
    from .commands import inspect_data

    inspect_data(what, out, console)


@app.command(epilog="Example: interlace report runs/demo")
def report(run: Annotated[Path, typer.Argument(help="A run's folder.", show_default=False)]) -> None:
    """Write a run's report.html again, from the files in its folder."""
    from .commands import write_report

    write_report(run, console)


def main() -> None:
    """Run the command line; what a user can mend is one line on stderr and exit status 2, never a traceback."""
    try:
        app()
    except (ValueError, FileNotFoundError) as error:
        typer.echo(f"interlace: {error}", err=True)
        sys.exit(2)
