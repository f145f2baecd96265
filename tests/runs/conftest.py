from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Spawned ranks import cases by name, as the tests of the engine do.
TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / room) for room in ("runs", "distributed", "tasks")]

from harness import Ranks  # noqa: E402
from tiny_run import write_data  # noqa: E402


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Ranks]:
    with Ranks(2, seconds=300) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def one_rank() -> Iterator[Ranks]:
    with Ranks(1, seconds=300) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("tiny"))
