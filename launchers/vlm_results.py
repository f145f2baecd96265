"""``interlace eval vlm``: a trained vision-language model on questions that have one right answer."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .result_file import Out, result_file
from .results import keep, run_seed


def add_vlm(app: typer.Typer, console: Console) -> None:
    """Put the command into ``app``."""

    @app.command(
        epilog="Example: interlace eval vlm runs/vlm_blind; interlace eval vlm runs/vlm; "
        "interlace report runs/vlm_blind runs/vlm"
    )
    def vlm(
        run: Annotated[Path, typer.Argument(help="A run of task vlm.", show_default=False)],
        data: Annotated[
            Path | None, typer.Option("--data", help="Shards with questions; those of built-in rooms if left out.")
        ] = None,
        out: Out = None,
        backbone: Annotated[str | None, typer.Option("--backbone", help="Where its backbone is, if moved.")] = None,
        device: Annotated[str, typer.Option("--device", help="cpu, or cuda.")] = "cpu",
    ) -> None:
        """Exact answers of a vision-language model by kind of question, with what it said beside."""
        run_vlm(run, data, out, backbone, device, console)


def run_vlm(
    run: Path, data: Path | None, out: Path | None, backbone: str | None, device: str, console: Console
) -> None:
    """Ask all questions, keep the results and the answers in the run."""
    from interlace.data_recipes.broken import read_samples
    from interlace.data_recipes.shards import ShardReader
    from interlace.data_recipes.worlds.questions_data import question_folder
    from interlace.eval.compare import RESULTS
    from interlace.eval.rooms import check_stored
    from interlace.eval.subjects import FrozenBackbone, check_device
    from interlace.eval.vlm import answer_questions
    from interlace.tasks.vlm.saved import load_vlm

    where = check_device(device)
    out = result_file(out, run / RESULTS, "vlm")
    name, shards = "built-in rooms", question_folder() / "questions_held_out"
    if data is not None:
        name, shards = data.name, data
    elif not shards.is_dir():
        raise ValueError(f"{shards}: no such folder; `interlace prepare questions` makes it")
    reader = ShardReader(shards)
    task, eyes = load_vlm(run, backbone)
    subject = FrozenBackbone(eyes.to(where), run.name)
    task.to(where)
    found = read_samples(reader, name, accept=partial(check_stored, reader))
    missing = {each.key: each.reason for each in found.broken}
    for key, why in missing.items():
        console.print(f"left out {key}: {why}", highlight=False, markup=False)
    results, answers = answer_questions(
        task,
        subject,
        found.samples,
        data=name,
        seed=run_seed(str(run)),
        missing=missing,
        balanced=data is None,  # of somebody's own questions nobody knows
    )
    said = out.with_suffix(".answers.jsonl")
    said.parent.mkdir(parents=True, exist_ok=True)
    said.write_text("".join(json.dumps(asdict(one)) + "\n" for one in answers))
    keep(results, subject, out, "vlm", console)
    wrong = sum(one.said != one.answer for one in answers)
    console.print(f"answers: {said}, {wrong} of {len(answers)} wrong", highlight=False, markup=False)
