"""The page of ``interlace demo --full``: a section for each stage that ran, and no network needed to read it."""

from __future__ import annotations

import base64
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from interlace.data_recipes.statistics import signed
from interlace.eval.compare import gain
from interlace.eval.result import Result, read
from interlace.eval.subjects import PIXELS
from interlace.pretrain.run_folder import RunFolder
from interlace.pretrain.run_folder import rows as read_rows

from . import charts
from .charts import inline, png
from .full import HOME, Stage, took
from .full_jobs import Desk, last_line
from .pictures import picture_groups
from .report import gains
from .result_pictures import chart
from .tables import arrow

if TYPE_CHECKING:
    from .full_jobs import Job

#: What a cell says of a gain, which is coloured by its first word.
VERDICTS = ("better", "worse", "no different", "unknown", "reference")
#: Wrong answers that are shown, and films of successes and of failures.
SHOWN_ANSWERS, SHOWN_FILMS = 12, 3


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass
class Section:
    """``pictures`` and ``films``: (caption, URL). ``note`` stands above everything, ``small`` below its table."""

    title: str
    note: str
    tables: list[Table] = field(default_factory=list)
    small: str = ""
    pictures: list[tuple[str, str]] = field(default_factory=list)
    films: list[tuple[str, str]] = field(default_factory=list)


def write_page(run: Path, planned: Sequence[Stage], desk: Desk) -> Path:
    """Write ``handoff/report.html`` about the stages of ``run`` that have ended."""
    home = run / HOME
    jobs = {job.name: job for stage in planned for job in stage.jobs}
    ended = {name for name, job in jobs.items() if not desk.left(job)}
    whole = [stage for stage in planned if stage.jobs and ended.issuperset(job.name for job in stage.jobs)]
    made: dict[tuple[str, ...], Callable[[], Section]] = {
        ("pretrain",): lambda: pretraining(run),
        ("export",): lambda: exported(home / "export", desk, jobs["export"]),
        ("probes", "propagation"): lambda: probes(home / "results"),
        ("stream",): lambda: streamed(home / "stream.mp4", desk.log(jobs["stream"])),
        ("vlm", "vlm_blind"): lambda: answers(home / "vlm", home / "vlm_blind"),
        ("vla", "vla_blind"): lambda: policies(home / "vla", home / "vla_blind"),
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report_handoff.html").render(
        name=run.name,
        written=time.strftime("%Y-%m-%d %H:%M"),
        machine=f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        jobs=[(job, job.name in ended, desk.seconds(job) / 60) for job in jobs.values()],
        verdicts=VERDICTS,
        stages=[(stage, took(stage, desk)) for stage in whole],
        commands=[str(command) for job in jobs.values() for command in job.commands if job.name in ended],
        sections=[make() for names, make in made.items() if ended.issuperset(names)],
    )
    target = home / "report.html"
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(page)
    partial.replace(target)
    return target


def pretraining(run: Path) -> Section:
    """Held-out measures of the run, each beside the best blind guess."""
    rows = read_rows(RunFolder(run).evaluations)
    table = Table(
        ("task", "measure", "start", "value", "blind", "gain, 95%", "verdict"),
        [
            (
                row["task"],
                f"{row['measure']} {arrow(row['better'])}",
                *(f"{row[key]:.3f}" for key in ("start", "value", "blind")),
                "[{}, {}]".format(*signed(row["low"], row["high"])),
                row["verdict"],
            )
            for row in gains(rows)
        ],
    )
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    return Section(
        "Pretraining",
        "On rooms that were never trained on, beside the best guess that does not see them. All of it is in the "
        "run's own report.html.",
        [table] if table.rows else [],
        pictures=[("Over the steps; the blind guess is dashed.", inline(charts.held_out(rows, tasks)))] if rows else [],
    )


