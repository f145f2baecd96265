"""Of two that prepare the same input at once, one makes it and the other takes it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_world import TINY

from interlace.data_recipes.worlds import demo as demo_input
from interlace.data_recipes.worlds.prepared import alone
from interlace.data_recipes.worlds.render import RAYS

HOLDS = """
import sys, time
from pathlib import Path
from interlace.data_recipes.worlds.prepared import alone

with alone(Path(sys.argv[1]), print):
    print("in", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "demo"
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    told: list[str] = []

    def say(line: str) -> None:
        told.append(line)
        holder.send_signal(signal.SIGKILL)

    with alone(folder, say):
        assert told == [f"another process is preparing {folder}: waiting for it"]
    assert holder.wait(60) == -signal.SIGKILL
    holder.stdout.close()


def test_what_another_made_meanwhile_is_taken(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def waited(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
        shutil.copytree(demo, folder)
        yield

    monkeypatch.setattr(demo_input, "alone", waited)
    told: list[str] = []
    found = demo_input.prepare_demo(tmp_path / "demo", settings=TINY, backend=RAYS, workers=1, say=told.append)
    assert (found.made, told) == ((), [])
    assert found.counts
