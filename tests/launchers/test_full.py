"""``interlace demo --full``: what is run, what is left, what a failure says. The whole path is in test_full_path.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from rich.console import Console

from interlace.launchers import cli, full
from interlace.launchers.full import MINUTES, Plan, Stage, run_full, stages
from interlace.launchers.full_jobs import Command, Desk, Failure, Job, last_line, run_jobs, share

HELP = ("check", "--help")  # a command that ends well at once


@pytest.fixture(autouse=True)
def no_stage_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """What should have been refused fails at once, rather than pretrain."""
    monkeypatch.setattr(full, "run_jobs", lambda jobs, desk, *, at_once: pytest.fail(f"began {jobs[0].name}"))


def desk(folder: Path) -> tuple[Desk, list[str]]:
    said: list[str] = []
    return Desk(folder, said.append), said


def test_commands_run_in_turn_and_are_recorded(tmp_path: Path) -> None:
    mine, said = desk(tmp_path)
    there = tmp_path / "there"
    there.touch()
    good = Job("good", (Command(HELP, there), Command(("report", "--help"), there)))
    bad = Job("bad", (Command(("report", str(tmp_path / "nothing")), there), Command(HELP, there)))
    (failed,) = run_jobs([good, bad], mine, at_once=2)
    assert mine.left(good) == ()
    assert list(mine.record(good)) == ["interlace check --help", "interlace report --help"]
    assert mine.seconds(good) > 0
    assert "Usage" in mine.log(good).read_text()
    assert mine.left(bad) == bad.commands
    assert (failed.job, failed.status) == ("bad", 2)
    assert "holds no" in failed.last
    assert str(failed) in said
    assert run_jobs([good], mine, at_once=1) == []  # nothing is left, so nothing is done


def test_a_command_that_makes_nothing_has_failed(tmp_path: Path) -> None:
    mine, _ = desk(tmp_path)
    (failed,) = run_jobs([Job("idle", (Command(HELP, tmp_path / "never"),))], mine, at_once=1)
    assert (failed.status, failed.last) == (0, f"it ended well and left no {tmp_path / 'never'}")


def test_what_is_done_is_what_was_recorded_and_is_still_there(tmp_path: Path) -> None:
    mine, _ = desk(tmp_path)
    first, second = Command(("one",), tmp_path / "one"), Command(("two",), tmp_path / "two")
    job = Job("job", (first, second))
    for file in (first.makes, second.makes):
        file.touch()
    assert mine.left(job) == (first, second)  # there, but nobody knows whether it is whole
    mine.note(job, first, 1.0)
    assert mine.left(job) == (second,)
    mine.note(job, second, 2.0)
    assert mine.left(job) == ()
    assert mine.seconds(job) == 3.0
    first.makes.unlink()
    assert mine.left(job) == (first, second)  # what came after it was made of it
    found = Command(("three",), tmp_path / "two", found=True)
    assert mine.left(Job("other", (found,))) == ()


def test_what_a_killed_call_left_is_removed_where_the_command_wants_it_gone(tmp_path: Path) -> None:
    mine, _ = desk(tmp_path)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "half").touch()
    (failed,) = run_jobs([Job("export", (Command(HELP, tmp_path / "export", anew=True),))], mine, at_once=1)
    assert not (tmp_path / "export").exists()
    assert failed.status == 0


def test_cores_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [share(jobs) for jobs in (1, 2, 3, 9)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [share(jobs) for jobs in (1, 2, 4)] == [3, 3, 2]


def test_the_last_line_that_says_something(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(log) == "it said nothing"
    log.write_text("first\n  second \n\n")
    assert last_line(log) == "second"


SLEEPING = """
import os, signal, sys, time
from pathlib import Path
from interlace.launchers import cli, full_jobs

def sleep():
    def stop(*_):
        Path(sys.argv[1]).write_text("asked to end")
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    Path(sys.argv[1]).write_text("began")
    time.sleep(60)

