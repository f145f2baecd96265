"""Our MDS form of samples: written once, manifest last, then read by index.

A folder holds ``shard.NNNNN.mds`` and ``index.json`` (mosaicml-streaming's), and ``dataset.json``, the manifest, which
is written last. One MDS sample is one :class:`Sample`, in these columns (those of fields the dataset lacks are absent):

======================  ====================  ======================================================================
column                  encoding              content
======================  ====================  ======================================================================
meta                    json                  key, frames (T), height, width, metric
times                   ndarray:float64       [T] seconds
frames                  jpeg_array            T files, JPEG (quality 95, 4:4:4) or PNG, each read by itself
depth, sky              bytes                 zstd of float32 [T, H, W] in byte planes (exact); of packed bits, or empty
K, c2w                  ndarray:float32/64    [T, 3, 3] and [T, 4, 4] (field "camera")
texts, clusters, labels json                  as in :class:`Sample`
instruction             str                   of field "episode", with
actions                 ndarray:float32       [N, A]
proprio                 bytes                 float32 [N, P]; P may be 0
steps                   ndarray:int64         [T]
======================  ====================  ======================================================================
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zstd

from .checks import check_sample
from .mds import MdsFolder, decode_array
from .media import CODECS, DataError, decode_image, encode_image
from .sample import FIELDS, Episode, Sample, Text

MANIFEST = "dataset.json"
VERSION = 1

#: Given the times [T] of a clip in seconds, the indices [t] of the frames to decode, ascending; None for all.
ChooseFrames = Callable[[np.ndarray], "np.ndarray | None"]

_COLUMNS = {
    "frames": {"frames": "jpeg_array"},
    "depth": {"depth": "bytes", "sky": "bytes"},
    "camera": {"K": "ndarray:float32", "c2w": "ndarray:float64"},
    "texts": {"texts": "json"},
    "clusters": {"clusters": "json"},
    "labels": {"labels": "json"},
    "episode": {
        "instruction": "str",
        "actions": "ndarray:float32",
        "proprio": "bytes",
        "steps": "ndarray:int64",
    },
}


class SampleWriter:
    """Writes samples into a new folder of MDS shards. A context manager; :meth:`write` takes one :class:`Sample`.

    Everything goes to a hidden folder beside ``folder``, which gets its name only when all is written: an exception
    or a killed process leaves no dataset, and the next try begins by removing what the last one left. ``fields``: what
    every sample has, "frames" among it. ``fps``: frames a second of its clips; None for images. ``classes``: label ->
    names of its classes. ``banks``: bank -> number of its centres. ``extra`` goes into the manifest as it is (JSON).
    ``codec``: "jpeg" or "png" (lossless). Raises :class:`DataError` for a folder that holds something, a sample that
    lacks a field or breaks a convention of :class:`Sample`, a key written twice, and no sample at all.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        name: str,
        fields: Collection[str],
        split: str,
        licence: str,
        fps: float | None = None,
        classes: Mapping[str, Sequence[str]] | None = None,
        banks: Mapping[str, int] | None = None,
        extra: Mapping[str, Any] | None = None,
        codec: str = "jpeg",
        shard_bytes: int = 1 << 26,
    ) -> None:
        self.folder = Path(folder)
        self.classes = {label: list(names) for label, names in (classes or {}).items()}
        self.banks = dict(banks or {})
        self.codec = codec
        unknown = sorted(set(fields) - set(FIELDS))
        if unknown or "frames" not in fields:
            raise DataError(f"{folder}: fields {sorted(fields)} must hold 'frames' and be among {', '.join(FIELDS)}")
        if codec not in CODECS:
            raise DataError(f"{folder}: codec {codec!r} must be one of {', '.join(CODECS)}")
        if fps is not None and not 0 < fps < float("inf"):
            raise DataError(f"{folder}: {fps} frames a second; it must be a number above 0, or None for images")
        self.fields = tuple(field for field in FIELDS if field in fields)
        for field, given, what in (("labels", self.classes, "classes"), ("clusters", self.banks, "banks")):
            if (field in fields) != bool(given):
                raise DataError(f"{folder}: field {field!r} and {what} must be given together")
        self._shard_bytes = shard_bytes
        self._manifest = {
            "version": VERSION,
            "name": name,
            "fields": list(self.fields),
            "split": split,
            "licence": licence,
            "fps": fps,
            "classes": self.classes,
            "banks": self.banks,
            "codec": codec,
            "extra": dict(extra or {}),
        }
        self._keys: set[str] = set()
        self._frames = 0
        self._partial = self.folder.parent / f".{self.folder.name}.partial"

    def __enter__(self) -> SampleWriter:
        from streaming import MDSWriter  # seconds: see mds.py

        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise DataError(f"{self.folder}: already there and not empty; remove it or write to another folder")
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        columns = {"meta": "json", "times": "ndarray:float64"}
        for field in self.fields:
            columns |= _COLUMNS[field]
        self._writer = MDSWriter(
            out=str(self._partial), columns=columns, hashes=["sha256"], size_limit=self._shard_bytes, max_workers=1
        )
        return self

    def write(self, sample: Sample) -> None:
        """Append one sample. Its ``source`` is not stored: that is the name a recipe gives the dataset."""
        check_sample(sample, self.fields, self.classes, self.banks)
        if sample.key in self._keys:
            raise DataError(f"{self.folder}: key {sample.key!r} is written twice")
        self._writer.write(_encode(sample, self.fields, self.codec))
        self._keys.add(sample.key)
        self._frames += len(sample.frames)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or not self._keys:
            self._writer.cancel_future_jobs()
            shutil.rmtree(self._partial)
            if error is None:
                raise DataError(f"{self.folder}: no sample was written")
            return
        self._writer.finish()
        self._manifest |= {"samples": len(self._keys), "frames": self._frames}
        (self._partial / MANIFEST).write_text(json.dumps(self._manifest, indent=1) + "\n")
        os.replace(self._partial, self.folder)


