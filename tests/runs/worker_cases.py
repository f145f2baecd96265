"""What the spawned ranks do in the tests of loader workers."""

from __future__ import annotations

import multiprocessing
from typing import Any

from four_cases import whole_run

from interlace.pretrain import train
from interlace.pretrain.step import Outcome


def run_with_workers(rank: int, world: int, root: str, run: str, overrides: list[str]) -> dict[str, Any]:
    """A whole run, and how many worker processes this rank had in each step."""
    # The harness makes ranks daemons, which may not have children; a rank that torchrun starts is none.
    multiprocessing.current_process()._config["daemon"] = False
    original, workers = train.interlaced_step, []

    def step(*given: Any, **options: Any) -> Outcome:
        workers.append(len(multiprocessing.active_children()))
        return original(*given, **options)

    train.interlaced_step = step
    try:
        found = whole_run(rank, world, root, run, overrides)
    finally:
        train.interlaced_step = original
    return {**found, "workers": workers}
