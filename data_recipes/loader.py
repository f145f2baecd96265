"""Micro-batches in the order of a plan: the same ones from worker processes as from the training process itself."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.forkserver import ensure_running
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from .feed import Feed, MicroBatch
from .media import DataError

#: The micro-batches of a step in their order: (task, which of its micro-batches).
Plan = Sequence[tuple[str, int]]


def interleaved(micro_batches: Mapping[str, int]) -> list[tuple[str, int]]:
    """The default plan: the first micro-batch of each task, in the tasks' order, then the second of each, and so on."""
    most = max(micro_batches.values())
    return [(task, micro) for micro in range(most) for task, count in micro_batches.items() if micro < count]


class Loader:
    """Yields this rank's micro-batches of every step in ``range(start_step, stop_step)``, one list a step.

    ``plan``: the steps' :data:`Plan`, or a function step -> plan that is the same on every rank. ``workers``: processes
    that load ahead, two micro-batches each; 0 loads in this process. ``pin``: into page-locked memory, for a GPU. What
    is yielded depends on neither, and the ranks' parts, one after another, are the batch of a single rank. Neither
    draws from torch's global generator. A broken sample is replaced and named, as :class:`Feed` says;
    :class:`DataError` where nothing can replace it. A context manager: leaving it ends the workers. Raises ValueError
    for a plan that is not every feed's micro-batches once, or a batch of fewer samples than ranks, or a task that
    cannot be sent to workers.

    Workers are started by a fork server, a process that has imported the tasks' modules and run nothing. Forking the
    training process itself would copy the locks of its OpenMP, gloo and DeepSpeed threads as they happen to stand, and
    a CUDA context that no child can use; spawning would import torch and transformers again in each worker.
    """

    def __init__(
        self,
        feeds: Mapping[str, Feed],
        plan: Plan | Callable[[int], Plan],
        *,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        start_step: int = 0,
        stop_step: int,
        pin: bool = False,
    ) -> None:
        self._feeds = dict(feeds)
        self._steps = range(start_step, stop_step)
        self._plan: Callable[[int], Plan] = plan if callable(plan) else lambda step: plan
        for name, feed in self._feeds.items():
            if name != feed.name:
                raise ValueError(f"the feed of task {name!r} is named {feed.name!r}")
            if feed.batch < world:
                raise ValueError(f"task {name!r}: a batch of {feed.batch} cannot be split over {world} ranks")
        self._waited = 0.0
        context = _fork_server(self._feeds) if workers else None
        if context:
            self._held_by_workers, self._alive = context.Pipe(duplex=False)
            atexit.register(self._alive.close)
        self._micro_batches = DataLoader(
            _MicroBatches(self._feeds, rank, world),
            batch_size=None,
            sampler=_Keys(self._steps, self._planned),
            num_workers=workers,
            pin_memory=pin,
            multiprocessing_context=context,
            collate_fn=_unchanged,
            worker_init_fn=partial(_guard, self._held_by_workers) if context else None,
            generator=torch.Generator(),  # the global one must be where a run that was not resumed has it
        )
        self._iterator: Iterator[MicroBatch | _Failed] | None = None

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        self._iterator = iter(self._micro_batches)
        for step in self._steps:
            start = time.perf_counter()
            micros = [self._next() for _ in self._planned(step)]
            self._waited += time.perf_counter() - start
            yield micros

    def waited(self) -> float:
        """Seconds that iterating spent waiting for data since this was last asked."""
        waited, self._waited = self._waited, 0.0
        return waited

    def cursors(self, step: int) -> dict[str, dict[str, dict[str, Any]]]:
        """Task -> source -> where it stands after ``step`` steps, whatever was prefetched. JSON."""
        return {name: feed.cursors(step) for name, feed in self._feeds.items()}

    def close(self) -> None:
        """End the workers."""
        self._iterator = None
        if self._micro_batches.num_workers:
            self._alive.close()  # an error's traceback may hold torch's iterator, and with it the workers
            atexit.unregister(self._alive.close)

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self) -> MicroBatch:
        assert self._iterator is not None
        found = next(self._iterator)
        if isinstance(found, _Failed):
            raise DataError(found.message)
        return found

    def _planned(self, step: int) -> Plan:
        planned = self._plan(step)
        expected = [(name, micro) for name, feed in self._feeds.items() for micro in range(feed.micro_batches)]
        if sorted(planned) != sorted(expected):
            raise ValueError(f"step {step}: the plan {list(planned)} is not every micro-batch once: {expected}")
        return planned


@dataclass(frozen=True)
class _Failed:
    """A DataError on its way from a worker. Raised there, torch would wrap its one line into two stack traces."""

    message: str


class _MicroBatches(Dataset):
    """(step, task, micro) -> this rank's micro-batch."""

    def __init__(self, feeds: Mapping[str, Feed], rank: int, world: int) -> None:
        self._feeds, self._rank, self._world = feeds, rank, world

    def __getitem__(self, key: tuple[int, str, int]) -> MicroBatch | _Failed:
        step, task, micro = key
        try:
            return self._feeds[task].micro_batch(step, micro, self._rank, self._world)
        except DataError as error:
            return _Failed(str(error))


class _Keys:
    """(step, task, micro) of every micro-batch, in order."""

    def __init__(self, steps: range, plan: Callable[[int], Plan]) -> None:
        self._steps, self._plan = steps, plan

    def __iter__(self) -> Iterator[tuple[int, str, int]]:
        for step in self._steps:
            for task, micro in self._plan(step):
                yield step, task, micro


def _fork_server(feeds: Mapping[str, Feed]) -> BaseContext:
    for feed in feeds.values():
        try:
            pickle.dumps(feed)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            # ZeRO-3 gives every module attributes that cannot be sent
            raise ValueError(
                f"task {feed.name!r} cannot be sent to loader workers ({error}): "
                "make the feeds before the engine, or set workers to 0"
            ) from error
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(sorted({__name__, *(type(feed.task).__module__ for feed in feeds.values())}))
    # A terminal or Slurm sends its signals to all processes of a job. Blocked ones stay blocked in the server and its
    # children, so that the training process alone hears them and still gets the data of the step it wants to finish.
    resource_tracker.ensure_running()  # first: starting it unblocks them
    blocked = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _guard(trainer: Connection, worker: int) -> None:
    """In a worker: end when the training process closes its end of ``trainer``, or is gone, which closes it too.

    torch looks whether a worker's parent lives; that is the fork server, which lives until its last child ends. And
    Python, leaving, ends its children by SIGTERM and waits for them, but SIGTERM is blocked here.
    """

    def watch() -> None:
        trainer.poll(None)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _unchanged(found: Any) -> Any:
    return found
