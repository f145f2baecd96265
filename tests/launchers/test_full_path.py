"""``interlace demo --full`` from raw input to its page, all of it tiny: that it works, not that anything is learned."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest
from rich.console import Console

from interlace.data_recipes.worlds.demo import DemoSettings, prepare_demo
from interlace.data_recipes.worlds.questions_data import QuestionSettings, prepare_questions
from interlace.data_recipes.worlds.table_episodes import TableSettings, prepare_table
from interlace.eval.result import read
from interlace.launchers.full import HOME, Plan, run_full, stages
from interlace.launchers.full_jobs import Desk

BACKBONE = tuple(f"backbone.{key}" for key in ("hidden_size=32", "depth=4", "heads=2", "mlp_size=64"))
ENGINE = tuple(
    f"engine.{key}"
    for key in ("steps=2", "warmup=1", "log_every=1", "checkpoint_every=1", "evaluate_every=2", "blind_samples=8")
)
LLM = "{layers: 1, hidden_size: 32, heads: 2, mlp_size: 48}"
TOY = Plan(
    prepare=(),
    pretrain=(
        *BACKBONE,
        *ENGINE,
        "engine.workers=0",
        "tasks.ssl.batch=2",
        "tasks.geometry.batch=2",
        "tasks.geometry.options.widths=[16,16,16,16]",
        "tasks.captioning.batch=2",
        f"tasks.captioning.options.decoder={LLM}",
        "tasks.captioning.options.blind={steps: 4, batch: 4, check_every: 2}",
        "tasks.captioning.options.max_generated=2",
        "tasks.clusters.batch=2",
        "tasks.clusters.options.banks={object: {rows: 12, frames: 1}, motion: {rows: 11, frames: 4}}",
        "tasks.clusters.options.positives=4",
    ),
    rooms=4,
    frames=6,
    vlm=(*BACKBONE, *ENGINE, "tasks.vlm.batch=2", f"tasks.vlm.options.llm={LLM}", "tasks.vlm.options.max_generated=2"),
    vla=(*BACKBONE, *ENGINE, "tasks.vla.batch=2", f"tasks.vla.options.llm={LLM}", "tasks.vla.options.size=48"),
    episodes=2,
)


def write_input(root: Path) -> None:
    rooms = DemoSettings(
        size=64,
        frames=4,
        train_rooms=5,
        held_out_rooms=4,
        train_scenes=1,
        picture_size=32,
        photograph_crops=1,
        clip_crops=1,
        object_centres=12,
        motion_centres=11,
    )
    prepare_demo(root / "demo", settings=rooms, workers=2)
    prepare_questions(
        root / "questions", settings=QuestionSettings(train_rooms=16, train_scenes=3, held_out_rooms=12), workers=2
    )
    prepare_table(root / "table", settings=TableSettings(size=48, train=12, glances=12, held_out=12), workers=2)


def whole_path(run: Path) -> None:
    run_full(run, 5, TOY, Console(width=400))


def killed_in_training(run: Path, training: Path) -> None:
    """The whole path in a process that is killed once ``training`` has its first checkpoint; nothing of it is left."""
    process = multiprocessing.get_context("spawn").Process(target=whole_path, args=(run,))
    process.start()
    while not any(training.glob("checkpoints/step_*")):
        assert process.is_alive(), "it ended before"
        time.sleep(0.05)
    process.kill()
    process.join()


@pytest.mark.slow
def test_from_input_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most eight minutes on two quiet cores."""
    monkeypatch.setenv("INTERLACE_DATA", str(tmp_path / "data"))
    write_input(tmp_path / "data")
    run, said = tmp_path / "run", (tmp_path / "said").open("w+")
    home = run / HOME
    killed_in_training(run, home / "vlm")
    before = {name: (home / "records" / name).read_bytes() for name in ("export.json", "probes.json", "stream.json")}
    console = Console(file=said, width=400)
    run_full(run, 5, TOY, console)

    # What had ended was not done again; the training that was killed went on from its checkpoint.
    assert {name: (home / "records" / name).read_bytes() for name in before} == before
    _, _, second = (home / "logs" / "vlm.log").read_text().split("$ interlace pretrain vlm_demo ")
    assert "vlm_demo 1/2" not in second

    desk = Desk(home)
    planned = stages(run, 5, TOY)
    assert not [job.name for stage in planned for job in stage.jobs if desk.left(job)]
    page = (home / "report.html").read_text()
    for title in ("Pretraining", "Export", "Probes", "Stream", "VLM", "VLA"):
        assert f"<h2>{title}</h2>" in page
    assert "did not end" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:video/mp4") >= 2
    for name in ("vlm", "vlm_blind"):
        assert {each.facts.subject for each in read(home / name / "results" / "vlm.json")} == {name}
    blind = [(home / "vla_blind" / "recipe.yaml"), (home / "vlm_blind" / "recipe.yaml")]
    assert all("blind: true" in recipe.read_text() for recipe in blind)

    # The same command again finds everything done: it writes the page and runs nothing.
    logs = {path: path.stat().st_mtime_ns for path in (home / "logs").iterdir()}
    run_full(run, 5, TOY, console)
    assert {path: path.stat().st_mtime_ns for path in (home / "logs").iterdir()} == logs
    said.seek(0)
    announced = [line.split()[:2] for line in said.read().splitlines()[-9:-3]]
    assert ["export", "done"] in announced
