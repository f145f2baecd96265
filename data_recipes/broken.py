"""Samples that cannot be used, by name, and the others: how everything but training reads a source."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from .media import DataError
from .sample import Sample
from .sources import Source


@dataclass(frozen=True)
class Broken:
    """Sample ``index`` of ``source``, which could not be used, and the draw that met it, if one did.

    ``key``: "#index" if not even that could be read. ``reason``: one line.
    """

    source: str
    key: str
    index: int
    reason: str
    draw: int | None = None

    @classmethod
    def of(cls, source: Source, name: str, index: int, error: DataError, draw: int | None = None) -> Broken:
        """What ``error`` says of sample ``index`` of ``source``, which the recipe calls ``name``."""
        return cls(name, key_of(source, index), index, " ".join(str(error).split()), draw)


@dataclass
class Readable:
    """The samples of a source that could be read, in its order, and the others."""

    samples: list[Sample] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)


def read_samples(
    source: Source,
    name: str,
    indices: Iterable[int] | None = None,
    fields: Collection[str] | None = None,
    accept: Callable[[Sample], None] | None = None,
) -> Readable:
    """Samples ``indices`` (default: all) of ``source`` with ``fields`` (default: all it offers), broken ones apart.

    ``accept`` raises :class:`DataError` for a sample that is of no use to the caller. Other errors go through.
    """
    found = Readable()
    for index in range(len(source)) if indices is None else indices:
        try:
            sample = source.read(index, fields)
            if accept is not None:
                accept(sample)
        except DataError as error:
            found.broken.append(Broken.of(source, name, index, error))
        else:
            found.samples.append(sample)
    return found


def key_of(source: Source, index: int) -> str:
    """The key of a sample, or "#index" where it cannot be read."""
    try:
        return source.key(index)
    except DataError:
        return f"#{index}"
