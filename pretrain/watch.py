"""What is written down while a run trains: numbers, held-out measures, pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch.distributed as dist

from interlace.tasks.interface import Task

from .broken import BrokenSamples
from .evaluate import HeldOut, evaluate, pictures
from .log import Interval, Log
from .ranks import Ranks
from .run_folder import RunFolder
from .step import Outcome, Parts


class Watch:
    """Logs a run's steps and measures it on held-out input. Every rank has one; the first writes."""

    def __init__(
        self,
        folder: RunFolder,
        parts: Parts,
        held_out: Mapping[str, HeldOut],
        tasks: Mapping[str, Task],
        samples: Mapping[str, int],
        broken: BrokenSamples,
        ranks: Ranks,
    ) -> None:
        """``samples``: how many a step takes of each task, over all ranks."""
        self._folder, self._parts, self._held_out = folder, parts, held_out
        self._tasks, self._samples, self._broken, self._ranks = tasks, samples, broken, ranks
        self._log: Log | None = None
        self._interval = Interval()

    def begin(self, start: int, *, every: int, last: int) -> None:
        """Training begins at step ``start``: drop what was logged past it, and measure if that was not done there.

        Measures are due every ``every`` steps and at the ``last``.
        """
        measured = [False]
        if self._ranks.first:
            self._log = Log(self._folder, start)
            measured = [self._folder.evaluated(start)]
        dist.broadcast_object_list(measured)
        if start == 0:
            self.measure(0, draw="start")
        elif (start % every == 0 or start == last) and not measured[0]:  # the run was cut between saving and measuring
            self.measure(start, draw="end" if start == last else None)
        self._interval = Interval()

    def step(self, done: int, outcome: Outcome, waited: float, *, rate: float, log: bool) -> None:
        """The ``done``-th step was taken, after ``waited`` seconds without data; write a row if ``log``. Collective."""
        self._interval.add(outcome, self._samples, waited)
        if log:
            row = self._interval.close(done, rate, self._ranks.device)
            row |= self._broken.counts()
            row |= {f"cosine/{pair}": value for pair, value in self._parts.cosine.cosines().items()}
            for name, task in self._tasks.items():
                row |= {f"signal/{name}/{signal}": float(value) for signal, value in task.signals().items()}
            if self._log is not None:
                self._log.metrics(row)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done inside is no training, and no part of its throughput and shares of time."""
        began = time.perf_counter()
        yield
        self._interval.leave_out(time.perf_counter() - began)

    def measure(self, step: int, *, draw: str | None = None) -> None:
        """Write held-out rows, and with ``draw`` pictures whose names begin with it. Collective."""
        with self._parts.engine.full_parameters() as student:
            rows = evaluate(student.backbone, self._held_out, step)
            if draw is not None and self._ranks.first:
                pictures(student.backbone, self._held_out, self._folder.pictures, draw)
        dist.barrier()
        if self._log is not None:
            self._log.evaluations(rows)

    def close(self) -> None:
        """Nothing more will be written."""
        if self._log is not None:
            self._log.close()