def exported(folder: Path, desk: Desk, job: Job) -> Section:
    """What is in the exported folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    rows = [(str(path.relative_to(folder)), f"{path.stat().st_size / 2**10:,.0f} KiB") for path in files]
    return Section(
        "Export",
        "AutoModel.from_pretrained(FOLDER, trust_remote_code=True) loads it, without Interlace, under transformers "
        f"4.57 and 5. {last_line(desk.log(job))}",
        [Table(("file", "size"), rows)],
    )


def probes(results: Path) -> Section:
    """Fresh heads on the frozen backbone, on random weights of its shape, and on pixels."""
    found = [each for name in ("probe", "vos") for each in read(results / f"{name}.json")]
    subjects = list(dict.fromkeys(each.facts.subject for each in found))
    mine = subjects[0]
    initial = next(each for each in subjects if each.startswith("untrained"))
    return Section(
        "Probes",
        "The same small heads, with the same budget, learn from the frozen backbone, from random weights of the same "
        "shape, and from raw pixels. Units (rooms, sequences) are resampled in pairs.",
        [compared(found, mine, [initial, PIXELS] if PIXELS in subjects else [initial])],
        pictures=[("Value and 95% interval of all.", inline(png(chart(found)))), *_beside(results, ("probe", "vos"))],
    )


def streamed(film: Path, log: Path) -> Section:
    """The film of features, depth and pose, and how fast they came."""
    lines = [line.strip() for line in log.read_text().splitlines()]
    told = next((line for line in reversed(lines) if "frames in" in line), "")
    return Section(
        "Stream",
        f"The exported backbone and its heads, frame by frame, on a film that no training saw: {told}",
        films=[("Frame, features, depth.", video(film))],
    )


def answers(seeing: Path, blind: Path) -> Section:
    """Exact answers by kind of question, and some that were wrong."""
    found = [each for run in (seeing, blind) for each in read(run / "results" / "vlm.json")]
    said = [json.loads(line) for line in (seeing / "results" / "vlm.answers.jsonl").read_text().splitlines()]
    wrong = [one for one in said if one["said"] != one["answer"]]
    spread = [wrong[place * len(wrong) // SHOWN_ANSWERS] for place in range(min(SHOWN_ANSWERS, len(wrong)))]
    failures = Table(
        ("kind", "question", "true", "said"),
        [(one["kind"], one["prompt"], one["answer"], one["said"]) for one in spread],
    )
    return Section(
        "VLM",
        "Exact answers to questions about rooms that were never trained on, beside a model of the same kind that was "
        "trained without images.",
        [compared(found, seeing.name, [blind.name]), failures],
        small=f"{len(wrong)} of {len(said)} answers are wrong; the second table has some of them.",
        pictures=_drawn(seeing),
    )


def policies(seeing: Path, blind: Path) -> Section:
    """Episodes done by instruction, and films of some."""
    found = [each for run in (seeing, blind) for each in read(run / "results" / "policy.json")]
    found = [each for each in found if each.facts.protocol.endswith("in closed loop")]
    folder = seeing / "results" / "policy.videos"
    films = [path for word in ("done", "failed") for path in sorted(folder.glob(f"{word}_*.mp4"))[:SHOWN_FILMS]]
    return Section(
        "VLA",
        "Share of episodes that were done, in closed loop on layouts that were never trained on, beside a policy "
        "that was trained without images.",
        [compared(found, seeing.name, [blind.name])],
        films=[(path.stem.replace("_", " "), video(path)) for path in films],
    )


def compared(found: Sequence[Result], mine: str, controls: Sequence[str]) -> Table:
    """A row for each measure of ``mine``: its value, that of each control with the gain in pairs, and all others.

    The first of ``controls`` was measured wherever ``mine`` was.
    """
    subjects = dict.fromkeys(each.facts.subject for each in found)
    others = [name for name in subjects if name not in (mine, *controls)]
    cells: dict[tuple[str, str, str], dict[str, Result]] = {}
    for each in found:
        key = (each.facts.protocol, each.facts.data_hash, each.measure)
        # What stands beside both, such as a policy's expert, is the same in both.
        cells.setdefault(key, {}).setdefault(each.facts.subject, each)
    several = len({protocol for protocol, _, _ in cells}) > 1
    rows = [
        _row(protocol.partition(" (")[0] if several else "", by, mine, controls, others)
        for (protocol, _, _), by in cells.items()
        if mine in by and controls[0] in by
    ]
    beside = [title for control in controls for title in (control, "gain, 95%", "verdict")]
    return Table(("", mine, *beside, *others, "n"), rows)


def _row(
    protocol: str, by: Mapping[str, Result], mine: str, controls: Sequence[str], others: Sequence[str]
) -> tuple[str, ...]:
    value = by[mine]
    name = f"{protocol}: {value.measure}" if protocol else value.measure
    cells = [f"{name} {arrow(value.better)}", value.text]
    for control in controls:
        if control in by:
            difference = gain([(value, by[control])])
            cells += [by[control].text, difference.text, difference.verdict]
        else:
            cells += [""] * 3
    return (*cells, *(by[other].text if other in by else "" for other in others), f"{value.n} {value.facts.unit}s")


def _beside(results: Path, stems: Sequence[str]) -> list[tuple[str, str]]:
    """The sample pictures that lie beside results."""
    files = [path for stem in stems for path in sorted(results.glob(f"{stem}-*.png"))]
    return [(path.stem.replace("-", ": ", 1).replace("_", " "), inline(path.read_bytes())) for path in files]


def _drawn(run: Path) -> list[tuple[str, str]]:
    """What a run drew at its end."""
    return [
        (f"{group.kind.title} {pair.caption}".strip(), inline(pair.end.read_bytes()))
        for group in picture_groups(run / "pictures")
        for pair in group.pairs
    ]


def video(path: Path) -> str:
    """An mp4 as a URL that needs no network."""
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
