"""Opening what a recipe names: the one function from (format, path) to samples by index."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from .bridge import BridgeRawReader, BridgeRldsReader
from .calvin import CalvinReader
from .llava import LlavaReader
from .media import DataError
from .sample import Sample
from .shards import ChooseFrames, ShardReader
from .webdataset import TarReader


class Source(Protocol):
    """Samples by index, on local disk. Implementations pickle into loader workers."""

    #: those of :data:`interlace.data_recipes.sample.FIELDS` that every sample has
    fields: frozenset[str]
    #: [shards] samples of each file; sample i is in the first file whose sizes up to it sum to more than i
    shard_sizes: np.ndarray

    def __len__(self) -> int: ...

    def read(self, index: int, fields: Collection[str] | None = None, choose: ChooseFrames | None = None) -> Sample:
        """See :meth:`interlace.data_recipes.shards.ShardReader.read`. DataError for a sample that is broken."""
        ...

    def key(self, index: int) -> str:
        """The key of sample ``index``, read without the rest of it; DataError where even that cannot be."""
        ...


#: format -> reader(path, source name). The formats a recipe may name are in formats.py; these can be opened.
READERS: dict[str, Callable[[Path, str], Source]] = {
    "mds": ShardReader,
    "webdataset": TarReader,
    "llava": LlavaReader,
    "calvin": CalvinReader,
    "bridge": BridgeRawReader,
    "bridge_rlds": BridgeRldsReader,
    "bridge_rlds_val": partial(BridgeRldsReader, split="val"),
}


def open_source(name: str, format: str, path: str | Path) -> Source:
    """Open source ``name`` of a recipe. Raises :class:`DataError`, naming the source and the file, if it cannot be."""
    if format not in READERS:
        raise DataError(
            f"source {name!r}: format {format!r} cannot be opened yet (these can: {', '.join(READERS)}); "
            "write its samples with SampleWriter and name the folder with format mds"
        )
    try:
        source = READERS[format](Path(path), name)
    except DataError as error:
        raise DataError(f"source {name!r}: {error}") from error
    if not len(source):
        raise DataError(f"source {name!r}: {path}: no sample in it; fill it, or leave the source out")
    return source
