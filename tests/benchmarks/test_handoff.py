"""benchmarks/handoff.py: which cells there are, and what its tables say of results that are known."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer

from interlace.backbone import Backbone, BackboneConfig, load, save
from interlace.data_recipes import SampleWriter
from interlace.eval.result import Facts, Result, Scores, result, write
from interlace.eval.subjects import initialised
from interlace.launchers import cli
from interlace.launchers.full_jobs import Command, Desk, Failure, Job

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "tasks"))
sys.path.append(str(ROOT / "benchmarks"))  # behind all others: `streaming` there is no package that Interlace needs

import handoff  # noqa: E402
import handoff_tables  # noqa: E402
from handoff import Chosen, cells_of, estimate, probe_cells, trained_cells, try_recipes, write_initial  # noqa: E402
from handoff_tables import Cell, write_tables  # noqa: E402
from language import write_tokenizer  # noqa: E402
from tiny_vla import sample  # noqa: E402

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
    played = {(cell.kind, cell.seed): cell.job.commands[-1].words for cell in trained_cells(chosen, "vla")}
    assert {words[3:7] for words in played.values()} == {("--episodes", "12", "--chains", "3")}
    assert [kind for (kind, seed), words in played.items() if "--alone" not in words and seed == 1] == ["vla"]
    assert not any("--alone" in cell.job.commands[-1].words for cell in trained_cells(chosen, "vlm"))


@pytest.mark.parametrize(("part", "training"), [("vlm", 0), ("vla", 0), ("vla", 1)])
def test_controls_differ_in_what_they_say_and_in_nothing_else(chosen: Chosen, part: str, training: int) -> None:
    cells = trained_cells(chosen, part)
    words = {(cell.kind, cell.seed): set(cell.job.commands[training].words) for cell in cells}
    runs = {"start_from"} if training else set()
    for seed in chosen.seeds:
        mine, blind, initial = (words[f"{part}{role}", seed] for role in ("", "_blind", "_initial"))
        assert f"seed={seed}" in mine
        assert f"engine.steps={2 if part == 'vlm' else 3}" in mine
        said = {word for word in blind - mine if "=" in word and not word.startswith("start_from=")}
        assert said == {f"tasks.{part}.options.blind=true"}
        assert {word.partition("=")[0] for word in mine ^ initial if "=" in word} == {"backbone.init"} | runs
        assert f"backbone.init={chosen.run / 'backbone'}" in mine & blind
        assert f"backbone.init={chosen.initial}" in initial


def test_a_policy_starts_from_its_own_glances(chosen: Chosen) -> None:
    for cell in trained_cells(chosen, "vla"):
        glances, episodes, _ = cell.job.commands
        assert [glances.words[1], episodes.words[1]] == ["vla_demo_glances", "vla_demo"]
        assert f"start_from={glances.makes.parent}" in episodes.words
        assert glances.makes.parent.name == f"{cell.job.name}_glances"


def test_the_initial_weights_are_those_of_the_runs_seed(chosen: Chosen) -> None:
    write_initial(chosen)
    mine, theirs = load(chosen.initial).state_dict(), initialised(SMALL, 7).backbone.state_dict()
    assert all(mine[name].equal(value) for name, value in theirs.items())
    assert (
        not load(chosen.initial)
        .state_dict()["embedding.cls_token"]
        .equal(Backbone(SMALL).state_dict()["embedding.cls_token"])
    )
    assert [file.name for file in chosen.out.iterdir()] == ["initial"], "whole or not at all"
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


def test_the_longest_come_first_and_the_others_fill_the_other_core(chosen: Chosen) -> None:
    for part in handoff.PARTS:
        minutes = [cell.job.minutes for cell in cells_of(chosen, part)]
        assert minutes == sorted(minutes, reverse=True)
        assert len(set(minutes)) > 1
    assert [cell.seed for cell in cells_of(chosen, "vla")[:3]] == [0, 1, 2]


# ---- what would fail late fails first


@pytest.fixture
def begun(chosen: Chosen, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that the script begins; nothing is run, and preparing the table fails."""
    names: list[str] = []

    def pretend(jobs: list[Job], desk: Desk, *, at_once: int) -> list[Failure]:
        names.extend(job.name for job in jobs)
        return [Failure(job.name, job.commands[0], 2, "no", desk.log(job)) for job in jobs if "table" in job.name]

    monkeypatch.setattr(handoff, "run_jobs", pretend)
    monkeypatch.setattr(handoff, "machine", lambda: "today, here")
    monkeypatch.setenv("INTERLACE_DATA", str(chosen.out / "input"))
    return names


