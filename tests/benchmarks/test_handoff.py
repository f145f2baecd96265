"""benchmarks/handoff.py: which cells there are, and what its tables say of results that are known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from interlace.backbone import Backbone, BackboneConfig, load, save
from interlace.data_recipes.statistics import interval
from interlace.eval.result import Facts, Result, Scores, result, write
from interlace.eval.subjects import initialised
from interlace.launchers import cli
from interlace.launchers.full_jobs import Command, Desk, Job

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))  # behind all others: `streaming` there is no package that Interlace needs

import handoff  # noqa: E402
import handoff_tables  # noqa: E402
from handoff import Chosen, estimate, probe_cells, trained_cells, write_initial  # noqa: E402
from handoff_tables import Cell, write_tables  # noqa: E402

SMALL = BackboneConfig(hidden_size=32, depth=2, heads=2, mlp_size=32, patch_size=8)


@pytest.fixture
def chosen(tmp_path: Path) -> Chosen:
    run = tmp_path / "run"
    save(initialised(SMALL, 7).backbone, run / "backbone")
    (run / "heads").mkdir()
    (run / "recipe.yaml").write_text("seed: 7\nbackbone: {init: null}\nstart_from: null\n")
    return Chosen(run, tmp_path / "out", (0, 1, 2), 4, 12, 3, ("engine.steps=2",), ("engine.steps=3",))


def test_every_cell_is_a_command_that_can_be_typed(chosen: Chosen) -> None:
    cells = [*probe_cells(chosen), *trained_cells(chosen, "vlm"), *trained_cells(chosen, "vla")]
    assert len(cells) == len({cell.job.name for cell in cells}) == 4 + 9 + 9
    assert {cell.kind for cell in cells} == set(handoff.MINUTES)
    for command in (command for cell in cells for command in cell.job.commands):
        found, words = typer.main.get_command(cli.app), list(command.words)
        while hasattr(found, "commands"):
            found = found.commands[words.pop(0)]
        found.make_context(str(command), words)


def test_all_policies_play_the_same_and_who_is_not_trained_once_a_seed(chosen: Chosen) -> None:
    played = {(cell.kind, cell.seed): cell.job.commands[1].words for cell in trained_cells(chosen, "vla")}
    assert {words[3:7] for words in played.values()} == {("--episodes", "12", "--chains", "3")}
    assert [kind for (kind, seed), words in played.items() if "--alone" not in words and seed == 1] == ["vla"]
    assert not any("--alone" in cell.job.commands[1].words for cell in trained_cells(chosen, "vlm"))


@pytest.mark.parametrize("part", ["vlm", "vla"])
def test_controls_differ_in_what_they_say_and_in_nothing_else(chosen: Chosen, part: str) -> None:
    words = {(cell.kind, cell.seed): set(cell.job.commands[0].words) for cell in trained_cells(chosen, part)}
    for seed in chosen.seeds:
        mine, blind, initial = (words[f"{part}{role}", seed] for role in ("", "_blind", "_initial"))
        assert f"seed={seed}" in mine
        assert f"engine.steps={2 if part == 'vlm' else 3}" in mine
        assert {word for word in blind - mine if "run" not in word.split("/")[-1]} >= {
            f"tasks.{part}.options.blind=true"
        }
        assert {word.partition("=")[0] for word in mine ^ initial if "=" in word} == {"backbone.init"}
        assert f"backbone.init={chosen.run / 'backbone'}" in mine & blind
        assert f"backbone.init={chosen.initial}" in initial


def test_the_initial_weights_are_those_of_the_runs_seed(chosen: Chosen) -> None:
    write_initial(chosen)
    mine, theirs = load(chosen.initial).state_dict(), initialised(SMALL, 7).backbone.state_dict()
    assert all(mine[name].equal(value) for name, value in theirs.items())
    assert (
        not load(chosen.initial)
        .state_dict()["embedding.cls_token"]
        .equal(Backbone(SMALL).state_dict()["embedding.cls_token"])
    )
    (chosen.run / "recipe.yaml").write_text("seed: 7\nbackbone: {init: elsewhere}\nstart_from: null\n")
    with pytest.raises(ValueError, match="began from elsewhere: this compares"):
        write_initial(chosen)


def test_the_estimate_counts_what_is_left(chosen: Chosen) -> None:
    cells = trained_cells(chosen, "vlm")
    desk = Desk(chosen.out)
    minutes = sum(cell.job.minutes for cell in cells)
    assert f"together about {minutes / 120:.1f} h, 2 at once" in estimate(cells, desk, 2)
    first = cells[0].job
    for command in first.commands:
        command.makes.parent.mkdir(parents=True, exist_ok=True)
        command.makes.touch()
        desk.note(first, command, 60.0)
    assert estimate(cells, desk, 2).splitlines()[1].split() == ["vlm", "2/3", f"{first.minutes:.0f}"]


def scored(subject: str, values: np.ndarray, measure: str = "count", seed: int = 0) -> Result:
    facts = Facts(
        protocol="vlm/exact match of greedy answers",
        data="rooms",
        unit="scene",
        subject=subject,
        backbone_hash="b" * 64,
        data_hash="d" * 64,
        seed=seed,
    )
    units = [f"scene-{k}" for k in range(len(values))]
    return result(Scores.of(measure, "higher", units, values), facts)


def cell(out: Path, kind: str, seed: int, results: list[Result]) -> Cell:
    part = kind.partition("_")[0]
    file = write(results, out / f"{kind}_{seed}.json")
    return Cell(kind, part, seed, Job(f"{kind}_{seed}", (Command(("check",), file),)), file)


def test_gains_are_paired_within_seeds_and_resampled_over_all(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = rng.random((2, 60))
    above = np.stack([rng.normal(0.3, 0.05, 60), rng.normal(0.0, 0.05, 60)])
    cells = []
    for seed in (0, 1):
        cells.append(cell(tmp_path, "vlm", seed, [scored(f"vlm_{seed}", base[seed] + above[seed])]))
        cells.append(cell(tmp_path, "vlm_blind", seed, [scored(f"vlm_blind_{seed}", base[seed])]))
    table = write_tables("mine", "today, here", tmp_path, cells, Desk(tmp_path)).read_text()
    (row,) = json.loads((tmp_path / "handoff.json").read_text())["tables"]["vlm"]
    assert row["values"]["no images"] == pytest.approx(list(base.mean(1)))
    gain = row["gains"]["no images"]
    assert gain["value"] == pytest.approx(above.mean())
    assert (gain["low"], gain["high"]) == pytest.approx(interval(above.mean(0), [f"scene-{k}" for k in range(60)]))
    assert (gain["seeds above 0"], gain["of"]) == (1, 2)
    assert "1 of 2 seeds" in table
    assert "| count ↑ |" in table
    assert "today, here." in table


def test_a_seed_counts_once_all_of_it_is_there(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(20)
    cells = [cell(tmp_path, "vlm", 0, [scored("vlm_0", values)]), cell(tmp_path, "vlm", 1, [scored("vlm_1", values)])]
    cells.append(cell(tmp_path, "vlm_blind", 1, [scored("vlm_blind_1", values)]))
    write_tables("mine", "today, here", tmp_path, cells, Desk(tmp_path))
    (row,) = json.loads((tmp_path / "handoff.json").read_text())["tables"]["vlm"]
    assert [len(each) for each in row["values"].values()] == [1, 1]
    write_tables("mine", "today, here", tmp_path, cells[2:], Desk(tmp_path))
    assert json.loads((tmp_path / "handoff.json").read_text())["tables"] == {}


def test_who_is_who() -> None:
    job = Job("vla_1", ())
    mine = Cell("vla", "vla", 1, job, Path())
    assert handoff_tables._role(mine, "vla_1") == "backbone"
    assert handoff_tables._role(mine, "scripted expert") == "scripted expert"
    assert handoff_tables._role(mine, "vla_1, told another") == "told another"
    blind = Cell("vla_blind", "vla", 1, Job("vla_blind_1", ()), Path())
    assert handoff_tables._role(blind, "vla_blind_1") == "blank images"
    assert handoff_tables._role(blind, "scripted expert") is None
    probe = Cell("probes", "probes", 0, Job("probes_0", ()), Path())
    assert [handoff_tables._role(probe, name) for name in ("demo", "untrained (seed 0)", "raw pixels")] == [
        "backbone",
        "initial weights",
        "raw pixels",
    ]


def test_the_script_says_what_it_would_cost(chosen: Chosen) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "handoff.py"), str(chosen.run), "--estimate", "--only", "vla"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "vla_initial" in done.stdout
    assert "vlm" not in done.stdout
    assert not chosen.out.exists()
    wrong = subprocess.run([*command[:2], str(chosen.out)], capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "holds no run that has ended" in wrong.stderr
