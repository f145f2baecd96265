"""Real processes that talk through gloo, started once for many cases.

A case is a module-level function ``case(rank, world, **options)`` that every rank runs. :meth:`Ranks.run` returns what
each rank returned, or raises :class:`CaseFailed` with the traceback of the rank that failed first. Ranks that failed
apart from the others may wait for each other for ever: after a failure all are ended, and the next case gets new ones.
"""

from __future__ import annotations

import os
import queue
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Case = Callable[..., Any]


class CaseFailed(AssertionError):
    """A rank raised, died, or did not finish in time."""


class Ranks:
    """``world`` processes in one gloo group, one thread each. Use it as a context, or close it."""

    def __init__(self, world: int, seconds: float = 120.0) -> None:
        self.world, self.seconds = world, seconds
        self._processes: list[Any] = []

    def run(self, case: Case, **options: Any) -> list[Any]:
        """What ``case(rank, world, **options)`` returned, by rank. Options and results are pickled."""
        if not self._processes:
            self._start()
        for inbox in self._inboxes:
            inbox.put((case, options))
        results: dict[int, Any] = {}
        deadline = time.monotonic() + self.seconds
        while len(results) < self.world:
            try:
                rank, result, failure = self._outbox.get(timeout=1.0)
            except queue.Empty:
                dead = [p.exitcode for p in self._processes if p.exitcode is not None]
                if dead or time.monotonic() > deadline:
                    self.close()
                    what = f"a rank died with status {dead}" if dead else f"no end within {self.seconds} s"
                    raise CaseFailed(f"{case.__name__}({options}): {what}") from None
                continue
            if failure is not None:
                self.close()
                raise CaseFailed(f"{case.__name__}({options}) failed on rank {rank}:\n{failure}")
            results[rank] = result
        return [results[rank] for rank in range(self.world)]

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        if self._processes:
            self._meeting.cleanup()
        self._processes = []

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self) -> None:
        context = mp.get_context("spawn")
        # A file, not a port: nothing else on the machine can hold it.
        self._meeting = tempfile.TemporaryDirectory(prefix="ranks_")
        store = Path(self._meeting.name) / "store"
        self._inboxes = [context.Queue() for _ in range(self.world)]
        self._outbox = context.Queue()
        self._processes = [
            context.Process(
                target=_serve, args=(rank, self.world, str(store), inbox, self._outbox, self.seconds), daemon=True
            )
            for rank, inbox in enumerate(self._inboxes)
        ]
        for process in self._processes:
            process.start()


def _serve(rank: int, world: int, store: str, inbox: Any, outbox: Any, seconds: float) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=seconds)
    )
    while True:
        case, options = inbox.get()
        try:
            torch.manual_seed(0)
            outbox.put((rank, case(rank, world, **options), None))
        except Exception:
            outbox.put((rank, None, traceback.format_exc()))