def call(chosen: Chosen, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    """The script, for two seeds."""
    words = ["handoff.py", str(chosen.run), "--out", str(chosen.out), "--seeds", "0", "1", *more]
    monkeypatch.setattr(sys, "argv", words)
    handoff.main()


def test_input_that_cannot_be_made_is_told_before_anything_is_trained(
    chosen: Chosen, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="prepare_table: `interlace prepare table` ended with status 2: no"):
        call(chosen, monkeypatch, "--only", "vlm", "vla")
    assert begun == ["prepare_questions", "prepare_table"]
    for there in ("questions/questions_held_out", "table/table_glances"):
        (chosen.out / "input" / there).mkdir(parents=True)
    monkeypatch.setattr(handoff, "try_recipes", lambda cells: None)
    begun.clear()
    call(chosen, monkeypatch, "--only", "vlm")
    assert len(begun) == 6, "what is there is not prepared again"
    assert all(name.startswith("vlm") for name in begun)


def test_a_recipe_that_cannot_be_trained_is_told_before_anything_is_trained(
    chosen: Chosen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_tokenizer(tmp_path).rename(tmp_path / "tokenizer.model")
    for name in ("table_train", "table_glances", "table_held_out"):
        with SampleWriter(
            tmp_path / "table" / name, name=name, fields=("frames", "episode"), split=name, licence="CC0-1.0", fps=10.0
        ) as to:
            to.write(sample(1))
    (tmp_path / "tokenizer.model").rename(tmp_path / "table" / "tokenizer.model")
    monkeypatch.setenv("INTERLACE_DATA", str(tmp_path))
    small = ("hidden_size=32", "depth=2", "heads=2", "mlp_size=32")
    fits = replace(chosen, vla=tuple(f"backbone.{each}" for each in small))
    write_initial(fits)
    try_recipes(cells_of(fits, "vla"))
    with pytest.raises(ValueError, match=r"engine\.steqs"):
        try_recipes(cells_of(replace(fits, vla=(*fits.vla, "engine.steqs=3")), "vla"))
    with pytest.raises(ValueError, match="hidden_size"):
        try_recipes(cells_of(replace(chosen, vla=()), "vla"))


def test_cells_of_another_backbone_are_refused(
    chosen: Chosen, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handoff, "ready", lambda wanted, desk: None)
    monkeypatch.setattr(handoff, "try_recipes", lambda cells: None)
    call(chosen, monkeypatch, "--only", "probes")
    begun.clear()
    save(initialised(SMALL, 8).backbone, chosen.run / "backbone")
    with pytest.raises(SystemExit, match="was made with another backbone"):
        call(chosen, monkeypatch, "--only", "probes")
    assert not begun


def test_a_call_for_one_part_and_seed_keeps_the_tables_of_the_others(
    chosen: Chosen, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handoff, "ready", lambda wanted, desk: None)
    monkeypatch.setattr(handoff, "try_recipes", lambda cells: None)
    values, desk = np.random.default_rng(0).random(20), Desk(chosen.out)
    changed = replace(chosen, seeds=(0, 1), vlm=(), vla=(), episodes=96, chains=0, rooms=120)
    for each in trained_cells(changed, "vlm"):
        write([scored(each.job.name, values, seed=each.seed)], each.results)
        for command in each.job.commands:
            command.makes.parent.mkdir(parents=True, exist_ok=True)
            command.makes.touch()
            desk.note(each.job, command, 60.0)
    call(chosen, monkeypatch, "--only", "probes", "--seeds", "1")
    content = json.loads((chosen.out / "handoff.json").read_text())
    assert list(content["tables"]) == ["vlm"]
    assert [len(each) for each in content["tables"]["vlm"][0]["values"].values()] == [2, 2, 2]
    assert list(content["tables"]["vlm"][0]["values"]) == ["backbone", "initial weights", "no images"]
    assert content["where"] == "today, here, 2 at once"
    assert all(name.startswith(("probes", "propagation")) for name in begun)


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
    # Seeds are resampled too: in a quarter of the draws both are the one that gained nothing.
    assert (gain["low"], gain["high"]) == pytest.approx((0.0, 0.3), abs=0.03)
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


def test_a_gain_on_a_single_scene_has_no_bounds_in_the_file(tmp_path: Path) -> None:
    cells = [cell(tmp_path, kind, 0, [scored(f"{kind}_0", np.ones(1))]) for kind in ("vlm", "vlm_blind")]
    write_tables("mine", "today, here", tmp_path, cells, Desk(tmp_path))
    assert "Infinity" not in (tmp_path / "handoff.json").read_text()
    (row,) = json.loads((tmp_path / "handoff.json").read_text())["tables"]["vlm"]
    assert (row["gains"]["no images"]["low"], row["gains"]["no images"]["high"]) == (None, None)
