"""TFRecord files and ``tf.train.Example`` messages, read without TensorFlow."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .media import DataError

#: One feature: a list of byte strings, or numbers.
Feature = list[bytes] | np.ndarray

_POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected
_HEADER, _FOOTER = 12, 4  # bytes: a length and its checksum before a record, the record's checksum after it


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def masked_crc(data: bytes) -> int:
    """The checksum that TFRecord stores: CRC-32C, rotated right by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record_spans(file: Path) -> list[tuple[int, int]]:
    """(offset, size) of the payload of every record. Only headers are read; their checksums are verified.

    Raises :class:`DataError` for a file that is cut short or is none.
    """
    spans: list[tuple[int, int]] = []
    at, end = 0, os.path.getsize(file)
    with open(file, "rb") as stream:
        while at < end:
            stream.seek(at)
            header = stream.read(_HEADER)
            if len(header) < _HEADER:
                raise DataError(f"{file}: cut short in the header of record {len(spans)}; copy it again")
            size, crc = struct.unpack("<QI", header)
            if masked_crc(header[:8]) != crc:
                raise DataError(f"{file}: record {len(spans)} has a broken header; is this an uncompressed TFRecord?")
            at += _HEADER + size + _FOOTER
            if at > end:
                raise DataError(f"{file}: cut short in record {len(spans)}; copy it again")
            spans.append((at - size - _FOOTER, size))
    return spans


def parse_example(data: bytes) -> dict[str, Feature]:
    """A ``tf.train.Example``: feature name -> byte strings, float32 [n] or int64 [n]. ValueError for a broken one."""
    found: dict[str, Feature] = {}
    for _, features in _fields(memoryview(data)):
        for _, entry in _fields(_message(features)):
            pair = dict(_fields(_message(entry)))
            found[bytes(_message(pair[1])).decode()] = _feature(_message(pair[2])) if 2 in pair else []
    return found


def _feature(data: memoryview) -> Feature:
    for kind, content in _fields(data):
        values = list(_fields(_message(content)))
        if kind == 1:
            return [bytes(_message(value)) for _, value in values]
        if kind == 2:
            parts = [v if isinstance(v, memoryview) else v.to_bytes(8, "little")[:4] for _, v in values]
            return np.frombuffer(b"".join(parts), "<f4").copy()
        if kind == 3:
            numbers = [n for _, v in values for n in (_varints(v) if isinstance(v, memoryview) else [v])]
            return np.array(numbers, np.uint64).astype(np.int64)
    return []


def _message(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(number, bytes or unsigned value) of every field of a protocol buffer message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        size, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}.get(wire, -1), at)
        if size < 0 or at + size > len(data):
            raise ValueError(f"field {number} of wire type {wire} does not fit")
        part = data[at : at + size]
        at += size
        yield number, part if wire == 2 else int.from_bytes(part, "little")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value & (1 << 64) - 1, at  # as the format's own readers do
    raise ValueError("a number does not end")


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value
