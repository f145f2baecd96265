"""What the commands of ``interlace eval`` share: results kept, shown, compared. Imports inside, as in commands.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from interlace.eval.result import Result
    from interlace.eval.subjects import FrozenBackbone

    from .sample_pictures import Picture


def run_seed(place: str) -> int:
    """The seed of the run at ``place``; 0 elsewhere. What it began with, if it loaded nothing, is drawn from it."""
    import yaml

    recipe = Path(place) / "recipe.yaml"
    return int(yaml.safe_load(recipe.read_text())["seed"]) if recipe.is_file() else 0


def teller(console: Console) -> Callable[[str], None]:
    """Prints a line of progress."""
    return lambda line: console.print(line, highlight=False, markup=False)


def keep(
    results: Sequence[Result],
    subject: FrozenBackbone,
    out: Path,
    name: str,
    console: Console,
    draw: Callable[[], Sequence[Picture]] = lambda: (),
) -> None:
    """Write results as JSON with tables as Markdown, a chart, pictures and a page of all beside, and print them.

    ``draw`` makes the pictures, after the results are written: what goes wrong there loses no measurement.
    """
    from interlace.eval.compare import collect_pictures, sheets
    from interlace.eval.result import write

    from .charts import png
    from .result_pictures import chart
    from .results_page import write_page

    write(results, out)
    show(results, console)
    table = out.with_suffix(".md")
    table.write_text("\n".join(sheet.markdown() for sheet in sheets(results)))
    files = {out.with_name(f"{out.stem}-{each.name}.png"): each for each in draw()}
    drawn = {out.with_suffix(".png"): chart(results), **{file: each.figure for file, each in files.items()}}
    for file, figure in drawn.items():
        file.write_bytes(png(figure))
    named = [
        {"file": file.name, "name": each.name, "title": each.title, "caption": each.caption}
        for file, each in files.items()
    ]
    write(results, out, named)
    page = write_page(f"{subject.name}: {name}", results, collect_pictures([out]), out.with_suffix(".html"))
    beside = ", ".join(file.name for file in (table, *drawn))
    console.print(f"results: {out}, {beside}\npage: {page}", highlight=False, markup=False)


def holds_results(place: Path) -> bool:
    """Whether it is a file of results, or a folder of them that is no run."""
    return place.is_file() or (not (place / "recipe.yaml").exists() and any(place.glob("*.json")))


def compare(places: Sequence[Path], page: Path, console: Console) -> None:
    """Print the results of several runs, folders or files side by side, and write a page of them with their samples."""
    from interlace.eval.compare import collect, collect_pictures

    from .results_page import write_page

    results = collect(places)
    show(results, console)
    title = ", ".join(dict.fromkeys(place.name or str(place) for place in places))
    write_page(title, results, collect_pictures(places), page)
    console.print(f"page: {page}", highlight=False, markup=False)


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
