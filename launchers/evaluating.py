"""``interlace eval ...``: measure a frozen backbone. Imports are inside, as in commands.py."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from .meaningless import refuse
from .policy_results import add_policy
from .probing import BackbonePath, add_probes, open_subjects
from .result_file import Out, result_file, results_of
from .results import teller
from .vlm_results import add_vlm

if TYPE_CHECKING:
    from interlace.eval.geometry import Kind
    from interlace.eval.propagation import Propagation
    from interlace.eval.subjects import Subject


Seed = Annotated[int, typer.Option("--seed", help="Of fresh heads and their batches.")]
Device = Annotated[str, typer.Option("--device", help="Where the backbone runs: cpu, cuda, cuda:1.")]
EightBits = Annotated[
    bool, typer.Option("--eight-bits", help="Measure it with 8-bit keys and values too, paired with itself.")
]


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
        eight_bits: EightBits = False,
        device: Device = "cpu",
    ) -> None:
        """Neighbours, classes, segmentation, depth and pose from frozen tokens, beside raw pixels."""
        run_probe(backbone, on, out, seed, rooms, untrained, device, console, eight_bits)

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
        eight_bits: EightBits = False,
        device: Device = "cpu",
    ) -> None:
        """Objects followed through video by label propagation: J and F, beside raw pixels."""
        from interlace.eval.propagation import Propagation

        values = Propagation(context, radius, neighbours, temperature)
        run_vos(backbone, on, data, out, short_side, values, untrained, device, console, eight_bits)

    _add_geometry(app, console)
    add_probes(app, console)
    add_vlm(app, console)
    add_policy(app, console)
    return app


def _add_geometry(app: typer.Typer, console: Console) -> None:
    @app.command(
        epilog="Examples: interlace eval geometry runs/demo | "
        "interlace eval geometry runs/demo --heads fresh --on sintel --data MPI-Sintel"
    )
    def geometry(
        context: typer.Context,
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
        rooms: Annotated[int, typer.Option("--rooms", min=2, help="Training rooms that fresh heads learn from.")] = 120,
        long_side: Annotated[int | None, typer.Option("--long-side", min=1, help="512; of rooms their own.")] = None,
        untrained: Annotated[bool, typer.Option(help="With fresh heads, an untrained backbone too.")] = True,
        eight_bits: EightBits = False,
        device: Device = "cpu",
    ) -> None:
        """Depth and camera poses read from a stream, by the run's own heads or by fresh ones."""
        asked = Geometry(on, data, of, heads, align, seed, rooms, long_side, untrained, eight_bits)
        if heads == "own":
            refuse(context, "eval geometry --heads own", ("seed", "rooms", "untrained"), "with --heads fresh")
        if asked.kinds() == ["pose"]:
            refuse(context, f"eval geometry --on {on}, of pose", ("align",), "of depth")
        run_geometry(backbone, asked, out, device, console)


def run_probe(
    place: str,
    on: str,
    out: Path | None,
    seed: int,
    rooms: int,
    untrained: bool,
    device: str,
    console: Console,
    eight_bits: bool = False,
) -> None:
    """Probe a backbone, the untrained one of its shape, and raw pixels, with equal heads; in 8 bits with its own."""
    from interlace.eval.album import Album
    from interlace.eval.probe import load_rooms, probe

    from .sample_pictures import draw_albums

    if on != "rooms":
        raise ValueError(f"eval probe --on {on}: there is only the built-in world, rooms")
    out = result_file(out, results_of(place), "probe-rooms")
    subjects = open_subjects(place, True, device, untrained=untrained)
    small = subjects.in_eight_bits(eight_bits)
    subjects.ready_rooms(console)
    data = load_rooms(train=rooms)
    results, albums = [], dict[str, list[Album]]()
    for subject in subjects.all:
        others = small if subject is subjects.all[0] else []
        results += probe(subject, data, seed=seed, others=others, albums=albums, say=teller(console))
    subjects.keep(results, out, "probe-rooms", console, partial(draw_albums, albums))


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
    eight_bits: bool = False,
) -> None:
    """Follow objects with a backbone, also in 8 bits, the untrained one of its shape, and raw pixels."""
    from interlace.eval import vos_rooms
    from interlace.eval.album import Album
    from interlace.eval.vos import SHORT_SIDE, label_propagation

    from .sample_pictures import draw_albums

    if on not in ("rooms", "davis17"):
        raise ValueError(f"eval vos --on {on}: allowed is rooms or davis17")
    if (on == "davis17") != (data is not None):
        raise ValueError("eval vos: --data DAVIS goes with --on davis17, and only with it")
    title = f"vos-{on}"
    out = result_file(out, results_of(place), title)
    subjects = open_subjects(place, True, device, untrained=untrained)
    small = subjects.in_eight_bits(eight_bits)
    if data is None:
        with subjects.first():
            root = vos_rooms.prepare(say=teller(console))
        name, side = "built-in rooms", vos_rooms.SIZE.size
    else:
        root, name, side = data, "DAVIS 2017 val", SHORT_SIDE
    results, albums = [], dict[str, list[Album]]()
    mine, *baselines = subjects.all
    for subject in (mine, *small, *baselines):
        results += label_propagation(
            subject,
            root,
            data=name,
            short_side=short_side or side,
            values=values,
            device=subjects.device,
            albums=None if subject in small else albums,
            share=subjects.share,
            say=teller(console),
        )
    subjects.keep(results, out, title, console, partial(draw_albums, albums))


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
    eight_bits: bool = False

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
    from interlace.eval.album import Album
    from interlace.eval.depth_error import ALIGNMENTS
    from interlace.eval.geometry import LONG_SIDE, benchmark, rooms, stream_geometry
    from interlace.eval.heads import Budget
    from interlace.eval.rooms import read_rooms
    from interlace.eval.streaming import FreshHeads, OwnHeads, Reader

    from .sample_pictures import draw_albums

    kinds, name = asked.kinds(), f"geometry-{asked.on}-{asked.heads}"
    out = result_file(out, results_of(place), name)
    alignment = next(each for each in ALIGNMENTS if each == asked.align)
    subjects = open_subjects(place, asked.heads == "fresh", device, untrained=asked.untrained)
    mine, small = subjects.all[0], subjects.in_eight_bits(asked.eight_bits)
    readers: list[tuple[Subject, Reader]] = []
    own = OwnHeads(place, subjects.mine.backbone.config, subjects.device) if asked.heads == "own" else None
    if asked.data is None:
        subjects.ready_rooms(console)
        missing: dict[str, str] = {}
        held_out, _ = read_rooms("held_out", missing=missing)
        suites = [rooms(kind, held_out, missing) for kind in kinds]
    else:
        suites = [benchmark(kind, asked.on, asked.data) for kind in kinds]
    if own is not None:
        readers += [(each, own) for each in (mine, *small)]
    else:
        subjects.ready_rooms(console)
        left_out: dict[str, str] = {}
        training, _ = read_rooms("train", rooms=asked.rooms, missing=left_out)
        for key, why in left_out.items():
            console.print(f"left out {key}: {why}", highlight=False, markup=False)
        for subject in subjects.all:
            console.print(f"{subject.name}: fresh heads", highlight=False, markup=False)
            fresh = FreshHeads(subject, training, Budget(), asked.seed)
            readers += [(each, fresh) for each in (subject, *(small if subject is mine else ()))]
    results, albums = [], dict[str, list[Album]]()
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
                albums=None if subject in small else albums,
                share=subjects.share,
                say=teller(console),
            )
    subjects.keep(results, out, name, console, partial(draw_albums, albums))