class ShardReader:
    """A folder that :class:`SampleWriter` made, read by index. Pickles into loader workers; holds no open file.

    ``source``: the name that its samples carry; the dataset's own by default. ``fields``: what it offers.
    ``shard_sizes``: [shards] int64, samples a shard. ``manifest``: dataset.json. Opening verifies that every shard is
    there in its full size; :meth:`verify` hashes them. Raises :class:`DataError`, naming the file or the sample.
    """

    def __init__(self, folder: str | Path, source: str | None = None) -> None:
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder)
        self.source = source or str(self.manifest["name"])
        self.fields = frozenset(self.manifest["fields"])
        self._mds = MdsFolder(self.folder)
        self.shard_sizes = self._mds.shard_sizes
        if len(self._mds) != self.manifest["samples"]:
            raise DataError(
                f"{self.folder}: {len(self._mds)} samples in index.json, {self.manifest['samples']} in {MANIFEST}; "
                "the files belong to two datasets: make the folder again"
            )

    def __len__(self) -> int:
        return len(self._mds)

    def verify(self) -> None:
        """Compare every shard with its hash. Reads everything. Raises :class:`DataError` for the first damaged file."""
        self._mds.verify()

    def read(self, index: int, fields: Collection[str] | None = None, choose: ChooseFrames | None = None) -> Sample:
        """Sample ``index``, with ``fields`` (default: all that the dataset offers) decoded and the others empty.

        Without "frames" among the fields, ``Sample.frames`` is [T, 0, 0, 3]. ``choose`` sees the clip's times and
        names the frames to decode: everything that has a frame axis is cut to them, a text keeps its place if its
        frame is among them and is left out otherwise. An episode's actions stay whole.
        """
        wanted = wanted_fields(fields, self.fields, f"source {self.source!r} ({self.folder})")
        names = {"meta", "times"}.union(*(_COLUMNS[field] for field in wanted))
        columns = self._mds.columns(index, names)
        where = f"source {self.source!r} ({self.folder}): sample {index}"
        with _undamaged(where):
            meta = json.loads(columns["meta"])
            where = f"source {self.source!r} ({self.folder}): sample {meta['key']!r}"
        with _undamaged(where):
            times = decode_array(columns["times"], "float64")
            if times.shape != (meta["frames"],):
                raise ValueError(f"{times.shape} times of {meta['frames']} frames")
        chosen = choose_indices(choose, times, where)  # the caller's own errors are no damage
        with _undamaged(where):
            return _decode(columns, meta, times, chosen, self.source, where)

    def key(self, index: int) -> str:
        """The key of sample ``index``; nothing else of it is read."""
        with _undamaged(f"source {self.source!r} ({self.folder}): sample {index}"):
            return str(json.loads(self._mds.columns(index, {"meta"})["meta"])["key"])


@contextmanager
def _undamaged(where: str) -> Iterator[None]:
    """Whatever bytes that are not what was written make of the code that decodes them is one :class:`DataError`."""
    try:
        yield
    except DataError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, zstd.Error) as error:
        raise DataError(f"{where}: damaged ({error}); make the folder again") from error


def wanted_fields(fields: Collection[str] | None, offered: frozenset[str], where: str) -> frozenset[str]:
    """``fields``, or all that are ``offered`` if None. DataError that begins with ``where`` if one of them is not."""
    wanted = offered if fields is None else frozenset(fields)
    if lacking := sorted(wanted - offered):
        has = ", ".join(field for field in FIELDS if field in offered)
        raise DataError(f"{where} has no {', '.join(lacking)}; it has {has}")
    return wanted


def choose_indices(choose: ChooseFrames | None, times: np.ndarray, where: str) -> np.ndarray:
    """[t] int64, the frames that ``choose`` wants of a clip with these times; all without it.

    IndexError for frames that the clip does not have: the caller's mistake, not the data's.
    """
    indices = None if choose is None else choose(times)
    if indices is None:
        return np.arange(len(times))
    indices = np.asarray(indices, np.int64)
    if not len(indices) or indices[0] < 0 or indices[-1] >= len(times) or np.any(np.diff(indices) < 0):
        raise IndexError(f"{where}: frames {indices.tolist()} asked for; they must ascend within its {len(times)}")
    return indices


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{file}: no such file; the folder is not a dataset, or was not finished") from None
    except ValueError as error:
        raise DataError(f"{file}: not JSON ({error})") from error
    if manifest.get("version") != VERSION:
        raise DataError(f"{file}: version {manifest.get('version')!r} of the format; this program reads {VERSION}")
    return manifest


