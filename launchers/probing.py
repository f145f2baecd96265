"""Probes that are trained on data sets of other people, as commands. Imports are inside, as in commands.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console

from .meaningless import refuse
from .result_file import Out, result_file, results_of
from .results import keep, run_seed, teller

if TYPE_CHECKING:
    from accelerate import PartialState

    from interlace.eval.album import Album
    from interlace.eval.dense_probe import DenseBudget
    from interlace.eval.feed import Run, Share
    from interlace.eval.linear_probe import LinearBudget
    from interlace.eval.result import Result
    from interlace.eval.subjects import FrozenBackbone, Subject

    from .sample_pictures import Picture

_Budget = TypeVar("_Budget", "LinearBudget", "DenseBudget")
BackbonePath = Annotated[
    str, typer.Argument(help="A run, a backbone's folder or owner/name on the hub.", show_default=False)
]
Seed = Annotated[int, typer.Option("--seed", help="Of fresh heads, batches and augmentation.")]
Device = Annotated[str, typer.Option("--device", help="Where backbone and heads run: cpu, cuda, cuda:1.")]
Data = Annotated[Path | None, typer.Option("--data", help="The folder of a data set that is not built in.")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes that read and augment; not of rooms.")]
Baselines = Annotated[
    bool | None,
    typer.Option(help="Measure raw pixels and an untrained backbone too. By default only on the built-in rooms."),
]
Rooms = Annotated[int, typer.Option("--rooms", min=2, help="Of rooms: how many train the probes.")]
VIDEOS = ("rooms", "k400", "ssv2")
IMAGES = ("rooms", "imagenet", "ade20k", "nyuv2")
#: Options of ``eval video`` that the protocol of the rooms has no use for.
OF_ACTIONS = ("views", "epochs", "batch", "at_once", "workers")
COMBINATIONS = ("concatenated", "flat")


def add_probes(app: typer.Typer, console: Console) -> None:
    """Add the sub-commands, which print to ``console``."""

    @app.command(
        epilog="Examples: interlace eval video runs/demo | interlace eval video runs/demo --on ssv2 --data SSV2"
    )
    def video(
        context: typer.Context,
        backbone: BackbonePath,
        on: Annotated[str, typer.Option("--on", help="rooms (built in), k400 or ssv2.")] = "rooms",
        data: Data = None,
        views: Annotated[str, typer.Option("--views", help="Of k400 and ssv2: concatenated or flat.")] = (
            "concatenated"
        ),
        out: Out = None,
        seed: Seed = 0,
        epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of k400 and ssv2.")] = 20,
        batch: Annotated[int, typer.Option("--batch", min=1, help="Videos of a step, of k400 and ssv2.")] = 256,
        at_once: Annotated[
            int, typer.Option("--at-once", min=1, help="Of a step's videos, how many are held at once.")
        ] = 4,
        rooms: Rooms = 120,
        baselines: Baselines = None,
        workers: Workers = 4,
        device: Device = "cpu",
    ) -> None:
        """What a video shows, by attentive probes on frozen tokens: actions, or the camera's path in rooms."""
        if on not in VIDEOS:
            raise ValueError(f"eval video --on {on}: allowed is {', '.join(VIDEOS)}")
        if views not in COMBINATIONS:
            raise ValueError(f"eval video --views {views}: allowed is {', '.join(COMBINATIONS)}")
        _check_data("video", on, data)
        if on == "rooms":
            refuse(context, "eval video --on rooms", OF_ACTIONS, "with --on k400 or ssv2")
        else:
            refuse(context, f"eval video --on {on}", ("rooms",), "with --on rooms")
        name = "video-rooms" if on == "rooms" else f"video-{on}-{views}"
        out = result_file(out, results_of(backbone), name)
        subjects = open_subjects(backbone, on == "rooms" if baselines is None else baselines, device)
        if data is None:
            run_room_paths(subjects, rooms, out, name, seed, console)
        else:
            budget = (epochs, batch, at_once)
            run_actions(subjects, on, data, views, budget, out, name, seed, workers, console)

    @app.command(
        epilog="Examples: interlace eval linear runs/demo | "
        "interlace eval linear runs/demo --on imagenet --data ImageNet --device cuda"
    )
    def linear(
        context: typer.Context,
        backbone: BackbonePath,
        on: Annotated[str, typer.Option("--on", help="rooms (built in), imagenet, ade20k or nyuv2.")] = "rooms",
        data: Data = None,
        cached: Annotated[
            bool, typer.Option("--cached", help="Classes: un-augmented, from features kept in memory; neighbours too.")
        ] = False,
        out: Out = None,
        seed: Seed = 0,
        steps: Annotated[int | None, typer.Option("--steps", min=1, help="Instead of the protocol's.")] = None,
        batch: Annotated[int | None, typer.Option("--batch", min=2, help="Instead of the protocol's.")] = None,
        rooms: Rooms = 120,
        baselines: Baselines = None,
        workers: Workers = 4,
        device: Device = "cpu",
    ) -> None:
        """Linear probes by DINOv3's protocols: classes of images, of their pixels, and depth."""
        if on not in IMAGES:
            raise ValueError(f"eval linear --on {on}: allowed is {', '.join(IMAGES)}")
        if cached and on in ("ade20k", "nyuv2"):
            raise ValueError(f"eval linear --cached: {on} is probed with augmentation only")
        _check_data("linear", on, data)
        other, alone = ("workers", "with other data than rooms") if on == "rooms" else ("rooms", "with --on rooms")
        refuse(context, f"eval linear --on {on}", (other,), alone)
        name = f"linear-{on}{'-cached' * cached}"
        out = result_file(out, results_of(backbone), name)
        subjects = open_subjects(backbone, on == "rooms" if baselines is None else baselines, device)
        asked = Linear(on, data, cached, rooms, steps, batch, seed, workers, subjects.device)
        run_linear(subjects, asked, out, name, console)


