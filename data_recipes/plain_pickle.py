"""Pickles of datasets, read without running what may be in them: arrays, numbers, texts and containers alone."""

from __future__ import annotations

import importlib
import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

from .media import DataError, read_bytes

#: What arrays and texts are rebuilt with, under numpy 1 and 2, in protocols 2 to 5.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}
#: What unpickling is seen to raise for damaged bytes.
_BAD_BYTES = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, ImportError),
    *(ArithmeticError, MemoryError, struct.error),
)


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is neither an array nor a container")
        return getattr(importlib.import_module(module.replace("numpy.core", "numpy._core")), name)


def load_pickle(file: Path) -> Any:
    """The content of a pickle. Raises :class:`DataError` that names the file, for anything but plain data too."""
    return _load(io.BytesIO(read_bytes(file)), file)


def load_npy(file: Path) -> Any:
    """The content of a ``.npy``: an array, or the one object in it, where it was pickled."""
    data = io.BytesIO(read_bytes(file))
    try:
        version = np.lib.format.read_magic(data)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        dtype = read(data)[2]
        if not dtype.hasobject:
            data.seek(0)
            return np.load(data, allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{file}: broken .npy ({error}); copy it again") from error
    found = _load(data, file)
    return found.item() if isinstance(found, np.ndarray) and found.shape == () else found


def _load(stream: io.BytesIO, file: Path) -> Any:
    try:
        return _Plain(stream).load()
    except _BAD_BYTES as error:
        raise DataError(f"{file}: not a pickle of plain data ({error})") from error