def _encode(sample: Sample, fields: Collection[str], codec: str) -> dict[str, Any]:
    count, height, width = sample.frames.shape[:3]
    row: dict[str, Any] = {
        "meta": {"key": sample.key, "frames": count, "height": height, "width": width, "metric": sample.metric},
        "times": np.asarray(sample.times, np.float64),
        "frames": [encode_image(frame, codec) for frame in sample.frames],
    }
    if "depth" in fields:
        assert sample.depth is not None  # check_sample
        # Byte planes: the exponents of neighbours are alike, the low bits of the mantissa are noise.
        planes = np.ascontiguousarray(sample.depth.astype("<f4").reshape(-1).view(np.uint8).reshape(-1, 4).T)
        row["depth"] = zstd.compress(planes.tobytes(), 3, 1)
        row["sky"] = b"" if sample.sky is None else zstd.compress(np.packbits(sample.sky).tobytes(), 3, 1)
    if "camera" in fields:
        assert sample.K is not None
        assert sample.c2w is not None
        row |= {"K": sample.K.astype(np.float32), "c2w": sample.c2w.astype(np.float64)}
    if sample.episode is not None:
        row |= {
            "instruction": sample.episode.instruction,
            "actions": sample.episode.actions.astype(np.float32),
            "proprio": sample.episode.proprio.astype("<f4").tobytes(),
            "steps": sample.episode.steps.astype(np.int64),
        }
    row["texts"] = [asdict(text) | {"boxes": text.boxes.tolist()} for text in sample.texts]
    row["clusters"] = {bank: centres.tolist() for bank, centres in sample.clusters.items()}
    row["labels"] = sample.labels
    return row


def _decode(
    columns: Mapping[str, bytes], meta: dict[str, Any], times: np.ndarray, chosen: np.ndarray, source: str, where: str
) -> Sample:
    count, height, width = meta["frames"], meta["height"], meta["width"]
    sample = Sample(
        key=meta["key"],
        source=source,
        frames=np.zeros((len(chosen), 0, 0, 3), np.uint8),
        times=times[chosen],
        metric=meta["metric"],
    )
    if "frames" in columns:
        sample.frames = _decode_frames(columns["frames"], chosen, (height, width, 3), where)
    if "depth" in columns:
        planes = np.frombuffer(zstd.decompress(columns["depth"]), np.uint8).reshape(4, -1)
        depth = np.ascontiguousarray(planes.T).view("<f4").reshape(count, height, width)
        sample.depth = depth[chosen]
        if columns["sky"]:
            bits = np.frombuffer(zstd.decompress(columns["sky"]), np.uint8)
            sky = np.unpackbits(bits, count=count * height * width).astype(bool)
            sample.sky = sky.reshape(count, height, width)[chosen]
    if "K" in columns:
        sample.K = decode_array(columns["K"], "float32")[chosen]
        sample.c2w = decode_array(columns["c2w"], "float64")[chosen]
    if "texts" in columns:
        place = {int(frame): at for at, frame in enumerate(chosen)}
        for text in json.loads(columns["texts"]):
            if text["frame"] in place:
                boxes = np.array(text.pop("boxes"), np.float32).reshape(-1, 4)
                sample.texts.append(Text(**text | {"frame": place[text["frame"]]}, boxes=boxes))
    if "clusters" in columns:
        banks = json.loads(columns["clusters"])
        sample.clusters = {bank: np.array(centres, np.int64) for bank, centres in banks.items()}
    if "labels" in columns:
        sample.labels = json.loads(columns["labels"])
    if "actions" in columns:
        actions = decode_array(columns["actions"], "float32")
        proprio = np.frombuffer(columns["proprio"], "<f4")
        sample.episode = Episode(
            instruction=columns["instruction"].decode(),
            actions=actions,
            proprio=proprio.reshape(len(actions), len(proprio) // len(actions)).copy(),
            steps=decode_array(columns["steps"], "int64")[chosen],
        )
    return sample


def _decode_frames(data: bytes, chosen: np.ndarray, shape: tuple[int, int, int], where: str) -> np.ndarray:
    """``jpeg_array``: uint32 count, uint32 sizes, then the files one after another. Only the chosen are decoded."""
    count = int(np.frombuffer(data, "<u4", 1)[0])
    sizes = np.frombuffer(data, "<u4", count, 4).astype(np.int64)
    ends = 4 + 4 * count + np.cumsum(sizes)
    frames = np.empty((len(chosen), *shape), np.uint8)
    for at, frame in enumerate(chosen):
        image = decode_image(data[ends[frame] - sizes[frame] : ends[frame]], f"{where}, frame {frame}")
        if image.shape != shape:
            raise DataError(f"{where}, frame {frame}: {image.shape[1]}x{image.shape[0]}, not {shape[1]}x{shape[0]}")
        frames[at] = image
    return frames
