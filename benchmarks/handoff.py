"""What a frozen backbone is worth to others: probes, a VLM and a policy, in three seeds, with every control.

    python benchmarks/handoff.py runs/demo_long --estimate
    python benchmarks/handoff.py runs/demo_long [--only probes|vlm|vla] [--seeds 0 1 2] [--at-once 2]

Everything is compared in pairs within a seed, and the mean over seeds has one interval, in which seeds and rooms or
episodes are resampled:

- probes: the backbone against the random weights that its run began with, each with the same heads and budget; raw
  pixels and label propagation are reported beside;
- vlm: `vlm_demo` against a model trained without images, and against one trained on the initial weights;
- vla: `vla_demo` on unseen layouts against a policy trained on blank images, one trained on the initial weights, the
  policy told other instructions, and the replay that sees nothing; the expert stands beside.

Each cell is a training or a measurement by the command that one would type, in a process of its own with its share of
the cores, and is recorded when it is done: the same call goes on where another one was stopped. What would fail late is
tried first: the input is prepared, and every recipe is read with the backbone that it is for. Writes handoff.json and
handoff.md, of all parts that are done, into --out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from handoff_tables import Cell, write_tables

from interlace.launchers.full import ENDED, hold, policy_training, preparation, training
from interlace.launchers.full_jobs import Command, Desk, Job, run_jobs

PARTS = ("probes", "vlm", "vla")
#: What ``interlace prepare`` makes for each.
INPUT = {"probes": "demo", "vlm": "questions", "vla": "table"}
#: Minutes of one thread that a cell takes at its full size, for the estimate: what they took on 2026-11-30, two at once
#: on the cores of an AMD EPYC, other work beside them for part of the time.
MINUTES = {
    "probes": 2.0,
    "propagation": 1.0,
    "vlm": 14.0,
    "vlm_blind": 5.0,
    "vlm_initial": 14.0,
    "vla": 20.0,
    "vla_blind": 5.0,
    "vla_initial": 21.0,
}


@dataclass(frozen=True)
class Chosen:
    """What was asked for. ``run``, ``out``: absolute. ``vlm``, ``vla``: changes to the recipes."""

    run: Path
    out: Path
    seeds: tuple[int, ...]
    rooms: int
    episodes: int
    chains: int
    vlm: tuple[str, ...]
    vla: tuple[str, ...]

    @property
    def initial(self) -> Path:
        """The backbone that the run began with."""
        return self.out / "initial"


def probe_cells(chosen: Chosen) -> list[Cell]:
    """One for each seed of heads and batches, and label propagation, in which nothing is drawn."""
    cells = []
    for seed in chosen.seeds:
        file = chosen.out / "results" / f"probe_{seed}.json"
        how = ("--on", "rooms", "--rooms", str(chosen.rooms), "--seed", str(seed), "--out", str(file))
        command = Command(("eval", "probe", str(chosen.run), *how), file)
        cells.append(Cell("probes", "probes", seed, Job(f"probes_{seed}", (command,), MINUTES["probes"]), file))
    file = chosen.out / "results" / "vos.json"
    command = Command(("eval", "vos", str(chosen.run), "--on", "rooms", "--out", str(file)), file)
    cells.append(Cell("propagation", "probes", 0, Job("propagation", (command,), MINUTES["propagation"]), file))
    return cells


def trained_cells(chosen: Chosen, part: str) -> list[Cell]:
    """Three trainings for each seed, each measured: with the backbone, without images, with the initial weights."""
    measure, name, changes = {
        "vlm": (("eval", "vlm"), "vlm.json", chosen.vlm),
        "vla": (("eval", "policy"), "policy.json", chosen.vla),
    }[part]
    played = ("--episodes", str(chosen.episodes), "--chains", str(chosen.chains)) if part == "vla" else ()
    cells = []
    for seed in chosen.seeds:
        for role in ("", "_blind", "_initial"):
            to = chosen.out / f"{part}{role}_{seed}"
            # Who is not trained, the expert for one, acts once a seed, beside the policy on the backbone.
            options = (*played, "--alone") if played and role else played
            backbone = chosen.initial if role == "_initial" else chosen.run / "backbone"
            mine = (f"tasks.{part}.options.blind=true", *changes) if role == "_blind" else changes
            trained = (
                policy_training(to, backbone, seed, mine)
                if part == "vla"
                else (Command(training("vlm_demo", to, backbone, seed, mine), to / ENDED),)
            )
            measured = Command((*measure, str(to), *options), to / "results" / name)
            job = Job(to.name, (*trained, measured), MINUTES[f"{part}{role}"])
            cells.append(Cell(f"{part}{role}", part, seed, job, to / "results" / name))
    return cells


def cells_of(chosen: Chosen, part: str) -> list[Cell]:
    """All cells of a part, those that take longest first: the others then fill the other core."""
    cells = probe_cells(chosen) if part == "probes" else trained_cells(chosen, part)
    return sorted(cells, key=lambda cell: -cell.job.minutes)


def write_initial(chosen: Chosen) -> None:
    """The random weights that the run began with, whole or not at all. ValueError for a run that began with others."""
    import yaml

    from interlace.backbone import load, save
    from interlace.eval.subjects import initialised

    recipe = yaml.safe_load((chosen.run / "recipe.yaml").read_text())
    began = recipe.get("start_from") or recipe["backbone"].get("init")
    if began:
        raise ValueError(f"{chosen.run} began from {began}: this compares a run with the random weights it began with")
    if not chosen.initial.exists():
        partial = chosen.initial.with_name(f".{chosen.initial.name}.partial")
        save(initialised(load(chosen.run).config, recipe["seed"]).backbone, partial)
        partial.rename(chosen.initial)


def try_recipes(cells: Sequence[Cell]) -> None:
    """Read every recipe that cells train, and load the backbone that it names into the shape that it states.

    ValueError for what could not be trained, which would otherwise be told when its turn comes.
    """
    from dataclasses import asdict

    from interlace.backbone import load
    from interlace.pretrain.train import recipe_from

    for words in (command.words for cell in cells for command in cell.job.commands if command.words[0] == "pretrain"):
        _, name, *changes = words[: words.index("--run")]
        # What a recipe starts from is a run of the same cell, which is not there yet.
        backbone = recipe_from(
            name, [*(each for each in changes if not each.startswith("start_from=")), "start_from=null"]
        ).backbone
        load(str(backbone.init), **asdict(backbone.config))


def recorded_seeds(out: Path) -> tuple[int, ...]:
    """The seeds of which any cell was run in ``out``."""
    ends = {file.stem.rpartition("_")[2] for file in (out / "records").glob("*.json")}
    return tuple(sorted(int(end) for end in ends if end.isdecimal()))


def estimate(cells: Sequence[Cell], desk: Desk, at_once: int) -> str:
    """What is left and how long it may take at full size, a line for each kind of cell."""
    left = [cell for cell in cells if desk.left(cell.job)]
    lines = [f"{'cells':14s}{'left':>6s}{'minutes each':>14s}"]
    for kind in dict.fromkeys(cell.kind for cell in cells):
        mine = [cell for cell in cells if cell.kind == kind]
        waiting = sum(cell in left for cell in mine)
        lines.append(f"{kind:14s}{waiting:3d}/{len(mine):<2d}{mine[0].job.minutes:14.0f}")
    total = sum(cell.job.minutes for cell in left)
    longest = max((cell.job.minutes for cell in left), default=0.0)
    return "\n".join((*lines, f"together about {max(longest, total / at_once) / 60:.1f} h, {at_once} at once"))


def ready(wanted: Sequence[str], desk: Desk) -> None:
    """Make the input that is not there, and touch no other. ValueError where that fails: nothing is trained yet."""
    jobs = [job for job in preparation(wanted).jobs if not job.commands[0].makes.exists()]
    if failures := run_jobs(jobs, desk, at_once=1):
        raise ValueError("\n".join(map(str, failures)))


def machine() -> str:
    """When and where this runs. Imported here: processes that are started should not wait for torch."""
    import torch
    from machine import stamp

    return stamp(torch.device("cpu"))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run that has ended, such as that of `interlace demo --long`")
    parser.add_argument("--out", type=Path, help="where everything goes; RUN/handoff3 if left out")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts, and no other")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--at-once", type=int, default=2, help="processes side by side, each with its share of cores")
    parser.add_argument("--rooms", type=int, default=120, help="training rooms that probes learn from")
    parser.add_argument("--episodes", type=int, default=96, help="of each policy")
    parser.add_argument("--chains", type=int, default=0, help="of five instructions, of each policy")
    parser.add_argument("--vlm", action="append", default=[], metavar="KEY=VALUE", help="a change to vlm_demo")
    parser.add_argument("--vla", action="append", default=[], metavar="KEY=VALUE", help="a change to vla_demo")
    parser.add_argument("--estimate", action="store_true", help="say what it would cost, and do nothing")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    run = options.run.resolve()
    out = (options.out or run / "handoff3").resolve()
    if not (run / ENDED).is_dir():
        raise SystemExit(
            f"{run} holds no run that has ended: train one with `interlace demo --long --run {options.run}`"
        )
    chosen = Chosen(
        run,
        out,
        tuple(options.seeds),
        options.rooms,
        options.episodes,
        options.chains,
        tuple(options.vlm),
        tuple(options.vla),
    )
    asked = [part for part in PARTS if part in options.only]
    cells = [cell for part in asked for cell in cells_of(chosen, part)]
    where = f"{machine()}, {options.at_once} at once"
    print(where, flush=True)
    desk = Desk(out, lambda line: print(line, flush=True))
    print(estimate(cells, desk, options.at_once), flush=True)
    if options.estimate:
        return
    try:
        hold(out, run)
        write_initial(chosen)
        ready([INPUT[part] for part in asked], desk)
        try_recipes([cell for cell in cells if desk.left(cell.job)])
    except ValueError as error:
        raise SystemExit(f"{error}") from None
    failures = run_jobs([cell.job for cell in cells], desk, at_once=options.at_once)
    # A call for one part, or one seed, leaves what the tables know of the others as it is.
    known = replace(chosen, seeds=recorded_seeds(out))
    ended = [cell for part in PARTS for cell in cells_of(known, part) if not desk.left(cell.job)]
    print(f"tables: {write_tables(run.name, where, out, ended, desk)}")
    if failures:
        raise SystemExit("\n".join((*map(str, failures), "mend that and give the same call again")))


if __name__ == "__main__":
    main()
