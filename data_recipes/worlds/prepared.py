"""What ``interlace prepare`` does alike for every world: datasets by their settings, drawn by processes, whole or not.

A world's settings and the packages that it reads give its data a name, the digest, which is kept beside the data: what
is there under another name was made otherwise and is made again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout

from ..shards import MANIFEST
from .render import set_backend

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Job = TypeVar("Job")
Drawn = TypeVar("Drawn")

#: Called with a stage, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Prepared:
    """What was made or found. ``made``: the datasets written by this call."""

    folder: Path
    counts: dict[str, int]  # samples by dataset
    made: tuple[str, ...]


def digest_of(settings: DataclassInstance, format: int, packages: Iterable[str]) -> str:
    """Names the data that ``settings`` give with these packages as they are installed: 16 hexadecimal digits.

    ``format``: a number that its maker raises when the same settings give other data.
    """
    facts = {"format": format, **asdict(settings), **{package: version(package) for package in packages}}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def not_made(folder: Path, datasets: Iterable[str], digest: str) -> list[str]:
    """Those of ``datasets`` in ``folder`` that are not there, or whose manifest has another ``digest``."""
    return [name for name in datasets if _manifest(folder / name).get("extra", {}).get("digest") != digest]


def counts_of(folder: Path, datasets: Iterable[str]) -> dict[str, int]:
    """Samples of each of ``datasets``, which are in ``folder``."""
    return {name: int(_manifest(folder / name)["samples"]) for name in datasets}


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    manifest: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return manifest


@contextmanager
def alone(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Of processes that prepare ``folder`` at once, one at a time: what is missing is asked for inside.

    The others wait, and say so. A process that is killed holds nobody up, where the file system has ``flock``.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is preparing {folder}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_whole(file: Path, content: bytes) -> None:
    """Write ``content`` to ``file``, which appears whole or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(content)
    partial.replace(file)


@contextmanager
def drawing(
    draw: Callable[[Job], Drawn], jobs: Iterable[Job], backend: str, workers: int | None
) -> Iterator[Iterator[Drawn]]:
    """``draw(job)`` of every job, in their order, by ``workers`` processes that draw with ``backend``.

    As many processes as cores, at most four, if ``workers`` is None. They are spawned, so ``draw`` must pickle. An
    exception inside the ``with``, Ctrl-C among them, waits for no more than the jobs that are being drawn.
    """
    context = multiprocessing.get_context("spawn")  # the environment of a worker is its own, and so is its GL
    count = workers or min(os.cpu_count() or 1, 4)
    with ProcessPoolExecutor(count, context, initializer=_begin, initargs=(backend,)) as pool:
        try:
            yield pool.map(draw, jobs)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _begin(backend: str) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_backend(backend)


def _end_with_parent() -> None:
    """A worker waits for work on a pipe that it holds open itself: alone, it would outlive a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
