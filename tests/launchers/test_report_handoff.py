"""The page of ``interlace demo --full``: a section for what ran and for nothing else, values beside their controls."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from interlace.eval.result import Facts, Result, Scores, result, write
from interlace.launchers.full import HOME, Plan, Stage, stages
from interlace.launchers.full_jobs import Desk
from interlace.launchers.report_handoff import compared, write_page
from interlace.pretrain.run_folder import append

UNITS = [f"unit-{k}" for k in range(30)]


def scored(subject: str, value: float, measure: str, protocol: str) -> Result:
    facts = Facts(
        protocol=protocol, data="rooms", unit="room", subject=subject, backbone_hash="b" * 64, data_hash="d" * 64
    )
    values = np.random.default_rng(0).normal(value, 0.1, len(UNITS))
    return result(Scores.of(measure, "higher", UNITS, values), facts)


def pair(names: tuple[str, ...], protocol: str, measure: str = "all") -> list[Result]:
    """The first is better than the second by 0.2; others are as good as the second."""
    return [scored(name, 0.7 if place == 0 else 0.5, measure, protocol) for place, name in enumerate(names)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with the files that its stages leave, but nothing recorded."""
    run = tmp_path / "mine"
    home = run / HOME
    row = {"task": "geometry", "measure": "abs_rel", "better": "lower", "value": 0.25, "blind": 0.31, "n": 9}
    (run / "heads").mkdir(parents=True)
    append(run / "eval.jsonl", [{**row, "step": step, "low": 0.02, "high": 0.09} for step in (0, 5)])
    (run / "report.html").touch()
    (home / "export").mkdir(parents=True)
    (home / "export" / "model.safetensors").write_bytes(b"x" * 2**20)
    write(pair(("mine", "untrained (seed 0)", "raw pixels"), "probe/knn (CLS)", "floor"), home / "results/probe.json")
    write(pair(("mine", "untrained (seed 0)", "raw pixels"), "vos", "J"), home / "results/vos.json")
    (home / "results" / "probe-depth.png").write_bytes(b"a picture")
    (home / "stream.mp4").write_bytes(b"a film")
    for name in ("vlm", "vlm_blind"):
        write([scored(name, 0.4, "count", "vlm/exact")], home / name / "results" / "vlm.json")
        (home / name / "heads").mkdir()
    said = [{"key": "k", "kind": "count", "prompt": "how <many>?", "answer": "two", "said": "three"}]
    (home / "vlm/results/vlm.answers.jsonl").write_text("".join(json.dumps(one) + "\n" for one in said))
    for name in ("vla", "vla_blind"):
        results = pair((name, "scripted expert"), "policy/success in closed loop", "blocks")
        write([*results, scored(name, 0.2, "blocks, above expert", "policy/above its controls")], _policy(home, name))
        for trained in (f"{name}_glances", name):
            (home / trained / "heads").mkdir(parents=True)
    films = home / "vla" / "results" / "policy.videos"
    films.mkdir()
    for film in ("done_lift_red_0.mp4", "failed_left_red_1.mp4"):
        (films / film).write_bytes(b"a film")
    return run


def _policy(home: Path, name: str) -> Path:
    return home / name / "results" / "policy.json"


def recorded(run: Path, names: set[str] | None = None) -> tuple[list[Stage], Desk]:
    """The stages, and a desk that recorded the jobs ``names``, or all."""
    planned, desk = stages(run, 0, Plan(prepare=())), Desk(run / HOME)
    for job in (job for stage in planned for job in stage.jobs):
        desk.log(job).parent.mkdir(exist_ok=True)
        desk.log(job).write_text("12 frames in 0.3 s; a frame took 9 ms\nsaved\n")
        for command in job.commands if names is None or job.name in names else ():
            desk.note(job, command, 90.0)
    return planned, desk


def titles(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_a_section_for_each_stage(run: Path) -> None:
    page = write_page(run, *recorded(run)).read_text()
    assert titles(page) == ["Pretraining", "Export", "Probes", "Stream", "VLM", "VLA", "The commands"]
    assert "did not end" not in page
    assert "a frame took 9 ms" in page
    assert "how &lt;many&gt;?" in page
    assert page.count("data:video/mp4;base64,") == 3
    assert "probe: depth" in page
    assert "random weights of the same shape" in page
    assert "began as" not in page  # a run may begin with a published backbone
    assert "interlace pretrain vlm_demo_blind " in page
    assert "above expert" not in page  # what a policy gains on its own controls is in its own results
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_only_what_ran_has_a_section(run: Path) -> None:
    page = write_page(run, *recorded(run, {"export", "vlm", "vlm_blind", "vla"})).read_text()
    assert titles(page) == ["Pretraining", "Export", "VLM", "The commands"]
    assert page.count("did not end") == 4  # probes, propagation, stream, vla_blind
    assert "eval probe" not in page


def test_values_stand_beside_their_control_with_the_interval_of_the_gain() -> None:
    found = [*pair(("vla", "vla_blind", "scripted expert"), "policy/success"), scored("vla", 0.1, "alone", "other")]
    table = compared(found, "vla", ["vla_blind"])
    assert table.columns == ("", "vla", "vla_blind", "gain, 95%", "verdict", "scripted expert", "n")
    (row,) = table.rows
    assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", row[1])
    assert row[3:5] == ("+0.200 (all alike)", "better")
    assert row[6] == "30 rooms"
    assert compared(found, "vla_blind", ["vla"]).rows[0][4] == "worse"


def test_a_second_control_has_a_verdict_of_its_own(run: Path) -> None:
    found = [
        *pair(("mine", "untrained", "raw pixels"), "probe"),
        *(
            scored(name, value, "pose", "probe")
            for name, value in (("mine", 0.6), ("untrained", 0.5), ("raw pixels", 0.9))
        ),
        *pair(("mine", "untrained"), "probe", "depth"),
    ]
    table = compared(found, "mine", ["untrained", "raw pixels"])
    assert table.columns[2:8] == ("untrained", "gain, 95%", "verdict", "raw pixels", "gain, 95%", "verdict")
    assert [(row[4], row[7]) for row in table.rows] == [("better", "better"), ("better", "worse"), ("better", "")]
    page = write_page(run, *recorded(run)).read_text()
    assert (
        page.count('<td class="better">better</td>') == 5
    )  # a held-out measure, and two probes beside two controls each
