"""``interlace eval ...``: measure a frozen backbone. Imports are inside, as in commands.py."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from interlace.eval.geometry import Kind
    from interlace.eval.propagation import Propagation
    from interlace.eval.result import Result
    from interlace.eval.subjects import FrozenBackbone, Subject

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

    @app.command(
        epilog="Examples: interlace eval vos runs/demo | interlace eval vos runs/demo --on davis17 --data DAVIS"
    )
    def vos(
        backbone: BackbonePath,
        on: Annotated[str, typer.Option("--on", help="rooms (built in) or davis17.")] = "rooms",
        data: Annotated[Path | None, typer.Option("--data", help="DAVIS's folder, for davis17.")] = None,
        out: Out = None,
        short_side: Annotated[int | None, typer.Option("--short-side", min=1, help="480; of rooms 128.")] = None,
        context: Annotated[int, typer.Option("--context", help="Last frames that labels come from.")] = 7,
        radius: Annotated[float, typer.Option("--radius", help="How far labels may move, in cells.")] = 12.0,
        neighbours: Annotated[int, typer.Option("--neighbours", help="Most similar cells that vote.")] = 5,
        temperature: Annotated[float, typer.Option("--temperature", help="Of their votes.")] = 0.2,
        untrained: Annotated[bool, typer.Option(help="Measure an untrained backbone of the same shape too.")] = True,
        device: Device = "cpu",
    ) -> None:
        """Objects followed through video by label propagation: J and F, beside raw pixels."""
        from interlace.eval.propagation import Propagation

        values = Propagation(context, radius, neighbours, temperature)
        run_vos(backbone, on, data, out, short_side, values, untrained, device, console)

    @app.command(
        epilog="Examples: interlace eval geometry runs/demo | "
        "interlace eval geometry runs/demo --heads fresh --on sintel --data MPI-Sintel"
    )
    def geometry(
        backbone: BackbonePath,
        on: Annotated[
            str,
            typer.Option("--on", help="rooms (built in); sintel, bonn, kitti (depth); sintel, tum, scannet (pose)."),
        ] = "rooms",
        data: Annotated[
            Path | None, typer.Option("--data", help="The folder of a data set that is not built in.")
        ] = None,
        of: Annotated[str, typer.Option("--of", help="depth, pose or both.")] = "both",
        heads: Annotated[str, typer.Option("--heads", help="own (the run's) or fresh (fixed budget).")] = "own",
        align: Annotated[str, typer.Option("--align", help="Depth: scale, scale_shift, median or metric.")] = "scale",
        out: Out = None,
        seed: Seed = 0,
        rooms: Annotated[int, typer.Option("--rooms", min=2, help="Training rooms of fresh heads.")] = 120,
        long_side: Annotated[int | None, typer.Option("--long-side", min=1, help="512; of rooms their own.")] = None,
        untrained: Annotated[bool, typer.Option(help="With fresh heads, an untrained backbone too.")] = True,
        device: Device = "cpu",
    ) -> None:
        """Depth and camera poses read from a stream, by the run's own heads or by fresh ones."""
        asked = Geometry(on, data, of, heads, align, seed, rooms, long_side, untrained)
        run_geometry(backbone, asked, out, device, console)

    from .policy_results import add_policy
    from .probing import add_probes
    from .vlm_results import add_vlm

    add_probes(app, console)
    add_vlm(app, console)
    add_policy(app, console)
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
    from interlace.eval.subjects import open_subject

    if on != "rooms":
        raise ValueError(f"eval probe --on {on}: there is only the built-in world, rooms")
    mine = open_subject(place, device)
    ready_rooms(console)
    data = load_rooms(train=rooms)
    results = []
    for subject in with_baselines(mine, place, untrained, device):
        results += probe(subject, data, seed=seed, say=teller(console))
    keep(results, place, mine, out, "probe-rooms", console)


def run_vos(
    place: str,
    on: str,
    data: Path | None,
    out: Path | None,
    short_side: int | None,
    values: Propagation,
    untrained: bool,
    device: str,
    console: Console,
) -> None:
    """Follow objects with a backbone, the untrained one of its shape, and raw pixels."""
    from interlace.eval import vos_rooms
    from interlace.eval.subjects import open_subject
    from interlace.eval.vos import SHORT_SIDE, label_propagation

    if on not in ("rooms", "davis17"):
        raise ValueError(f"eval vos --on {on}: allowed is rooms or davis17")
    if (on == "davis17") != (data is not None):
        raise ValueError("eval vos: --data DAVIS goes with --on davis17, and only with it")
    mine = open_subject(place, device)
    if data is None:
        root, name, side = vos_rooms.prepare(say=teller(console)), "built-in rooms", vos_rooms.SIZE.size
    else:
        root, name, side = data, "DAVIS 2017 val", SHORT_SIDE
    results = []
    for subject in with_baselines(mine, place, untrained, device):
        results += label_propagation(
            subject, root, data=name, short_side=short_side or side, values=values, device=device, say=teller(console)
        )
    keep(results, place, mine, out, f"vos-{on}", console)