if __name__ != "__main__":  # in the processes, which read this file: one that Ctrl-C reaches can say no more
    cli.main = sleep
    signal.signal(signal.SIGINT, lambda *_: os._exit(2))
else:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where this was started in the background
    folder = Path(sys.argv[1])
    jobs = [full_jobs.Job(name, (full_jobs.Command((str(folder / name),), folder / "x"),)) for name in "ab"]
    full_jobs.run_jobs(jobs, full_jobs.Desk(folder), at_once=2)
"""


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C"])
def test_asked_to_end_it_asks_its_processes_and_waits(tmp_path: Path, how: str) -> None:
    """A terminal sends Ctrl-C to all of them; a training saves when it is asked to end, and not on Ctrl-C."""
    script = tmp_path / "sleeping.py"
    script.write_text(SLEEPING)
    command = [sys.executable, str(script), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    files = [tmp_path / name for name in "ab"]
    deadline = time.monotonic() + 120
    while not all(file.exists() and file.read_text() for file in files) and time.monotonic() < deadline:
        time.sleep(0.1)
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    assert process.wait(60) == (143 if how == "SIGTERM" else -signal.SIGINT)
    assert [file.read_text() for file in files] == ["asked to end"] * 2


CRASHING = """
import ctypes, multiprocessing, sys, types
from pathlib import Path
from interlace.launchers import full_jobs

def crash():
    sys.modules["interlace.launchers.cli"] = types.SimpleNamespace(main=lambda: ctypes.string_at(0))
    full_jobs._run(("check",), Path(sys.argv[1]), 1)

if __name__ == "__main__":
    process = multiprocessing.get_context("fork").Process(target=crash)
    process.start()
    process.join()
    print(process.exitcode)
