"""Every guard bites: break the line it guards, and the named test fails.

``tests/mutants/*.toml`` hold the table. A mutant changes one line of a copy of the tree; its test, which passes on the
untouched copy, must then fail (not crash at collection).
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("backbone", "data_recipes", "tasks", "pretrain", "launchers", "eval")
SECONDS = 300  # after which a mutant's test hangs
TESTS_FAILED = 1  # pytest's exit status when tests ran and some failed


@dataclass(frozen=True)
class Mutant:
    """One line of the table: in ``file``, ``old`` (found exactly once) becomes ``new``, and ``test`` fails."""

    table: str
    file: str
    old: str
    new: str
    test: str

    def __str__(self) -> str:
        return f"{self.table}:{self.file}:{self.test.rpartition('::')[2]}"


def mutants() -> list[Mutant]:
    tables = sorted((ROOT / "tests" / "mutants").glob("*.toml"))
    return [Mutant(path.stem, **row) for path in tables for row in tomllib.loads(path.read_text())["mutant"]]


@pytest.fixture(scope="session")
def copied_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rooms as a package beside a copy of the tests; first on the path, it hides the installed one."""
    tree = tmp_path_factory.mktemp("mutants")
    skip = shutil.ignore_patterns("__pycache__")
    for room in ROOMS:
        shutil.copytree(ROOT / room, tree / "interlace" / room, ignore=skip)
    shutil.copytree(ROOT / "tests", tree / "tests", ignore=skip)
    for file in ("pyproject.toml", "README.md", "Makefile", "constraints.txt"):
        shutil.copy(ROOT / file, tree / file)
    return tree


@pytest.fixture(scope="session")
def forks(copied_tree: Path) -> Iterator[subprocess.Popen[str]]:
    """``forking.py``, which sees the copied tree."""
    environment = {**os.environ, "PYTHONPATH": str(copied_tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(ROOT / "tests" / "forking.py")]
    with subprocess.Popen(
        command, cwd=copied_tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def run(forks: subprocess.Popen[str], test: str, output: Path) -> int:
    """Pytest's exit status. A test that hangs is ended with all that it started, and is an error."""
    assert forks.stdin is not None
    assert forks.stdout is not None
    print(test, output, sep="\t", file=forks.stdin, flush=True)
    group = int(forks.stdout.readline())
    hung = not select.select([forks.stdout], [], [], SECONDS)[0]
    if hung:
        os.killpg(group, signal.SIGKILL)
    status = int(forks.stdout.readline())
    assert not hung, f"{test} hung for {SECONDS} seconds"
    return status


@pytest.mark.parametrize("mutant", mutants(), ids=str)
def test_mutant_names_one_place(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.new != mutant.old
    assert (ROOT / mutant.test.partition("::")[0]).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("mutant", mutants(), ids=str)
def test_mutant_is_caught(mutant: Mutant, copied_tree: Path, forks: subprocess.Popen[str], tmp_path: Path) -> None:
    file = copied_tree / "interlace" / mutant.file
    text = file.read_text()
    file.write_text(text.replace(mutant.old, mutant.new))
    try:
        status = run(forks, mutant.test, tmp_path / "output")
    finally:
        file.write_text(text)
    assert status == TESTS_FAILED, (tmp_path / "output").read_text()[-4000:]


@pytest.mark.slow
def test_every_named_test_passes_untouched(copied_tree: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(copied_tree), "PYTHONDONTWRITEBYTECODE": "1"}
    named = sorted({mutant.test for mutant in mutants()})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *named]
    whole = subprocess.run(command, cwd=copied_tree, env=environment, capture_output=True, text=True)
    assert whole.returncode == 0, whole.stdout[-3000:]
