"""``interlace eval policy``: a trained policy in control of the robot table, or of another simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .result_file import Out, result_file
from .results import keep, run_seed, teller

if TYPE_CHECKING:
    from interlace.data_recipes.action_scale import ActionScale
    from interlace.eval.policy import Attempt, World

#: What --on may say beside the built-in table; each needs its simulator: docs/vla.md.
SIMULATORS = ("calvin", "libero", "simpler")
#: Which options are of which world alone.
OPTIONS = {
    "chains": ("table",),
    "alone": ("table",),
    "size": ("table",),
    "table-seed": ("table",),
    "episodes": ("table", "libero", "simpler"),
    "data": ("calvin",),
    "sequences": ("calvin",),
    "suite": ("libero",),
}


def add_policy(app: typer.Typer, console: Console) -> None:
    """Put the command into ``app``."""

    @app.command(
        epilog="Examples: interlace eval policy runs/vla --episodes 120 | "
        "interlace eval policy runs/calvin --on calvin --data task_ABC_D --sequences eval_sequences.json"
    )
    def policy(
        run: Annotated[Path, typer.Argument(help="A run of task vla.", show_default=False)],
        on: Annotated[
            str,
            typer.Option("--on", help="table (built in), or calvin, libero, simpler: their simulators must be there."),
        ] = "table",
        episodes: Annotated[
            int | None,
            typer.Option(
                "--episodes",
                min=1,
                help="Of the table: unseen layouts, 60; the twelve instructions take turns. Of libero and simpler: of "
                "each task, 50 and 24.",
            ),
        ] = None,
        chains: Annotated[
            int | None,
            typer.Option("--chains", min=0, help="Of the table: chains of five instructions in one scene, 20."),
        ] = None,
        alone: Annotated[
            bool, typer.Option("--alone", help="Of the table: the policy without expert and controls.")
        ] = False,
        size: Annotated[
            int | None, typer.Option("--size", min=16, help="Pixels a side that the table is drawn with, 96.")
        ] = None,
        table_seed: Annotated[
            int | None, typer.Option("--table-seed", help="Of the table's layouts: the training episodes', 0.")
        ] = None,
        data: Annotated[Path | None, typer.Option("--data", help="CALVIN's dataset, such as task_ABC_D.")] = None,
        sequences: Annotated[
            Path | None, typer.Option("--sequences", help="CALVIN's 1,000 chains: eval_sequences.json.")
        ] = None,
        suite: Annotated[str | None, typer.Option("--suite", help="Of libero: libero_spatial.")] = None,
        out: Out = None,
        backbone: Annotated[str | None, typer.Option("--backbone", help="Where its backbone is, if moved.")] = None,
        device: Annotated[str, typer.Option("--device", help="cpu, or cuda.")] = "cpu",
    ) -> None:
        """Success of a policy in closed loop, by instruction and in chains, beside an expert and controls; videos."""
        own = {"chains": chains, "alone": alone or None, "size": size, "table-seed": table_seed, "episodes": episodes}
        refuse_others(on, own | {"data": data, "sequences": sequences, "suite": suite})
        if on != "table":
            asked = suite or "libero_spatial"
            run_simulator(run, on, data, sequences, asked, episodes, out, backbone, device, console)
            return
        count = 20 if chains is None else chains
        seen, seed = size or 96, table_seed or 0
        run_policy(run, episodes or 60, seen, seed, out, backbone, device, console, chains=count, alone=alone)


def refuse_others(on: str, given: Mapping[str, object]) -> None:
    """ValueError that names every option that is given, not None, and not of world ``on``."""
    if on not in ("table", *SIMULATORS):
        raise ValueError(_unknown(on))
    others = [name for name, value in given.items() if value is not None and on not in OPTIONS[name]]
    if others:
        found = ", ".join(f"--{name} (of {', '.join(OPTIONS[name])})" for name in others)
        raise ValueError(f"eval policy --on {on}: {found} means nothing here; leave it out")


def _unknown(on: str) -> str:
    return f"eval policy --on {on}: allowed is table, {', '.join(SIMULATORS)}"


def run_policy(
    run: Path,
    episodes: int,
    size: int,
    table_seed: int,
    out: Path | None,
    backbone: str | None,
    device: str,
    console: Console,
    *,
    chains: int = 20,
    alone: bool = False,
) -> None:
    """Let a policy, the expert and the controls act on the robot table; keep results and videos in the run."""
    from interlace.data_recipes.action_scale import ActionScale
    from interlace.data_recipes.worlds import render
    from interlace.data_recipes.worlds.table import FPS, REACH, Table, TableCamera
    from interlace.data_recipes.worlds.table_episodes import TableSettings
    from interlace.eval.compare import RESULTS
    from interlace.eval.policy import Films, Who
    from interlace.eval.policy_table import Rival, TableChains, TableEpisodes, compare, rivals
    from interlace.eval.subjects import FrozenBackbone, check_device
    from interlace.tasks.vla import Policy, load_vla

    from .policy_pictures import overview

    where = check_device(device)
    out = result_file(out, run / RESULTS, "policy")
    task, eyes = load_vla(run, backbone)
    subject, say = FrozenBackbone(eyes.to(where), run.name), teller(console)
    policy = Policy(task.to(where), eyes, scale=ActionScale("stated", *REACH), name="robot table")
    drawn_with = render.find_backend()
    say(render.describe_table(drawn_with))
    render.set_backend(drawn_with)
    table, who = Table(), Who(subject.name, subject.digest, run_seed(str(run)))
    with subject.held(), policy, TableCamera(table, size) as camera:
        films = Films(out.with_suffix(".videos"), FPS)
        sides = [Rival(who, policy, policy.every)]  # the replay is learned from hundreds of episodes
        if not alone:
            sides = rivals(table, policy, policy.every, who, TableSettings(seed=table_seed))

        def episode_world(every: int) -> World:
            return TableEpisodes(table, camera.draw, table_seed, every=every)

        def chain_world(every: int) -> World:
            return TableChains(table, camera.draw, table_seed, every=every)

        results, tried = compare(episode_world, sides, episodes, films=films, say=say)
        if chains:
            in_a_row, chained = compare(chain_world, sides, chains, say=say)
            results += in_a_row
    keep(results, subject, out, "policy", console, lambda: [overview(results)])
    console.print(f"{_done(tried)}; videos of {len(films.written)} in {films.folder}", highlight=False, markup=False)
    if chains:
        console.print(_in_a_row(chained), highlight=False, markup=False)


def _done(tried: Mapping[str, Sequence[Attempt]]) -> str:
    mine, *others = ((name, sum(each.succeeded for each in tries), len(tries)) for name, tries in tried.items())
    beside = ", ".join(f"{name} {done}" for name, done, _ in others)
    return f"{mine[1]} of {mine[2]} episodes done" + (f" ({beside})" if beside else "")


def _in_a_row(tried: Mapping[str, Sequence[Attempt]]) -> str:
    means = {name: sum(each.done for each in tries) / len(tries) for name, tries in tried.items()}
    first, *others = tried
    beside = ", ".join(f"{name} {means[name]:.2f}" for name in others)
    text = f"{means[first]:.2f} of {len(tried[first][0].orders)} instructions in a row over {len(tried[first])} chains"
    return text + (f" ({beside})" if beside else "")


def run_simulator(
    run: Path,
    on: str,
    data: Path | None,
    sequences: Path | None,
    suite: str,
    episodes: int | None,
    out: Path | None,
    backbone: str | None,
    device: str,
    console: Console,
) -> None:
    """Let a policy act in CALVIN, LIBERO or SimplerEnv; keep results and videos in the run.

    Raises DataError for one whose actions are scaled otherwise, where the simulator's scale is known.
    """
    from interlace.data_recipes.action_scale import BRIDGE
    from interlace.eval.compare import RESULTS
    from interlace.eval.policy import Films, Who, attempts, chains, success
    from interlace.eval.subjects import FrozenBackbone, check_device
    from interlace.tasks.vla import Policy, load_vla

    from .policy_pictures import overview

    where = check_device(device)
    out = result_file(out, run / RESULTS, f"policy-{on}")
    world, count, scale = open_simulator(on, data, sequences, suite, episodes)
    task, eyes = load_vla(run, backbone)
    if on == "simpler":
        task.scale.demand_near(BRIDGE, world.name)
    subject = FrozenBackbone(eyes.to(where), run.name)
    policy = Policy(task.to(where), eyes, scale=scale, name=world.name)
    films = Films(out.with_suffix(".videos"), world.fps)
    ending: Any = closing(world) if hasattr(world, "close") else nullcontext()
    with subject.held(), policy, ending:
        tried = attempts(world, policy, range(count), films=films, say=teller(console))
    who = Who(subject.name, subject.digest, run_seed(str(run)))
    chained = len(tried[0].orders) > 1
    results = (chains if chained else success)(world, tried, who)
    keep(results, subject, out, f"policy-{on}", console, lambda: [overview(results)])
    found = {who.name: tried}
    text = _in_a_row(found) if chained else _done(found)
    console.print(f"{text}; videos of {len(films.written)} in {films.folder}", highlight=False, markup=False)


def open_simulator(
    on: str, data: Path | None, sequences: Path | None, suite: str, episodes: int | None
) -> tuple[World, int, ActionScale | None]:
    """The world, how many episodes it has, and the scale of its actions where that is known.

    Raises ValueError in one line for a simulator that is unknown or not installed, and for files that are missing.
    """
    from interlace.data_recipes.action_scale import CALVIN_CLIP, clip_scale
    from interlace.eval import policy_calvin, policy_libero, policy_simpler

    if on == "calvin":
        if data is None or sequences is None:
            raise ValueError(
                "eval policy --on calvin: give its dataset with --data, and its 1,000 chains (eval_sequences.json) "
                "with --sequences"
            )
        calvin = policy_calvin.open_calvin(data, sequences)
        return calvin, len(calvin.chains), clip_scale(CALVIN_CLIP, policy_calvin.ACTION_SIZE - 1)
    if on == "libero":
        libero = policy_libero.open_libero(suite, episodes or policy_libero.STATES)
        return libero, libero.episodes, None
    if on == "simpler":
        simpler = policy_simpler.open_simpler(episodes or policy_simpler.PLACES)
        return simpler, simpler.episodes, None
    raise ValueError(_unknown(on))
