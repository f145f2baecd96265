"""Training's numbers: gathered over an interval, reduced over ranks, written to JSON lines and TensorBoard."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from .run_folder import RunFolder, append, forget_after
from .step import Outcome


class Interval:
    """Collects the steps between two log lines."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._began = time.perf_counter()
        self._steps = 0
        self._samples: dict[str, int] = defaultdict(int)
        self._seconds: dict[str, float] = defaultdict(float)
        self._losses: dict[str, float] = defaultdict(float)
        self._norm = 0.0
        self._waited = 0.0

    def add(self, outcome: Outcome, samples: Mapping[str, int], waited: float) -> None:
        """One step: its outcome, the global samples of each task, and the seconds this rank waited for data."""
        self._steps += 1
        self._waited += waited
        self._norm += outcome.gradient_norm
        for task, count in samples.items():
            self._samples[task] += count
        for name, value in outcome.losses.items():
            self._losses[name] += value
        for name, value in outcome.seconds.items():
            self._seconds[name] += value

    def leave_out(self, seconds: float) -> None:
        """So much time went by without training: a checkpoint was saved, or held-out samples were measured."""
        self._began += seconds

    def close(self, step: int, rate: float, device: torch.device) -> dict[str, Any]:
        """The interval's row; a new interval begins. Collective: seconds and memory are the maximum over ranks."""
        elapsed = time.perf_counter() - self._began
        names = sorted(self._seconds)
        worst = torch.tensor(
            [elapsed, self._waited, peak_bytes(device), *(self._seconds[name] for name in names)],
            dtype=torch.float64,
            device=device,
        )
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        elapsed, waited, memory, *spent = worst.tolist()
        samples = sum(self._samples.values())
        row: dict[str, Any] = {"step": step, "rate": rate, "gradient_norm": self._norm / self._steps}
        row |= {f"loss/{name}": value / self._steps for name, value in self._losses.items()}
        row |= {f"sample_share/{task}": count / samples for task, count in self._samples.items()}
        row |= {f"time_share/{name}": value / elapsed for name, value in zip(names, spent, strict=True)}
        row |= {
            "time_share/data": waited / elapsed,
            "samples_per_second": samples / elapsed,
            "seconds_per_step": elapsed / self._steps,
            "peak_bytes": memory,
        }
        self._reset()
        return row


class Log:
    """Writes rows on the first rank: ``metrics.jsonl`` and TensorBoard, the same names in both."""

    def __init__(self, folder: RunFolder, start: int) -> None:
        """Training begins at step ``start``: the rows past it are dropped, as the run takes those steps again."""
        from torch.utils.tensorboard import SummaryWriter  # costs a second; other ranks need none

        for path in (folder.metrics, folder.evaluations):
            forget_after(path, start)
        self._folder = folder
        # Hides what an earlier beginning wrote at these steps: curves would double back on themselves.
        self._board = SummaryWriter(str(folder.root / "tensorboard"), purge_step=start + 1 if start else 0)

    def metrics(self, row: Mapping[str, Any]) -> None:
        """A row of training's numbers."""
        append(self._folder.metrics, [row])
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(name, value, row["step"])

    def evaluations(self, rows: list[dict[str, Any]]) -> None:
        """Held-out rows; in TensorBoard the blind line lies beside each curve."""
        append(self._folder.evaluations, rows)
        for row in rows:
            for kind in ("value", "blind"):
                if row[kind] is not None:
                    self._board.add_scalar(f"held_out/{row['task']}/{row['measure']}/{kind}", row[kind], row["step"])
        self._board.flush()

    def close(self) -> None:
        """Flush and close."""
        self._board.close()


def peak_bytes(device: torch.device) -> float:
    """Peak memory: allocated on the GPU, resident in this process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    # ru_maxrss counts bytes on macOS, kilobytes elsewhere.
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
