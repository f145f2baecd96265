"""Every guard bites: break the line it guards, and the named test fails.

``tests/mutants/*.toml`` hold the table. A mutant changes one line of a copy of the tree; its test, which passes on the
untouched copy, must then fail (not crash at collection).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("backbone", "data_recipes", "tasks", "pretrain", "launchers", "eval")
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


def run(tree: Path, test: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", test]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("mutant", mutants(), ids=str)
def test_mutant_names_one_place(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.new != mutant.old
    assert (ROOT / mutant.test.partition("::")[0]).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("mutant", mutants(), ids=str)
def test_mutant_is_caught(mutant: Mutant, copied_tree: Path) -> None:
    file = copied_tree / "interlace" / mutant.file
    text = file.read_text()
    file.write_text(text.replace(mutant.old, mutant.new))
    try:
        broken = run(copied_tree, mutant.test)
    finally:
        file.write_text(text)
    assert broken.returncode == TESTS_FAILED, broken.stdout[-3000:] + broken.stderr[-1000:]


@pytest.mark.slow
def test_every_named_test_passes_untouched(copied_tree: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(copied_tree), "PYTHONDONTWRITEBYTECODE": "1"}
    named = sorted({mutant.test for mutant in mutants()})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *named]
    whole = subprocess.run(command, cwd=copied_tree, env=environment, capture_output=True, text=True)
    assert whole.returncode == 0, whole.stdout[-3000:]