@dataclass(frozen=True)
class Linear:
    """What ``interlace eval linear`` was asked for; ``steps``, ``batch``: None where the protocol's hold."""

    on: str
    data: Path | None
    cached: bool
    rooms: int
    steps: int | None
    batch: int | None
    seed: int
    workers: int
    device: str

    def apply(self, budget: _Budget) -> _Budget:
        """The budget with what was asked for."""
        return replace(budget, steps=self.steps or budget.steps, batch=self.batch or budget.batch)


def run_linear(subjects: Subjects, asked: Linear, out: Path, name: str, console: Console) -> None:
    """Probe images, of the rooms in all three ways."""
    from interlace.eval.album import Album
    from interlace.eval.feed import Run

    from .sample_pictures import draw_albums

    if asked.data is None:
        subjects.ready_rooms(console)
    probes = _room_probes(asked) if asked.data is None else [_image_probe(asked, asked.data)]
    run = Run(asked.seed, asked.workers if asked.data else 0, asked.device, teller(console))
    results, albums = [], dict[str, list[Album]]()
    for probe in probes:
        for subject in subjects.all:
            results += probe(subject, run, albums)
    subjects.keep(results, out, name, console, partial(draw_albums, albums))


#: Measures a subject and adds what it said to the albums of all.
_Probe = Callable[["Subject", "Run", dict[str, "list[Album]"]], "list[Result]"]


def _image_probe(asked: Linear, root: Path) -> _Probe:
    from interlace.eval.dense_probe import ADE20K, NYU, probe_depth, probe_segmentation
    from interlace.eval.images import read_ade20k, read_imagenet, read_nyu
    from interlace.eval.linear_probe import LinearBudget, probe_classes

    if asked.on == "imagenet":
        found, budget = read_imagenet(root), asked.apply(LinearBudget())
        return lambda subject, run, albums: probe_classes(
            subject, found, budget, run, cached=asked.cached, albums=albums
        )
    if asked.on == "ade20k":
        masks, spent = read_ade20k(root), asked.apply(ADE20K)
        return lambda subject, run, albums: probe_segmentation(subject, masks, spent, run, albums=albums)
    depths, spent = read_nyu(root), asked.apply(NYU)
    return lambda subject, run, albums: probe_depth(subject, depths, spent, run, albums=albums)


def _room_probes(asked: Linear) -> list[_Probe]:
    from interlace.data_recipes.worlds.rooms import LABELS
    from interlace.eval.dense_probe import probe_depth, probe_segmentation
    from interlace.eval.linear_probe import probe_classes
    from interlace.eval.probe import load_rooms
    from interlace.eval.room_images import (
        CLASS_BUDGET,
        DENSE_BUDGET,
        LABEL,
        room_classes,
        room_depths,
        room_masks,
    )

    rooms = load_rooms(train=asked.rooms)
    classes = room_classes(rooms, LABELS[LABEL], asked.seed)
    budget, spent = asked.apply(CLASS_BUDGET), asked.apply(DENSE_BUDGET)
    probes: list[_Probe] = [
        lambda subject, run, albums: probe_classes(subject, classes, budget, run, cached=asked.cached, albums=albums)
    ]
    if not asked.cached:
        (masks, size), depths = room_masks(rooms), room_depths(rooms)
        probes += [
            lambda subject, run, albums: probe_segmentation(subject, masks, spent, run, size=size, albums=albums),
            lambda subject, run, albums: probe_depth(subject, depths, spent, run, albums=albums),
        ]
    return probes