"""


def test_a_crash_in_native_code_says_where(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", CRASHING, str(log)], capture_output=True, text=True, timeout=120)
    assert done.stdout.split()[-1:] == [str(-signal.SIGSEGV)], done.stderr
    assert "in string_at" in log.read_text()


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(file=(tmp_path / "said").open("w"), width=400)


def told(tmp_path: Path) -> str:
    return (tmp_path / "said").read_text()


def test_the_budget_is_kept_and_every_job_has_one(tmp_path: Path) -> None:
    planned = stages(tmp_path / "run", 0, Plan())
    assert sum(stage.budget for stage in planned) <= 90
    assert {job.name for stage in planned for job in stage.jobs} == set(MINUTES)
    assert [stage.name for stage in planned] == ["prepare", "pretrain", "export", "probes", "stream", "vla, vlm"]
    side_by_side = Stage("x", "", (Job("a", (), 30.0), Job("b", (), 12.0)), at_once=2)
    assert side_by_side.budget == 30.0
    assert Stage("x", "", side_by_side.jobs).budget == 42.0


def test_every_command_is_one_that_can_be_typed(tmp_path: Path) -> None:
    """Words are parsed by the very command line; nothing is run."""
    group = typer.main.get_command(cli.app)
    for stage in stages(tmp_path / "run", 3, Plan()):
        for command in (command for job in stage.jobs for command in job.commands):
            found, words = group, list(command.words)
            while hasattr(found, "commands"):
                found = found.commands[words.pop(0)]
            found.make_context(str(command), words)


def test_seeds_and_backbones_go_where_they_should(tmp_path: Path) -> None:
    planned = [job for stage in stages(tmp_path, 3, Plan()) for job in stage.jobs]
    words = {job.name: str(job.commands[0]) for job in planned}
    for name in ("pretrain", "vlm", "vlm_blind", "vla", "vla_blind"):
        assert " seed=3 " in words[name]
    for name in ("vlm", "vlm_blind", "vla", "vla_blind"):
        assert f" backbone.init={tmp_path / 'backbone'} " in words[name]
    assert {name for name in words if "blind" in words[name].replace(str(tmp_path), "")} == {"vlm_blind", "vla_blind"}
    assert "pretrain vlm_demo_blind " in words["vlm_blind"]
    for name in ("vla", "vla_blind"):
        glances, episodes, _ = next(job.commands for job in planned if job.name == name)
        assert ("vla_demo_glances" in glances.words, "vla_demo" in episodes.words) == (True, True)
        assert f"start_from={glances.makes.parent}" in episodes.words
        assert ("tasks.vla.options.blind=true" in glances.words) == (name == "vla_blind")
        assert ("tasks.vla.options.blind=true" in episodes.words) == (name == "vla_blind")
    played = {job.name: job.commands[-1].words for job in planned}
    assert [("--alone" in played[name]) for name in ("vla", "vla_blind")] == [False, True]


def test_what_can_be_no_run_is_refused_before_anything_is_done(tmp_path: Path, console: Console) -> None:
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(ValueError, match=r"clip\.mp4: a file; --run names a folder"):
        run_full(tmp_path / "clip.mp4", 0, Plan(), console)
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "beach.jpg").touch()
    with pytest.raises(ValueError, match=r"album holds beach\.jpg, which no run begins with"):
        run_full(tmp_path / "album", 0, Plan(), console)
    assert [path.name for path in (tmp_path / "album").iterdir()] == ["beach.jpg"]
    (tmp_path / "vlm" / "heads").mkdir(parents=True)
    with pytest.raises(ValueError, match="vlm: a run that trained no backbone of its own"):
        run_full(tmp_path / "vlm", 0, Plan(), console)
    assert told(tmp_path) == ""


def test_another_seed_is_refused(tmp_path: Path, console: Console) -> None:
    (tmp_path / "recipe.yaml").write_text("seed: 1\ntasks: {}\nbackbone: {}\n")
    with pytest.raises(ValueError, match="holds a run of seed 1: give --seed 1, or another --run"):
        run_full(tmp_path, 0, Plan(), console)


def run_with(tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch, console: Console) -> list[str]:
    """The jobs that :func:`run_full` began where ``failing`` does not end well; nothing is run."""
    begun: list[str] = []

    def pretend(jobs: list[Job], desk: Desk, *, at_once: int) -> list[Failure]:
        begun.extend(job.name for job in jobs)
        return [Failure(job.name, job.commands[0], 2, "no", desk.log(job)) for job in jobs if job.name == failing]

    monkeypatch.setattr(full, "run_jobs", pretend)
    monkeypatch.setattr(full, "hold", lambda home, run: None)
    with pytest.raises(ValueError, match=f"(?s){failing}: `interlace .*` ended with status 2: no .*mend that and give"):
        run_full(tmp_path / "run", 0, Plan(), console)
    return begun


def test_a_failure_stops_what_needs_it_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    assert run_with(tmp_path, "pretrain", monkeypatch, console)[-1] == "pretrain"
    begun = run_with(tmp_path, "prepare_table", monkeypatch, console)
    assert "vla" not in begun
    assert {"vlm", "stream", "probes"} <= set(begun)
    assert "stream" not in run_with(tmp_path, "export", monkeypatch, console)
    console.file.flush()
    assert "vla: left out, as prepare_table failed" in told(tmp_path)
    assert "vla, vlm: at most " in told(tmp_path)


def test_stages_of_another_backbone_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "backbone" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    home = tmp_path / "somewhere" / "handoff"
    full.hold(home, tmp_path)
    full.hold(home, tmp_path)
    assert json.loads((home / "backbone.json").read_text())["sha256"]
    weights.write_bytes(b"two")
    with pytest.raises(ValueError, match=r"was made with another backbone than .* is now: remove"):
        full.hold(home, tmp_path)


def test_long_and_full_do_not_go_together(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["interlace", "demo", "--full", "--long"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "run `interlace demo --long` first" in capsys.readouterr().err


def test_full_is_the_whole_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[object] = []
    monkeypatch.setattr(full, "run_full", lambda *arguments: asked.extend(arguments))
    monkeypatch.setattr(sys, "argv", ["interlace", "demo", "--full", "--run", str(tmp_path), "--seed", "2"])
    with pytest.raises(SystemExit):
        cli.main()
    assert asked[:3] == [tmp_path, 2, Plan()]
