"""``interlace eval ...``: measure a frozen backbone. Imports are inside, as in commands.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from interlace.eval.result import Result
    from interlace.eval.subjects import FrozenBackbone

BackbonePath = Annotated[
    str, typer.Argument(help="A run, a backbone's folder or owner/name on the hub.", show_default=False)
]
Out = Annotated[
    Path | None, typer.Option("--out", help="The JSON file to write; by default in the run's results/, or ./results/.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of fresh heads and their batches.")]
Device = Annotated[str, typer.Option("--device", help="Where the backbone runs: cpu, cuda, cuda:1.")]


def evaluating(console: Console) -> typer.Typer:
    """The sub-commands, which print to ``console``."""
    app = typer.Typer(
        no_args_is_help=True,
        help="Measure a frozen backbone.",
        epilog="Example: interlace eval probe runs/demo --on rooms",
    )

    @app.command(epilog="Example: interlace eval probe runs/demo --on rooms")
    def probe(
        backbone: BackbonePath,
        on: Annotated[str, typer.Option("--on", help="What it is measured on: rooms, the built-in world.")] = "rooms",
        out: Out = None,
        seed: Seed = 0,
        rooms: Annotated[int, typer.Option("--rooms", min=2, help="Training rooms that heads learn from.")] = 120,
        untrained: Annotated[bool, typer.Option(help="Measure an untrained backbone of the same shape too.")] = True,
        device: Device = "cpu",
    ) -> None:
        """Neighbours, classes, segmentation, depth and pose from frozen tokens, beside raw pixels."""
        run_probe(backbone, on, out, seed, rooms, untrained, device, console)

    return app


def run_probe(
    place: str,
    on: str,
    out: Path | None,
    seed: int,
    rooms: int,
    untrained: bool,
    device: str,
    console: Console,
) -> None:
    """Probe a backbone, the untrained one of its shape, and raw pixels, with equal heads."""
    from interlace.eval.probe import load_rooms, probe
    from interlace.eval.subjects import Pixels, Subject, initialised, open_subject

    if on != "rooms":
        raise ValueError(f"eval probe --on {on}: there is only the built-in world, rooms")
    mine = open_subject(place, device)
    ready_rooms(console)
    data = load_rooms(train=rooms)
    subjects: list[Subject] = [mine, Pixels(mine.patch_size)]
    if untrained:
        subjects.insert(1, initialised(mine.backbone.config, run_seed(place)))
    results = []
    for subject in subjects:
        results += probe(subject, data, seed=seed, say=teller(console))
    keep(results, place, mine, out, "probe-rooms", console)


def ready_rooms(console: Console) -> None:
    """The built-in rooms are made if they are not there."""
    from interlace.data_recipes.worlds.demo import demo_folder

    from .commands import prepare_input

    if not (demo_folder() / "rooms_held_out").is_dir():
        prepare_input("demo", None, console)


def run_seed(place: str) -> int:
    """The seed of the run at ``place``, so that its own initial weights are the untrained ones; 0 elsewhere."""
    import yaml

    recipe = Path(place) / "recipe.yaml"
    return int(yaml.safe_load(recipe.read_text())["seed"]) if recipe.is_file() else 0


def teller(console: Console) -> Callable[[str], None]:
    """Prints a line of progress."""
    return lambda line: console.print(line, highlight=False, markup=False)


def keep(
    results: Sequence[Result], place: str, subject: FrozenBackbone, out: Path | None, name: str, console: Console
) -> None:
    """Write results as JSON with their tables as Markdown beside, and print them."""
    from interlace.eval.compare import RESULTS, sheets
    from interlace.eval.result import write

    if out is None:
        home = Path(place) / RESULTS if (Path(place) / "backbone").is_dir() else Path(RESULTS) / subject.name
        out = home / f"{name}.json"
    write(results, out)
    show(results, console)
    table = out.with_suffix(".md")
    table.write_text("\n".join(sheet.markdown() for sheet in sheets(results)))
    console.print(f"results: {out} and {table.name}", highlight=False, markup=False)


def holds_results(place: Path) -> bool:
    """Whether it is a file of results, or a folder of them that is no run."""
    return place.is_file() or (not (place / "recipe.yaml").exists() and any(place.glob("*.json")))


def compare(places: Sequence[Path], console: Console) -> None:
    """Print the results of several runs, folders or files side by side."""
    from interlace.eval.compare import collect

    show(collect(places), console)


def show(results: Sequence[Result], console: Console) -> None:
    """Print a table for each protocol and data set."""
    from interlace.eval.compare import sheets

    for sheet in sheets(results):
        table = Table(title=sheet.title, title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for column in sheet.columns:
            table.add_column(column, overflow="fold")
        for row in sheet.rows:
            table.add_row(*row)
        console.print()
        console.print(table)
        for note in sheet.notes:
            console.print(f"  {note}", highlight=False, markup=False)