def run_room_paths(
    subjects: Subjects,
    rooms: int,
    out: Path,
    name: str,
    seed: int,
    console: Console,
) -> None:
    """Tell the camera's path in the built-in rooms."""
    from interlace.eval.video_probe import probe_rooms, room_clips

    subjects.ready_rooms(console)
    clips = room_clips(rooms=rooms)
    results = []
    for subject in subjects.all:
        results += probe_rooms(subject, clips, seed=seed, device=subjects.device, say=teller(console))
    subjects.keep(results, out, name, console)


def run_actions(
    subjects: Subjects,
    on: str,
    data: Path,
    views: str,
    budget: tuple[int, int, int],
    out: Path,
    name: str,
    seed: int,
    workers: int,
    console: Console,
) -> None:
    """Tell actions. ``budget``: epochs, videos of a step, videos held together."""
    from interlace.eval.actions import read_k400, read_ssv2
    from interlace.eval.video_probe import TRIALS, VIEWS, VideoBudget, probe_videos

    actions = {"k400": read_k400, "ssv2": read_ssv2}[on](data)
    epochs, batch, at_once = budget
    spent = VideoBudget(trials=TRIALS[on], epochs=epochs, batch=batch, at_once=at_once)
    results = []
    for subject in subjects.all:
        results += probe_videos(
            subject,
            actions,
            VIEWS[on],
            spent,
            combine="flat" if views == "flat" else "concatenated",
            seed=seed,
            workers=workers,
            device=subjects.device,
            say=teller(console),
        )
    subjects.keep(results, out, name, console)


def _check_data(command: str, on: str, data: Path | None) -> None:
    if (on == "rooms") != (data is None):
        raise ValueError(
            f"eval {command}: --data FOLDER goes with a data set that is not built in, and only with it (--on {on})"
        )


@dataclass(frozen=True)
class Subjects:
    """``mine``, and ``all`` that are measured; where several processes do it, ``state`` is of them."""

    mine: FrozenBackbone
    all: list[Subject]
    device: str
    state: PartialState | None

    @property
    def share(self) -> Share:
        """Measures sequences, each in one of the processes."""
        from interlace.eval.feed import alone
        from interlace.eval.spread import Shared

        return alone if self.state is None else Shared(self.state)

    def first(self) -> AbstractContextManager[None]:
        """A ``with`` block that the first process goes through before the others."""
        return nullcontext() if self.state is None else self.state.main_process_first()

    def in_eight_bits(self, wanted: bool) -> list[Subject]:
        """``mine`` with 8-bit keys and values, if wanted."""
        from interlace.eval.subjects import EightBits

        return _spread([EightBits(self.mine)] if wanted else [], self.state)

    def ready_rooms(self, console: Console) -> None:
        """The first process makes the rooms, if they are not there."""
        from interlace.data_recipes.worlds.demo import demo_folder

        from .commands import prepare_input

        with self.first():
            if not (demo_folder() / "rooms_held_out").is_dir():
                prepare_input("demo", None, console)

    def keep(
        self,
        results: list[Result],
        out: Path,
        name: str,
        console: Console,
        draw: Callable[[], Sequence[Picture]] = lambda: (),
    ) -> None:
        """The first process writes; the others found the same."""
        if self.state is None or self.state.is_main_process:
            keep(results, self.mine, out, name, console, draw)


def open_subjects(place: str, baselines: bool, device: str, *, untrained: bool = True) -> Subjects:
    """The backbone at ``place``, with ``baselines`` also raw pixels and, if wanted, an untrained one of its shape."""
    from interlace.eval.spread import processes
    from interlace.eval.subjects import Pixels, initialised, open_subject

    state = processes(device)
    own = device if state is None else str(state.device)
    mine = open_subject(place, own)
    found: list[Subject] = [mine]
    if baselines:
        start = [initialised(mine.backbone.config, run_seed(place), own)] if untrained else []
        found += [*start, Pixels(mine.patch_size)]
    return Subjects(mine, _spread(found, state), own, state)


def _spread(subjects: Sequence[Subject], state: PartialState | None) -> list[Subject]:
    from interlace.eval.spread import Spread

    return list(subjects) if state is None else [Spread(each, state) for each in subjects]
