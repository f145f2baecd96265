"""MDS folders read by index: which bytes of which shard file are column c of sample i.

The files are mosaicml-streaming's, and its own classes read them too. Reading takes no more than the few lines here,
while ``import streaming`` imports torchvision, transformers and scikit-learn (seconds in every loader worker), its
``MDSReader`` always decodes every column, and ``StreamingDataset`` keeps named shared memory that outlives a crash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from .media import DataError

INDEX = "index.json"
HASHES = ("sha1", "sha256", "sha512", "blake2b", "md5")


class MdsFolder:
    """The raw columns of a folder of uncompressed MDS shards, by index. Holds no open file; cheap to pickle.

    Opening checks that every shard file is there with the size that index.json states; :meth:`verify` reads them
    all. Raises :class:`DataError`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        shards = self._read_index()
        self.files = [self.folder / shard["raw_data"]["basename"] for shard in shards]
        self.hashes: list[dict[str, str]] = [shard["raw_data"]["hashes"] for shard in shards]
        self.shard_sizes = np.array([shard["samples"] for shard in shards], np.int64)
        self._ends = np.cumsum(self.shard_sizes)
        self.encodings: dict[str, str] = {}
        if shards:
            self.encodings = dict(zip(shards[0]["column_names"], shards[0]["column_encodings"], strict=True))
            self._fixed: list[int | None] = shards[0]["column_sizes"]
        for file, shard in zip(self.files, shards, strict=True):
            _check_size(file, shard["raw_data"]["bytes"])

    def _read_index(self) -> list[dict[str, Any]]:
        file = self.folder / INDEX
        try:
            shards: list[dict[str, Any]] = list(json.loads(file.read_text())["shards"])
        except FileNotFoundError:
            raise DataError(f"{file}: no such file; is this a folder of MDS shards?") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}: not an MDS index ({error})") from error
        for shard in shards:
            if shard.get("format") != "mds" or shard.get("version") != 2:
                raise DataError(
                    f"{file}: holds {shard.get('format')!r} shards of version {shard.get('version')!r}, not 'mds' 2"
                )
            if shard["compression"]:
                raise DataError(f"{file}: shards are compressed as a whole ({shard['compression']}); unpack them first")
            if shard["column_names"] != shards[0]["column_names"]:
                raise DataError(f"{file}: shards differ in their columns")
        return shards

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def columns(self, index: int, names: Collection[str]) -> dict[str, bytes]:
        """The encoded bytes of the named columns of sample ``index``; only these are read from the disk."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: sample {index} of {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = index - int(self._ends[shard] - self.shard_sizes[shard])
        file = self.files[shard]
        where = f"{file}: sample {index}"
        try:
            # A file opened for each sample: no handles to run out of, nothing to pickle, and, unlike a memory map, a
            # shard cut short under a running job is an error that can be caught.
            with open(file, "rb", buffering=0) as stream:
                stream.seek(4 * (1 + row))
                begin, end = np.frombuffer(_read(stream, 8, where), np.uint32).tolist()
                stream.seek(begin)
                varying = self._fixed.count(None)
                lengths = iter(np.frombuffer(_read(stream, 4 * varying, where), np.uint32).tolist())
                at = begin + 4 * varying
                found = {}
                for name, fixed in zip(self.encodings, self._fixed, strict=True):
                    length = next(lengths) if fixed is None else fixed
                    if name in names:
                        stream.seek(at)
                        found[name] = _read(stream, length, where)
                    at += length
        except OSError as error:
            raise DataError(f"{where}: cannot be read ({error.strerror})") from error
        if at != end:
            raise DataError(
                f"{where}: the shard is damaged (columns end at byte {at}, the sample at {end}); make it again"
            )
        return found

    def verify(self) -> None:
        """Compare every shard with its hash in index.json. Raises :class:`DataError` for the first damaged one."""
        for file, hashes in zip(self.files, self.hashes, strict=True):
            known = next((name for name in HASHES if name in hashes), None)
            if known is None:
                raise DataError(f"{file}: {INDEX} states no hash of it to verify (known: {', '.join(HASHES)})")
            with open(file, "rb") as stream:
                if hashlib.file_digest(stream, known).hexdigest() != hashes[known]:
                    raise DataError(f"{file}: its {known} is not the one in {INDEX}; copy or make it again")


def decode_array(data: bytes, dtype: str) -> np.ndarray:
    """A column of encoding ``ndarray:dtype`` -> array: a byte (ndim, width of the sizes), the sizes, the values."""
    ndim, width = data[0] >> 2, 1 << (data[0] & 3)
    shape = np.frombuffer(data, f"<u{width}", ndim, 1)
    return np.frombuffer(data, dtype, -1, 1 + width * ndim).reshape(shape).copy()


def read_exactly(stream: Any, length: int) -> bytes:
    """``length`` bytes of an unbuffered ``stream``, or fewer at its end: network file systems may give less at once."""
    data: bytes = stream.read(length)
    while len(data) < length and (more := stream.read(length - len(data))):
        data += more
    return data


def _read(stream: Any, length: int, where: str) -> bytes:
    data = read_exactly(stream, length)
    if len(data) != length:
        raise DataError(f"{where}: the shard is cut short; copy or make it again")
    return data


def _check_size(file: Path, expected: int) -> None:
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{file}: the shard is missing; copy it again, or make the folder again") from None
    if size != expected:
        raise DataError(f"{file}: {size} bytes, but {INDEX} says {expected}; copy it again, or make the folder again")
