"""What a run leaves behind, and who may write into it."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch

from .checkpoint import newest

#: What a run's folder may hold before the run begins: what an earlier beginning left, and a scheduler or a shell.
_OF_RUNS = re.compile(
    r"recipe\.yaml|environment\.txt|(metrics|eval|broken)\.jsonl|replay_\d+\.pt|backbone\.json|report\.html"
    r"|handoff|\..*|.*\.(out|err|log|[oe]\d+)"
)
#: And these, empty: their names are common enough to be somebody's own folders, of which the run would lose files.
_EMPTY_FOLDERS = ("backbone", "checkpoints", "heads", "pictures", "results", "tensorboard")


class FolderInUse(ValueError):
    """The folder holds another run or somebody's files, or is no folder."""


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder."""

    root: Path

    @property
    def recipe(self) -> Path:
        """The recipe with everything resolved; reading it back gives the same recipe."""
        return self.root / "recipe.yaml"

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint."""
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Training's numbers, a JSON object a line."""
        return self.root / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        """Held-out measures, a JSON object a line."""
        return self.root / "eval.jsonl"

    @property
    def broken(self) -> Path:
        """Samples that could not be used, a JSON object a line; not there where there was none."""
        return self.root / "broken.jsonl"

    @property
    def pictures(self) -> Path:
        """What the model sees, drawn at the start and at the end."""
        return self.root / "pictures"

    def find(self, *, resume: bool) -> Path | None:
        """The checkpoint to go on from, the newest; None at a run's beginning. Makes an empty folder, if any.

        Raises :class:`FolderInUse` when the folder holds a run and ``resume`` is false, holds what no run begins with,
        or is a file.
        """
        if self.root.exists() and not self.root.is_dir():
            raise FolderInUse(f"{self.root} is a file, not a folder; name another --run folder")
        used = self.recipe.exists()
        if used and not resume:
            raise FolderInUse(f"{self.root} already holds a run; go on with --resume, or name another --run folder")
        if not used and (foreign := self._foreign()):
            raise FolderInUse(
                f"{self.root} holds {foreign}, which no run begins with; name a new or an empty --run folder"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=self.root):  # a folder that takes no files is told now, and not when all is read
            pass
        return newest(self.checkpoints) if used else None

    def begin(self, recipe: str, *, resume: bool) -> None:
        """Make this the folder of a new run, once all that it begins with is read: until now it holds nothing.

        ``recipe``: the resolved recipe's text. Raises :class:`FolderInUse` where another run began here meanwhile.
        """
        # A run that was cut before its first checkpoint left its recipe, which need not be the one that begins now.
        if not resume:
            try:
                self.recipe.touch(exist_ok=False)  # of two at once, one
            except FileExistsError:
                raise FolderInUse(f"{self.root}: another run began here meanwhile; name another --run folder") from None
        for folder in (self.checkpoints, self.pictures):
            folder.mkdir(exist_ok=True)
        _replace(self.recipe, recipe)
        _replace(self.root / "environment.txt", environment())

    def _foreign(self) -> str:
        """What lies first in the folder that is nothing of a run's; empty where there is nothing, or no folder."""
        for path in sorted(self.root.iterdir()) if self.root.exists() else ():
            if path.name in _EMPTY_FOLDERS and path.is_dir():
                if inside := min(path.iterdir(), default=None):
                    return f"{path.name}/{inside.name}"
            elif not _OF_RUNS.fullmatch(path.name):
                return path.name
        return ""

    def evaluated(self, step: int) -> bool:
        """Whether held-out rows of ``step`` were written."""
        return self.evaluations.exists() and any(
            _step(line) == step for line in self.evaluations.read_text().splitlines()
        )


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append JSON lines in one write, so that a crash leaves at most one cut line."""
    with path.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def rows(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file that holds one a line; none of a file that is not there. ValueError for a cut line."""
    found = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), 1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            raise ValueError(
                f"{path}:{number}: not a whole row, as a run leaves it that is killed while it writes; go on with "
                "--resume, or remove the line"
            ) from None
    return found


def forget_after(path: Path, step: int) -> None:
    """Drop the rows past ``step``: a resumed run takes those steps again. From step 0 it begins anew, without any."""
    if path.exists():
        kept = [line for line in path.read_text().splitlines() if step and _step(line) <= step]
        _replace(path, "".join(line + "\n" for line in kept))


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all: a run may be cut at any time, and its history with it."""
    fresh = path.with_name(f".new-{path.name}")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:  # the line a crash cut short
        return float("inf")


def environment() -> str:
    """Machine, revision and every installed package, for ``environment.txt``."""
    cuda = torch.version.cuda
    lines = [
        f"python {platform.python_version()} on {platform.platform()}",
        f"revision {_revision() or 'unknown'}",
        f"torch threads {torch.get_num_threads()}, {f'CUDA {cuda}' if cuda else 'no CUDA'}",
    ]
    if torch.cuda.is_available():
        lines.append(f"device {torch.cuda.get_device_name()}")
    packages = {f"{found.metadata['Name']}=={found.version}" for found in distributions()}
    return "\n".join([*lines, *sorted(packages, key=str.lower)]) + "\n"


def _revision() -> str:
    """What git calls this code; nothing where there is no git, as in many containers, or no repository of this code."""
    if shutil.which("git") is None:
        return ""
    file = Path(__file__).resolve()

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(file.parent), *words], capture_output=True, text=True).stdout.strip()

    # Installed into the environment of some project, this code lies in that project's repository, and is none of it.
    return git("describe", "--always", "--dirty") if git("ls-files", file.name) else ""
