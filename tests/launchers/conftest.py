"""A short run that several tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_recipe import interlace, write_data, write_recipe


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``toy.yaml`` and its data."""
    folder = tmp_path_factory.mktemp("toy")
    write_recipe(folder, write_data(folder / "data"))
    return folder


@pytest.fixture(scope="session")
def toy_run(toy: Path) -> tuple[Path, str]:
    """The folder of a finished run of it, and what was printed."""
    done = interlace("pretrain", "toy.yaml", "--run", "run", cwd=toy)
    assert done.returncode == 0, done.stderr
    return toy / "run", done.stdout
