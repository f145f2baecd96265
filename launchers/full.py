"""``interlace demo --full``: pretrain, export, probes, stream, VLM and VLA, one after another, and one page about all.

Every stage is the commands that one would type for it (:mod:`.full_jobs`), so that it does what they do. What it makes
lies in ``handoff/`` in the run's folder; the page is ``handoff/report.html``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console

from .full_jobs import Command, Desk, Failure, Job, run_jobs

#: Inside the run's folder: all stages after pretraining.
HOME = "handoff"
#: The folder of a run that has ended: written last, whole or not at all.
ENDED = "heads"
#: Of the backbone that everything in the folder was made with.
OF_BACKBONE = "backbone.json"


@dataclass(frozen=True)
class Plan:
    """How much of everything. ``pretrain``, ``vlm``, ``vla``: changes to recipes ``demo``, ``vlm_demo``, ``vla_demo``.

    ``prepare``: what is prepared first. ``rooms``: that probes learn from. ``frames``: that are streamed.
    ``episodes``: of each policy. ``licence``: of the exported weights, where they do not derive from DINOv3.
    """

    prepare: tuple[str, ...] = ("demo", "questions", "table")
    pretrain: tuple[str, ...] = ()
    rooms: int = 120
    frames: int = 96
    vlm: tuple[str, ...] = ()
    vla: tuple[str, ...] = ()
    episodes: int = 60
    licence: str = "apache-2.0"


#: Minutes that each job may take: preparation and pretraining on 2 cores, the others on one of them, as they run.
MINUTES = {
    "prepare_demo": 3.0,
    "prepare_questions": 4.0,
    "prepare_table": 3.0,
    "pretrain": 15.0,
    "export": 1.0,
    "probes": 3.0,
    "propagation": 1.0,
    "stream": 1.0,
    "vla": 22.0,
    "vlm": 18.0,
    "vla_blind": 7.0,
    "vlm_blind": 5.0,
}


@dataclass(frozen=True)
class Stage:
    """``jobs`` run side by side, at most ``at_once`` of them."""

    name: str
    told: str
    jobs: tuple[Job, ...]
    at_once: int = 1

    def span(self, minutes: Mapping[str, float]) -> float:
        """How long the stage takes where its jobs take ``minutes``."""
        each = [minutes[job.name] for job in self.jobs]
        return max(max(each, default=0.0), sum(each) / self.at_once)

    @property
    def budget(self) -> float:
        """Minutes on 2 cores."""
        return self.span({job.name: job.minutes for job in self.jobs})


def run_full(run: Path, seed: int, plan: Plan, console: Console) -> None:
    """Do all that is not done yet in ``run``, and write the page.

    Goes on where a killed call stopped. What failed stops what needs it and nothing else; all failures are raised at
    the end as a ValueError, once the page is written. Raises ValueError, before anything is done, for a file, a folder
    of other files, a run without a backbone of its own and one with another seed; and for a folder whose stages were
    made with another backbone.
    """
    run = run.resolve()
    _demand_usable(run)
    _same_seed(run, seed)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    desk, planned = Desk(run / HOME, say), stages(run, seed, plan)
    _announce(planned, desk, say)
    failures: dict[str, Failure] = {}
    for stage in planned:
        _do(stage, desk, failures, say)
        if stage.name == "pretrain" and (run / ENDED).is_dir():
            hold(run / HOME, run)
    if (run / ENDED).is_dir():
        from .report_handoff import write_page

        say(f"report: {write_page(run, planned, desk)}")
    if failures:
        told = dict.fromkeys(str(each) for each in failures.values())
        raise ValueError("\n".join((*told, f"mend that and give the same command again: {run} keeps what is done")))


def stages(run: Path, seed: int, plan: Plan) -> list[Stage]:
    """Every stage in its order. ``run`` is absolute, so that what refers to it is found from anywhere."""
    return [
        preparation(plan.prepare),
        Stage("pretrain", "four tasks at once on one backbone", (_pretraining(run, seed, plan),)),
        Stage("export", "a folder for Hugging Face transformers", (_export(run, plan),)),
        Stage("probes", "small heads on the frozen backbone, beside an untrained one", _probes(run, seed, plan), 2),
        Stage("stream", "the exported backbone on a film it never saw", (_stream(run, plan),)),
        # The longest first: the others then fill the other core.
        Stage(
            "vla, vlm",
            "a policy and a language model that see through the backbone, each beside one without images",
            tuple(make(run, seed, plan, blind) for blind in (False, True) for make in (_vla, _vlm)),
            2,
        ),
    ]


def _job(name: str, *commands: Command, needs: tuple[str, ...] = ("pretrain",)) -> Job:
    return Job(name, commands, MINUTES[name], needs)


def preparation(wanted: Sequence[str]) -> Stage:
    """What ``interlace prepare`` makes by these names, such as demo. What is there already is left as it is."""
    from interlace.data_recipes.worlds.demo import demo_folder

    home = demo_folder().parent
    makes = {
        "demo": home / "demo" / "rooms_held_out",
        "questions": home / "questions" / "questions_held_out",
        "table": home / "table" / "table_glances",
    }
    commands = {what: Command(("prepare", what), makes[what]) for what in wanted}
    jobs = tuple(_job(f"prepare_{what}", command, needs=()) for what, command in commands.items())
    return Stage("prepare", "the input of all stages, once for all runs", jobs)


def _pretraining(run: Path, seed: int, plan: Plan) -> Job:
    words = ("pretrain", "demo", f"seed={seed}", *plan.pretrain, "--run", str(run), "--resume")
    return _job(
        "pretrain",
        Command(words, run / ENDED, found=True),
        Command(("report", str(run)), run / "report.html", found=True),
        needs=("prepare_demo",),
    )


def _export(run: Path, plan: Plan) -> Job:
    licence = () if _derives(run) else ("--licence", plan.licence)
    to = run / HOME / "export"
    return _job("export", Command(("export", str(run), "--to", str(to), *licence), to, anew=True))


def _derives(run: Path) -> bool:
    """Whether the weights of a run that there is already keep DINOv3's licence; the demo's own begin at random."""
    if not (run / "recipe.yaml").is_file():
        return False
    from .export import origin_of

    return origin_of(run).dinov3


def _probes(run: Path, seed: int, plan: Plan) -> tuple[Job, ...]:
    results = run / HOME / "results"
    probe, vos = results / "probe.json", results / "vos.json"
    how = ("--rooms", str(plan.rooms), "--seed", str(seed), "--out", str(probe))
    return (
        _job("probes", Command(("eval", "probe", str(run), "--on", "rooms", *how), probe)),
        _job("propagation", Command(("eval", "vos", str(run), "--on", "rooms", "--out", str(vos)), vos)),
    )


def _stream(run: Path, plan: Plan) -> Job:
    from interlace.data_recipes.worlds.real import video_files

    film = next(video.file for video in video_files() if video.held_out)
    save = run / HOME / "stream.mp4"
    words = ("stream", str(run / HOME / "export"), str(film), "--frames", str(plan.frames), "--save", str(save))
    return _job("stream", Command(words, save), needs=("export",))


def _vlm(run: Path, seed: int, plan: Plan, blind: bool) -> Job:
    name = "vlm_blind" if blind else "vlm"
    to = run / HOME / name
    recipe = "vlm_demo_blind" if blind else "vlm_demo"
    return _job(
        name,
        Command(training(recipe, to, run / "backbone", seed, plan.vlm), to / ENDED),
        Command(("eval", "vlm", str(to)), to / "results" / "vlm.json"),
        needs=("pretrain", "prepare_questions"),
    )


def _vla(run: Path, seed: int, plan: Plan, blind: bool) -> Job:
    name = "vla_blind" if blind else "vla"
    to = run / HOME / name
    changes = ("tasks.vla.options.blind=true", *plan.vla) if blind else plan.vla
    # Expert and controls stand beside the policy that sees.
    how = ("--episodes", str(plan.episodes), "--chains", "0", *(("--alone",) if blind else ()))
    return _job(
        name,
        *policy_training(to, run / "backbone", seed, changes),
        Command(("eval", "policy", str(to), *how), to / "results" / "policy.json"),
        needs=("pretrain", "prepare_table"),
    )


def training(recipe: str, to: Path, backbone: Path, seed: int, changes: Sequence[str]) -> tuple[str, ...]:
    """The words that train ``recipe`` on a frozen ``backbone``; it reads its own samples, as others run beside it."""
    first = (f"seed={seed}", f"backbone.init={backbone}", "engine.workers=0")
    return ("pretrain", recipe, *first, *changes, "--run", str(to), "--resume")


def policy_training(to: Path, backbone: Path, seed: int, changes: Sequence[str]) -> tuple[Command, Command]:
    """The two trainings of a policy: at glances, and from there on at episodes."""
    first = to.with_name(f"{to.name}_glances")
    begun = (f"start_from={first}", *changes)
    return (
        Command(training("vla_demo_glances", first, backbone, seed, changes), first / ENDED),
        Command(training("vla_demo", to, backbone, seed, begun), to / ENDED),
    )


def _demand_usable(run: Path) -> None:
    if run.exists() and not run.is_dir():
        raise ValueError(f"{run}: a file; --run names a folder, in which everything is kept")
    if (run / ENDED).is_dir() and not (run / "backbone").is_dir():
        raise ValueError(f"{run}: a run that trained no backbone of its own; give the run that did, or a new folder")
    from interlace.pretrain.run_folder import RunFolder

    RunFolder(run).find(resume=True)  # holds a run, or nothing that is not of one


def _same_seed(run: Path, seed: int) -> None:
    recipe = run / "recipe.yaml"
    if recipe.is_file():
        theirs = yaml.safe_load(recipe.read_text())["seed"]
        if theirs != seed:
            raise ValueError(f"{run} holds a run of seed {theirs}: give --seed {theirs}, or another --run")


def hold(home: Path, run: Path) -> None:
    """All in ``home`` is of one backbone: whoever trains ``run`` again removes what was made with the old one."""
    weights, file = run / "backbone" / "model.safetensors", home / OF_BACKBONE
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    if not file.exists():
        home.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"sha256": sha256}) + "\n")
    elif json.loads(file.read_text())["sha256"] != sha256:
        raise ValueError(f"{home} was made with another backbone than {weights} is now: remove {home}")


def _announce(planned: Sequence[Stage], desk: Desk, say: Callable[[str], None]) -> None:
    left = [stage for stage in planned if any(desk.left(job) for job in stage.jobs)]
    for stage in (stage for stage in planned if stage.jobs):
        state = f"at most {stage.budget:.0f} min" if stage in left else "done"
        say(f"{stage.name:10s} {state:16s} {stage.told}")
    say(f"{'together':10s} at most {sum(stage.budget for stage in left):.0f} min on 2 cores")


def _do(stage: Stage, desk: Desk, failures: dict[str, Failure], say: Callable[[str], None]) -> None:
    """Run what is left of a stage and not in vain; tell its budget before and its time after; add to ``failures``."""
    ready = []
    for job in stage.jobs:
        missing = [name for name in job.needs if name in failures]
        if missing:
            say(f"{job.name}: left out, as {', '.join(missing)} failed")
            failures[job.name] = failures[missing[0]]
        elif desk.left(job):
            ready.append(job)
    if not ready:
        return
    say(f"{stage.name}: at most {stage.budget:.0f} min: {stage.told}")
    found = {each.job: each for each in run_jobs(ready, desk, at_once=stage.at_once)}
    failures |= found
    if not found:
        say(f"{stage.name}: took {took(stage, desk):.1f} min of {stage.budget:.0f}")


def took(stage: Stage, desk: Desk) -> float:
    """Minutes that the recorded commands of a stage took."""
    return stage.span({job.name: desk.seconds(job) / 60 for job in stage.jobs})
