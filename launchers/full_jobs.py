"""Commands of ``interlace`` run for the user: each in a process of its own, some side by side, recorded when done."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

#: Seconds between lines about what is under way, and that a process gets to save itself when it is asked to end.
EVERY, TO_END = 30.0, 60.0
#: Exit status of a process that SIGTERM ended, as shells have it.
TERMINATED = 128 + signal.SIGTERM


@dataclass(frozen=True)
class Command:
    """``words``: what one would type after ``interlace``. ``makes``: what is there when it has ended.

    ``found``: ``makes`` counts as done whoever made it. ``anew``: the command refuses to write where ``makes`` is, so
    that what a killed call left is removed first.
    """

    words: tuple[str, ...]
    makes: Path
    found: bool = False
    anew: bool = False

    def __str__(self) -> str:
        return " ".join(("interlace", *self.words))


@dataclass(frozen=True)
class Job:
    """Commands one after another. ``name``: of its record and its log. ``minutes``: what it may take.

    ``needs``: the jobs without which there is nothing to be done.
    """

    name: str
    commands: tuple[Command, ...]
    minutes: float = 0.0
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A command that did not end well. ``last``: the last line that it said."""

    job: str
    command: Command
    status: int
    last: str
    log: Path

    def __str__(self) -> str:
        return f"{self.job}: `{self.command}` ended with status {self.status}: {self.last} (all it said: {self.log})"


@dataclass
class Desk:
    """Where jobs are recorded (``records/``) and what they say is kept (``logs/``)."""

    folder: Path
    say: Callable[[str], None] = field(default=print)

    def log(self, job: Job) -> Path:
        return self.folder / "logs" / f"{job.name}.log"

    def record(self, job: Job) -> dict[str, Any]:
        """Command, as text -> its seconds and when it ended."""
        file = self._record(job.name)
        return json.loads(file.read_text()) if file.exists() else {}

    def seconds(self, job: Job) -> float:
        """What the recorded commands of a job took, one after another, and calls that were killed did not count."""
        return sum(row["seconds"] for row in self.record(job).values())

    def left(self, job: Job) -> tuple[Command, ...]:
        """The commands that are still to be run: the first that is not done, and all after it."""
        known = self.record(job)
        for place, command in enumerate(job.commands):
            if not command.makes.exists() or not (command.found or str(command) in known):
                return job.commands[place:]
        return ()

    def note(self, job: Job, command: Command, seconds: float) -> None:
        """Record a command that has ended well, whole or not at all."""
        file = self._record(job.name)
        rows = {**self.record(job), str(command): {"seconds": seconds, "ended": time.strftime("%Y-%m-%d %H:%M")}}
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.partial")
        partial.write_text(json.dumps(rows, indent=1) + "\n")
        partial.replace(file)

    def _record(self, name: str) -> Path:
        return self.folder / "records" / f"{name}.json"


def run_jobs(jobs: Sequence[Job], desk: Desk, *, at_once: int) -> list[Failure]:
    """Run what is left of ``jobs``, at most ``at_once`` of them side by side, on an even share of the cores each.

    One that fails stops no other; what failed is returned. Processes end with this one: asked to end by Ctrl-C or
    SIGTERM, it asks them to, so that trainings save, and waits for them. Uses ``spawn``: a script calls this under
    ``if __name__ == "__main__":``.
    """
    waiting = deque((job, desk.left(job)) for job in jobs if desk.left(job))
    threads = share(max(1, min(at_once, len(waiting))))
    failures: list[Failure] = []
    running: list[_Running] = []
    with _ends_well(running):
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(_Running(*waiting.popleft(), desk, threads))
            wait([each.process.sentinel for each in running], timeout=1.0)
            for each in list(running):
                if not each.goes_on(failures):
                    running.remove(each)
    return failures


def share(jobs: int) -> int:
    """Threads for each of ``jobs`` side by side: its part of the cores, at most OMP_NUM_THREADS where that is set."""
    cores = max(1, (os.cpu_count() or 1) // jobs)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(asked)) if asked.isdecimal() and int(asked) else cores


class _Running:
    """A job under way: a process for one command after another."""

    def __init__(self, job: Job, left: Sequence[Command], desk: Desk, threads: int) -> None:
        self.job, self._left, self._desk, self._threads = job, deque(left), desk, threads
        self._log = desk.log(job)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._said, self._line = time.monotonic(), ""
        self._begin()

    def _begin(self) -> None:
        command = self._left[0]
        if command.anew and command.makes.exists():
            _remove(command.makes)
        self._desk.say(f"{self.job.name}: {command}")
        context = multiprocessing.get_context("spawn")
        self._began = time.monotonic()
        self.process: BaseProcess = context.Process(target=_run, args=(command.words, self._log, self._threads))
        self.process.start()

    def goes_on(self, failures: list[Failure]) -> bool:
        """Whether there is more to do; when a command ends, it is recorded and the next one begins."""
        if self.process.exitcode is None:
            self._tell()
            return True
        command, status = self._left.popleft(), self.process.exitcode
        if status or not command.makes.exists():
            line = last_line(self._log) if status else f"it ended well and left no {command.makes}"
            failures.append(Failure(self.job.name, command, status, line, self._log))
            self._desk.say(str(failures[-1]))
            return False
        self._desk.note(self.job, command, time.monotonic() - self._began)
        if self._left:
            self._begin()
        return bool(self._left)

    def _tell(self) -> None:
        """Now and then, the last line of its log."""
        if time.monotonic() - self._said >= EVERY:
            self._said, before, self._line = time.monotonic(), self._line, last_line(self._log)
            if self._line != before:
                self._desk.say(f"{self.job.name}: {self._line}")


def last_line(log: Path) -> str:
    """The last line of a file that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.exists() else []
    return next((line for line in reversed(lines) if line), "it said nothing")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def _ends_well(running: Sequence[_Running]) -> Iterator[None]:
    """SIGTERM ends this block as Ctrl-C does; however it ends, no process is left."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    first = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if first else None
    try:
        yield
    finally:
        for each in running:
            each.process.terminate()
        for each in running:
            each.process.join(TO_END)
            if each.process.exitcode is None:
                each.process.kill()
                each.process.join()
        if first:
            signal.signal(signal.SIGTERM, before)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(words: Sequence[str], log: Path, threads: int) -> None:
    """One command, as if it had been typed, in a process of its own; what it says goes to ``log``.

    A terminal sends Ctrl-C to it too. It waits for its parent to ask: a training saves then, and does not on Ctrl-C.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when numpy and torch are imported, which nobody has yet
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with log.open("a") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    faulthandler.enable()  # a crash in a library's native code says where it was called
    for stream in (sys.stdout, sys.stderr):
        getattr(stream, "reconfigure", lambda **_: None)(line_buffering=True)
    sys.argv = ["interlace", *words]
    print("$", *sys.argv)
    from .cli import main

    main()
