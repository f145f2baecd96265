"""Progress on the first rank: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

#: Seconds between plain lines.
EVERY = 10.0


class _Bars:
    """A context manager that shows rich's bars on a terminal, and has none elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = time.monotonic()
        self._bars: Progress | None = None
        if console.is_terminal and not console.quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, TextColumn("{task.fields[note]}"), console=console)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _due(self, last: bool) -> bool:
        """Whether a plain line should be printed now."""
        now = time.monotonic()
        if not last and now - self._said < EVERY:
            return False
        self._said = now
        return True

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)


class Steps(_Bars):
    """Counts the steps of a run up to ``total``; call it after each step."""

    def __init__(self, what: str, total: int, console: Console) -> None:
        super().__init__(console)
        self._what, self._total = what, total
        self._began: tuple[float, int] | None = None
        self._bar = self._bars.add_task(what, total=total, note="starting") if self._bars is not None else None

    def __call__(self, done: int, note: str) -> None:
        """``done`` steps of all are behind us; ``note`` says what they were like."""
        if self._began is None:  # the first step waits for loaders and kernels: rates count from its end
            self._began = (time.monotonic(), done)
        rate = self._rate(done)
        if self._bars is not None and self._bar is not None:
            self._bars.update(self._bar, completed=done, note=f"{rate}  {note}")
        elif self._due(last=done == self._total):
            self._line(f"{self._what} {done}/{self._total}  {rate}  {note}")

    def _rate(self, done: int) -> str:
        assert self._began is not None
        seconds, steps = time.monotonic() - self._began[0], done - self._began[1]
        if not steps:
            return "starting"
        left = (self._total - done) * seconds / steps
        return f"{steps / seconds:.2f} steps/s, {left / 60:.1f} min left"


class Stages(_Bars):
    """Follows work of several stages, each with a length of its own."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._rows: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` of this stage are behind us."""
        if self._bars is not None:
            if stage not in self._rows:
                self._rows[stage] = self._bars.add_task(stage, total=total, note="")
            self._bars.update(self._rows[stage], completed=done)
        elif self._due(last=done == total):
            self._line(f"{stage} {done}/{total}")
