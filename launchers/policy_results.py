"""``interlace eval policy``: a trained policy in control of the robot table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def add_policy(app: typer.Typer, console: Console) -> None:
    """Put the command into ``app``."""

    @app.command(epilog="Example: interlace eval policy runs/vla --episodes 120")
    def policy(
        run: Annotated[Path, typer.Argument(help="A run of task vla.", show_default=False)],
        episodes: Annotated[
            int, typer.Option("--episodes", min=1, help="Unseen layouts; the twelve instructions take turns.")
        ] = 60,
        size: Annotated[int, typer.Option("--size", min=16, help="Pixels a side that the table is drawn with.")] = 96,
        table_seed: Annotated[int, typer.Option("--table-seed", help="Of the layouts: the training episodes'.")] = 0,
        out: Annotated[Path | None, typer.Option("--out", help="The results' JSON; in the run if left out.")] = None,
        backbone: Annotated[str | None, typer.Option("--backbone", help="Where its backbone is, if moved.")] = None,
        device: Annotated[str, typer.Option("--device", help="cpu, or cuda.")] = "cpu",
    ) -> None:
        """Success of a policy on the robot table, in closed loop, by instruction, with videos."""
        run_policy(run, episodes, size, table_seed, out, backbone, device, console)


def run_policy(
    run: Path,
    episodes: int,
    size: int,
    table_seed: int,
    out: Path | None,
    backbone: str | None,
    device: str,
    console: Console,
) -> None:
    """Let it act, keep results and videos in the run."""
    from interlace.data_recipes.action_scale import clip_scale
    from interlace.data_recipes.worlds import render
    from interlace.data_recipes.worlds.table import ACTION_SIZE, Table, TableCamera
    from interlace.eval.compare import RESULTS
    from interlace.eval.policy import attempt, success, write_videos
    from interlace.eval.subjects import FrozenBackbone
    from interlace.tasks.vla import Policy, load_vla

    from .evaluating import keep, run_seed

    task, eyes = load_vla(run, backbone)
    subject = FrozenBackbone(eyes.to(device), run.name)
    # What the table is told is in -1...1 already.
    policy = Policy(task.to(device), eyes, scale=clip_scale(1.0, ACTION_SIZE - 1), name="robot table")
    drawn_with = render.find_backend()
    if drawn_with == render.RAYS:
        raise ValueError("the robot table is drawn with OpenGL, and there is none here: install libegl1")
    render.set_backend(drawn_with)
    table = Table()
    with subject.held(), policy, TableCamera(table, size) as camera:
        attempts = [attempt(table, camera.draw, policy, table_seed, number) for number in range(episodes)]
    out = out or run / RESULTS / "policy.json"
    results = success(attempts, subject=subject.name, backbone_hash=subject.digest, seed=run_seed(str(run)))
    keep(results, str(run), subject, out, "policy", console)
    films = write_videos(attempts, out.with_suffix(".videos"))
    done = sum(each.done for each in attempts)
    line = f"{done} of {len(attempts)} episodes done; videos of {len(films)} in {out.with_suffix('.videos')}"
    console.print(line, highlight=False, markup=False)
