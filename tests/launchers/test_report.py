"""The report of a run: whole, self-contained, and true to the run's files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from markupsafe import escape
from matplotlib.figure import Figure
from PIL import Image
from toy_recipe import interlace

from interlace.data_recipes import Sample, SampleWriter
from interlace.data_recipes.errors import RecipeErrors
from interlace.eval.result import Facts, Scores, result, write
from interlace.launchers import charts
from interlace.launchers.pictures import KINDS, MOST, doubt, picture_groups
from interlace.launchers.report import durations, evaluations, first_frames, gains, report
from interlace.pretrain.run_folder import rows

SECTIONS = [
    "Held-out measures",
    "Losses",
    "One step",
    "What it was trained on, and measured on",
    "What the model does, before and after",
    "As a stream",
    "The recipe",
]


@pytest.fixture(scope="module")
def page(toy_run: tuple[Path, str]) -> str:
    return report(toy_run[0]).read_text()


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_every_section_is_there(page: str) -> None:
    assert headings(page) == SECTIONS
    shown = re.findall(r"<h3>(.*?)</h3>", page)
    assert {"Depth", "Camera path from above", "Features over a clip", "Nearest neighbours"} <= set(shown)


def test_what_is_no_run_or_of_another_version_is_told(toy_run: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copy(toy_run[0] / "recipe.yaml", tmp_path)
    with pytest.raises(ValueError, match=r"has taken no step yet: it has no metrics\.jsonl; go on with --resume"):
        report(tmp_path)
    for name in ("metrics.jsonl", "eval.jsonl"):
        shutil.copy(toy_run[0] / name, tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("engine:\n", "engine:\n  elders: 1\n", 1))
    with pytest.raises(RecipeErrors, match=r"recipe\.yaml:\d+: engine\.elders: found an unknown key") as errors:
        report(tmp_path)
    assert "another version of Interlace" in errors.value.__notes__[0]


def test_films_without_truth_are_drawn_and_not_measured(page: str, toy_run: tuple[Path, str]) -> None:
    drawn = {path.name for path in (toy_run[0] / "pictures").glob("end_geometry_*_depth.png")}
    assert drawn == {
        f"end_geometry_{name}_depth.png"
        for name in ("held_out_clip-100_path-0", "film_clip-200", "held_out_clip-101_path-0", "film_clip-201")
    }
    assert "film clip-200" in page
    rows = [json.loads(line) for line in (toy_run[0] / "eval.jsonl").read_text().splitlines()]
    assert {row["n"] for row in rows if row["measure"] == "abs_rel"} == {6}


def test_films_are_drawn_where_nothing_is_measured(toy: Path, tmp_path: Path) -> None:
    changes = [f"tasks.{task}=null" for task in ("ssl", "captioning", "clusters")]
    changes += ["tasks.geometry.held_out=[]", "engine.steps=1"]
    done = interlace("pretrain", "toy.yaml", "--run", tmp_path / "run", *changes, cwd=toy)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "run" / "pictures").glob("end_*_depth.png")} == {
        f"end_geometry_film_clip-{number}_depth.png" for number in (200, 201)
    }
    assert "names no held-out sources" in report(tmp_path / "run").read_text()


def test_nothing_comes_from_elsewhere(page: str) -> None:
    sources = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"'\s>]+)", page)
    assert len(sources) > 10
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "<script" not in page


def test_pages_of_evaluations_are_linked(tmp_path: Path) -> None:
    facts = Facts(
        protocol="probe/depth (256 bins)",
        data="built-in rooms",
        unit="room",
        subject="run",
        backbone_hash="-",
        data_hash="-",
    )
    for name in ("probe-rooms", "moved"):
        write(
            [result(Scores.of("abs_rel", "lower", ["a", "b"], [0.1, 0.2]), facts)],
            tmp_path / "results" / f"{name}.json",
        )
    for name in ("probe-rooms", "not-mine"):
        (tmp_path / "results" / f"{name}.html").write_text("<html></html>")
    assert evaluations(tmp_path) == [("results/probe-rooms.html", "probe/depth on built-in rooms")]
    assert evaluations(tmp_path / "nowhere") == []


def test_a_report_links_what_was_measured_later(toy_run: tuple[Path, str], tmp_path: Path) -> None:
    run = shutil.copytree(toy_run[0], tmp_path / "run")
    facts = Facts(protocol="p/q", data="d & e", unit="u", subject="s", backbone_hash="-", data_hash="-")
    write([result(Scores.of("m", "lower", ["a", "b"], [0.1, 0.2]), facts)], run / "results" / "one two.json")
    (run / "results" / "one two.html").write_text("<html></html>")
    page = report(run).read_text()
    assert headings(page) == [*SECTIONS[:-1], "Evaluations", SECTIONS[-1]]
    assert '<a href="results/one%20two.html">results/one two.html</a>: p/q on d &amp; e' in page


def test_measures_and_their_blind_line(page: str, toy_run: tuple[Path, str]) -> None:
    rows = [json.loads(line) for line in (toy_run[0] / "eval.jsonl").read_text().splitlines()]
    last = max(row["step"] for row in rows)
    assert last == 3
    for row in (row for row in rows if row["step"] == last and row["value"] is not None):
        assert f"{row['measure']} {'↓' if row['better'] == 'lower' else '↑'}" in page
        assert f"<td>{row['value']:.3f}</td><td>{row['blind']:.3f}</td>" in page


def test_a_run_whose_data_are_gone_says_so(toy_run: tuple[Path, str], tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(toy_run[0], moved, ignore=shutil.ignore_patterns("checkpoints", "pictures"))
    recipe = moved / "recipe.yaml"
    recipe.write_text(re.sub(r"path: .*/data/", "path: /gone/", recipe.read_text()))
    page = report(moved).read_text()
    assert "are not on the machine that wrote this page" in page
    assert headings(page) == [name for name in SECTIONS if name not in (SECTIONS[4], SECTIONS[5])]


def test_datasets_whose_folders_have_one_name_are_all_shown(tmp_path: Path) -> None:
    paths = [tmp_path / place / "train" for place in ("indoors", "outdoors")]
    for path in paths:
        with SampleWriter(path, name="mine", fields=("frames",), split="train", licence="none") as writer:
            writer.write(Sample(key="a", source="", frames=np.zeros((1, 8, 8, 3), np.uint8), times=np.zeros(1)))
    sources = [SimpleNamespace(name="mine", format="mds", path=str(path)) for path in paths]
    task = SimpleNamespace(sources=sources, held_out=sources[:1], pictured=[])
    recipe: Any = SimpleNamespace(tasks={"ssl": task})
    assert list(first_frames(recipe)) == ["train", str(paths[1])]


def test_broken_samples_are_told(page: str, toy_run: tuple[Path, str], tmp_path: Path) -> None:
    lossy = tmp_path / "lossy"
    shutil.copytree(toy_run[0], lossy, ignore=shutil.ignore_patterns("checkpoints", "pictures", "backbone"))
    rows = [json.loads(line) for line in (lossy / "eval.jsonl").read_text().splitlines()]
    (lossy / "eval.jsonl").write_text("".join(json.dumps({**row, "of": row["n"] + 1}) + "\n" for row in rows))
    (lossy / "broken.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    told = report(lossy).read_text()
    assert "Broken samples were met 2 times" in told
    assert "<td>6 of 7</td>" in told
    assert "Broken samples" not in page
    assert "<td>6</td>" in page


def test_a_run_without_held_out_sources_has_a_report(toy_run: tuple[Path, str], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(toy_run[0], bare, ignore=shutil.ignore_patterns("checkpoints", "pictures"))
    (bare / "eval.jsonl").write_text("")
    assert "names no held-out sources" in report(bare).read_text()


def row(step: int, value: float | None, low: float = 0.0, high: float = 0.0, measure: str = "m") -> dict[str, Any]:
    facts = {"step": step, "task": "t", "measure": measure, "value": value, "blind": 1.0}
    return {**facts, "low": low, "high": high, "better": "lower", "n": 4}


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.2, "no different")]
)
def test_a_gain_counts_when_its_interval_leaves_out_zero(low: float, high: float, verdict: str) -> None:
    (found,) = gains([row(0, 3.0), row(5, 2.0), row(9, 0.5, low, high)])
    assert (found["start"], found["value"], found["verdict"]) == (3.0, 0.5, verdict)


def test_every_measure_of_a_run_is_explained(toy_run: tuple[Path, str], page: str) -> None:
    table = gains(rows(toy_run[0] / "eval.jsonl"))
    assert {found["task"] for found in table} == {"ssl", "geometry", "captioning", "clusters"}
    for found in table:
        assert found["meaning"]
        assert f"<small>{escape(found['meaning'])}</small>" in page


@pytest.mark.parametrize(
    ("task", "measure"), [("vlm", "accuracy_count"), ("vla", "arm_error"), ("vla", "gripper_accuracy")]
)
def test_measures_of_other_runs_are_explained(task: str, measure: str) -> None:
    (found,) = gains([{**row(9, 0.5, measure=measure), "task": task}])
    assert found["meaning"]


def test_what_no_training_moves_is_neither_better_nor_worse() -> None:
    rows = [{**row(9, 0.5, 0.1, 0.2, measure), "task": "ssl"} for measure in ("knn", "knn_pixels")]
    assert [found["verdict"] for found in gains(rows)] == ["better", "reference"]


def test_a_gain_without_bounds_is_unknown() -> None:
    (found,) = gains([{**row(9, 0.5), "low": None, "high": None}])
    assert (found["low"], found["high"], found["verdict"]) == (-np.inf, np.inf, "unknown")


def test_pictures_say_which_measure_is_no_better_than_blind() -> None:
    captions = next(kind for kind in KINDS if kind.pattern == "captioning")
    measured = {"token_ce": (0.1, 0.2), "ocr_match": (-0.1, 0.1), "box_iou": (-0.2, -0.1)}
    rows = [{**row(9, 0.5, *bounds, measure), "task": "captioning"} for measure, bounds in measured.items()]
    told = doubt(captions, gains([*rows, {**row(9, 0.5), "task": "geometry"}]))
    assert told.startswith("No better than blind here: ocr_match 0.500 (blind 1.000), box_iou 0.500 (blind 1.000). ")
    assert doubt(captions, gains(rows[:1])) == ""
    assert doubt(captions, []) == ""


def test_the_page_says_what_is_in_doubt(toy_run: tuple[Path, str], page: str) -> None:
    told = {doubt(kind, gains(rows(toy_run[0] / "eval.jsonl"))) for kind in KINDS} - {""}
    assert told
    assert all(f'<p class="doubt">{escape(sentence)}</p>' in page for sentence in told)


def test_a_measure_of_nothing_is_left_out() -> None:
    assert gains([row(0, None), row(9, None)]) == []
    assert [found["measure"] for found in gains([row(0, None), row(0, 1.0, measure="k")])] == ["k"]


def test_curves_leave_out_rows_of_single_steps() -> None:
    steps = (10, 20, 30, 31, 40, 41)
    assert [row["step"] for row in charts.steady([{"step": step} for step in steps])] == [10, 20, 30, 40]
    assert [row["step"] for row in charts.steady([{"step": step} for step in (1, 2, 3)])] == [1, 2, 3]


def test_durations_weigh_intervals_by_their_steps() -> None:
    assert durations([{"step": 1, "seconds_per_step": 5.0}, {"step": 10, "seconds_per_step": 2.0}]) == [5.0, 18.0]


def test_pictures_by_kind(tmp_path: Path) -> None:
    names = [f"geometry_rooms_held_out_room-{number}_path-0_{kind}" for number in range(6) for kind in ("depth",)]
    names += ["geometry_rooms_room-1_path-0_camera", "pca_0", "captioning", "flow_of_a_new_task"]
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / f"end_{name}.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "start_pca_0.png")
    groups = {group.kind.title: group.pairs for group in picture_groups(tmp_path)}
    assert list(groups) == [
        *("Depth", "Camera path from above", "Captions, signs and boxes", "Features over a clip", "flow of a new task")
    ]
    assert [pair.caption for pair in groups["Depth"]] == [
        f"rooms held out room-{number} path-0" for number in range(MOST)
    ]
    assert groups["Depth"][0].start is None
    assert groups["Features over a clip"][0].start == tmp_path / "start_pca_0.png"


def test_no_legend_covers_a_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(charts, "png", drawn.append)
    charts.losses([{"step": step, "loss/a/x": 9.0 - step, "loss/a/confidence": 1.0 + step} for step in (0, 9)], ["a"])
    charts.cosines([{"step": step, "cosine/a~b": 0.1 * step, "cosine/a~c": -0.1} for step in (0, 9)])
    assert len(drawn) == 2
    for figure in drawn:
        figure.draw_without_rendering()
        (axis,) = figure.axes
        legend = axis.get_legend()
        assert legend is not None
        assert not legend.get_window_extent().overlaps(axis.get_window_extent())


def test_charts_are_pictures() -> None:
    metrics = [{"step": 1, "loss/a/x": 1.0, "time_share/a": 0.5, "time_share/data": 0.1, "cosine/a~b": 0.2}]
    rows = [row(0, 1.0), row(5, 0.5)]
    drawn = [
        charts.losses(metrics, ["a"]),
        charts.anatomy(metrics, ["a"]),
        charts.cosines(metrics),
        charts.held_out(rows, ["t"]),
        charts.latency([0.1, 0.2]),
        charts.contact_sheet({"s": [np.zeros((4, 4, 3), np.uint8)], "u": [np.zeros((6, 4, 3), np.uint8)] * 3}),
    ]
    assert all(data.startswith(b"\x89PNG") and len(data) > 1000 for data in drawn)