@dataclass(frozen=True)
class Geometry:
    """What ``interlace eval geometry`` was asked for; see its options. Raises ValueError for what does not exist."""

    on: str
    data: Path | None
    of: str
    heads: str
    align: str
    seed: int
    rooms: int
    long_side: int | None
    untrained: bool

    def __post_init__(self) -> None:
        from interlace.eval.depth_error import ALIGNMENTS
        from interlace.eval.recordings import DEPTH, POSE

        for name, allowed in (
            ("on", tuple(dict.fromkeys(("rooms", *DEPTH, *POSE)))),
            ("of", ("depth", "pose", "both")),
            ("heads", ("own", "fresh")),
            ("align", ALIGNMENTS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"eval geometry --{name} {getattr(self, name)}: allowed is {', '.join(allowed)}")
        if (self.on == "rooms") != (self.data is None):
            raise ValueError("eval geometry: --data FOLDER goes with a data set that is not built in, and only with it")

    def kinds(self) -> list[Kind]:
        """What is measured: what was asked for, of what the data set is measured for."""
        from interlace.eval.recordings import DEPTH, POSE

        known: list[tuple[Kind, Collection[str]]] = [("depth", ("rooms", *DEPTH)), ("pose", ("rooms", *POSE))]
        found = [kind for kind, names in known if self.on in names and self.of in (kind, "both")]
        if not found:
            raise ValueError(f"eval geometry: {self.on} is not measured for {self.of}")
        return found


def run_geometry(place: str, asked: Geometry, out: Path | None, device: str, console: Console) -> None:
    """Read depth and poses from streams: own heads measure the run alone, fresh ones its baselines too."""
    from interlace.eval.depth_error import ALIGNMENTS
    from interlace.eval.geometry import LONG_SIDE, benchmark, rooms, stream_geometry
    from interlace.eval.heads import Budget
    from interlace.eval.rooms import read_rooms
    from interlace.eval.streaming import FreshHeads, OwnHeads, Reader
    from interlace.eval.subjects import open_subject

    kinds = asked.kinds()
    alignment = next(each for each in ALIGNMENTS if each == asked.align)
    mine = open_subject(place, device)
    readers: list[tuple[Subject, Reader]] = []
    own = OwnHeads(place, mine.backbone.config, device) if asked.heads == "own" else None
    if asked.data is None:
        ready_rooms(console)
        held_out, _ = read_rooms("held_out")
        suites = [rooms(kind, held_out) for kind in kinds]
    else:
        suites = [benchmark(kind, asked.on, asked.data) for kind in kinds]
    if own is not None:
        readers.append((mine, own))
    else:
        ready_rooms(console)
        training, _ = read_rooms("train", rooms=asked.rooms)
        for subject in with_baselines(mine, place, asked.untrained, device):
            console.print(f"{subject.name}: fresh heads", highlight=False, markup=False)
            readers.append((subject, FreshHeads(subject, training, Budget(), asked.seed)))
    results = []
    for suite in suites:
        native = max(held_out[0].frames.shape[1:3]) if asked.data is None else LONG_SIDE
        for subject, reader in readers:
            results += stream_geometry(
                subject,
                reader,
                suite,
                long_side=asked.long_side or native,
                alignment=alignment,
                seed=asked.seed,
                say=teller(console),
            )
    keep(results, place, mine, out, f"geometry-{asked.on}-{asked.heads}", console)


def with_baselines(mine: FrozenBackbone, place: str, untrained: bool, device: str) -> list[Subject]:
    """What is measured: the backbone, an untrained one of its shape if asked for, and raw pixels."""
    from interlace.eval.subjects import Pixels, initialised

    start = [initialised(mine.backbone.config, run_seed(place), device)] if untrained else []
    return [mine, *start, Pixels(mine.patch_size)]


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
    results: Sequence[Result],
    place: str,
    subject: FrozenBackbone,
    out: Path | None,
    name: str,
    console: Console,
    pictures: Mapping[str, Figure] | None = None,
) -> None:
    """Write results as JSON with their tables as Markdown and a chart beside, ``pictures`` too, and print them."""
    from interlace.eval.compare import RESULTS, sheets
    from interlace.eval.result import write

    from .charts import png
    from .result_pictures import chart

    if out is None:
        home = Path(place) / RESULTS if (Path(place) / "backbone").is_dir() else Path(RESULTS) / subject.name
        out = home / f"{name}.json"
    write(results, out)
    show(results, console)
    table = out.with_suffix(".md")
    table.write_text("\n".join(sheet.markdown() for sheet in sheets(results)))
    drawn = {out.with_suffix(".png"): chart(results)}
    drawn |= {out.with_name(f"{out.stem}-{kind}.png"): figure for kind, figure in (pictures or {}).items()}
    for file, figure in drawn.items():
        file.write_bytes(png(figure))
    beside = ", ".join(file.name for file in (table, *drawn))
    console.print(f"results: {out}, {beside}", highlight=False, markup=False)


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
