"""Probes that are trained on data sets of other people, as commands. Imports are inside, as in commands.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from interlace.eval.subjects import FrozenBackbone, Subject

BackbonePath = Annotated[
    str, typer.Argument(help="A run, a backbone's folder or owner/name on the hub.", show_default=False)
]
Out = Annotated[
    Path | None, typer.Option("--out", help="The JSON file to write; by default in the run's results/, or ./results/.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of fresh heads, batches and augmentation.")]
Device = Annotated[str, typer.Option("--device", help="Where backbone and heads run: cpu, cuda, cuda:1.")]
Data = Annotated[Path | None, typer.Option("--data", help="The folder of a data set that is not built in.")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes that read and augment.")]
Baselines = Annotated[
    bool | None,
    typer.Option(help="Measure raw pixels and an untrained backbone too. By default only on the built-in rooms."),
]
VIDEOS = ("rooms", "k400", "ssv2")
COMBINATIONS = ("concatenated", "flat")


def add_probes(app: typer.Typer, console: Console) -> None:
    """Add the sub-commands, which print to ``console``."""

    @app.command(
        epilog="Examples: interlace eval video runs/demo | interlace eval video runs/demo --on ssv2 --data SSV2"
    )
    def video(
        backbone: BackbonePath,
        on: Annotated[str, typer.Option("--on", help="rooms (built in), k400 or ssv2.")] = "rooms",
        data: Data = None,
        views: Annotated[str, typer.Option("--views", help="concatenated or flat: how views are combined.")] = (
            "concatenated"
        ),
        out: Out = None,
        seed: Seed = 0,
        epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of k400 and ssv2.")] = 20,
        batch: Annotated[int, typer.Option("--batch", min=1, help="Videos of a step, of k400 and ssv2.")] = 256,
        at_once: Annotated[int, typer.Option("--at-once", min=1, help="Of these, how many are held together.")] = 4,
        rooms: Annotated[int, typer.Option("--rooms", min=2, help="Training rooms that probes learn from.")] = 120,
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
        subjects = _subjects(backbone, on == "rooms" if baselines is None else baselines, device)
        if data is None:
            run_room_paths(backbone, subjects, rooms, out, seed, device, console)
        else:
            budget = (epochs, batch, at_once)
            run_actions(backbone, subjects, on, data, views, budget, out, seed, workers, device, console)


def run_room_paths(
    place: str,
    subjects: tuple[FrozenBackbone, list[Subject]],
    rooms: int,
    out: Path | None,
    seed: int,
    device: str,
    console: Console,
) -> None:
    """Tell the camera's path in the built-in rooms."""
    from interlace.eval.rooms import read_rooms
    from interlace.eval.video_probe import probe_rooms, room_clips

    from .evaluating import keep, ready_rooms, teller

    ready_rooms(console)
    clips = room_clips(read_rooms("train", rooms=rooms), read_rooms("held_out"))
    results = []
    for subject in subjects[1]:
        results += probe_rooms(subject, clips, seed=seed, device=device, say=teller(console))
    keep(results, place, subjects[0], out, "video-rooms", console)


def run_actions(
    place: str,
    subjects: tuple[FrozenBackbone, list[Subject]],
    on: str,
    data: Path,
    views: str,
    budget: tuple[int, int, int],
    out: Path | None,
    seed: int,
    workers: int,
    device: str,
    console: Console,
) -> None:
    """Tell actions. ``budget``: epochs, videos of a step, videos held together."""
    from interlace.eval.actions import read_k400, read_ssv2
    from interlace.eval.video_probe import TRIALS, VIEWS, VideoBudget, probe_videos

    from .evaluating import keep, teller

    actions = {"k400": read_k400, "ssv2": read_ssv2}[on](data)
    epochs, batch, at_once = budget
    spent = VideoBudget(trials=TRIALS[on], epochs=epochs, batch=batch, at_once=at_once)
    results = []
    for subject in subjects[1]:
        results += probe_videos(
            subject,
            actions,
            VIEWS[on],
            spent,
            combine="flat" if views == "flat" else "concatenated",
            seed=seed,
            workers=workers,
            device=device,
            say=teller(console),
        )
    keep(results, place, subjects[0], out, f"video-{on}-{views}", console)


def _check_data(command: str, on: str, data: Path | None) -> None:
    if (on == "rooms") != (data is None):
        raise ValueError(
            f"eval {command}: --data FOLDER goes with a data set that is not built in, and only with it (--on {on})"
        )


def _subjects(place: str, baselines: bool, device: str) -> tuple[FrozenBackbone, list[Subject]]:
    """The backbone, and all that are measured."""
    from interlace.eval.subjects import open_subject

    from .evaluating import with_baselines

    mine = open_subject(place, device)
    return mine, with_baselines(mine, place, True, device) if baselines else [mine]
