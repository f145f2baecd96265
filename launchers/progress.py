"""Progress on the first rank: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

#: Seconds between plain lines.
EVERY = 10.0


class Steps:
    """Counts the steps of a run, from ``begin`` to ``total``. A context manager; call it after each step."""

    def __init__(self, what: str, total: int, console: Console) -> None:
        self._what, self._total, self._console = what, total, console
        self._began: tuple[float, int] | None = None
        self._said = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=console)
            self._row = self._bar.add_task(what, total=total, note="")

    def __enter__(self) -> Steps:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, note: str) -> None:
        """``done`` steps of all are behind us; ``note`` says what they were like."""
        now = time.monotonic()
        if self._began is None:  # the first step waits for loaders and kernels: rates count from its end
            self._began = (now, done)
        if self._bar is not None:
            self._bar.update(self._row, completed=done, note=note)
        elif now - self._said >= EVERY or done == self._total:
            self._said = now
            self._console.print(f"{self._what} {done}/{self._total}  {self._rate(now, done)}  {note}", highlight=False)

    def _rate(self, now: float, done: int) -> str:
        assert self._began is not None
        seconds, steps = now - self._began[0], done - self._began[1]
        if not steps:
            return "starting"
        left = (self._total - done) * seconds / steps
        return f"{steps / seconds:.2f} steps/s, {left / 60:.1f} min left"
