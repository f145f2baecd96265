"""Tar shards as people have them (webdataset, img2dataset): images or videos with .txt or .json beside them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .mds import read_exactly
from .media import DataError, decode_image
from .sample import Sample, Text
from .shards import ChooseFrames, choose_indices, wanted_fields
from .video import Video

IMAGES = ("jpg", "jpeg", "png", "webp")
VIDEOS = ("mp4", "webm", "mkv", "mov", "avi")
CAPTIONS = ("caption", "human_caption", "model_caption", "text")
PROMPT = "Describe what you see."

_BLOCK = 512


@dataclass
class _Member:
    """Where the files of one sample lie in its tar: extension -> (offset, bytes)."""

    key: str
    files: dict[str, tuple[int, int]] = field(default_factory=dict)


class TarReader:
    """A folder of uncompressed ``*.tar`` files, or one such file, read by index.

    The headers of every tar are read at opening, files of one key (the path up to its name's first dot) are one
    sample, and a tar that is cut short or has a broken header is a :class:`DataError`: nothing is left out. A sample is
    an image (T = 1, EXIF rotation not applied) or a video (all its frames, unless ``choose`` says which). Its key is
    "tar/key". Its caption is the ``.txt``, else the first of :data:`CAPTIONS` in the ``.json``; without one it has no
    texts.
    ``fields``: "frames", and "texts" if any sample has a .txt or .json.
    """

    def __init__(self, path: str | Path, source: str) -> None:
        self.path, self.source = Path(path), source
        self._tars = sorted(self.path.glob("*.tar")) if self.path.is_dir() else [self.path]
        if not self._tars or not self._tars[0].is_file():
            raise DataError(f"{path}: no .tar file here (compressed tars cannot be read by index: unpack them)")
        found = [_members(tar) for tar in self._tars]
        self.shard_sizes = np.array([len(members) for members in found], np.int64)
        self._members = [member for members in found for member in members]
        self._ends = np.cumsum(self.shard_sizes)
        texts = any("txt" in member.files or "json" in member.files for member in self._members)
        self.fields = frozenset({"frames", "texts"} if texts else {"frames"})

    def __len__(self) -> int:
        return len(self._members)

    def read(self, index: int, fields: Collection[str] | None = None, choose: ChooseFrames | None = None) -> Sample:
        """As :meth:`interlace.data_recipes.shards.ShardReader.read`."""
        wanted = wanted_fields(fields, self.fields, f"source {self.source!r} ({self.path})")
        member, tar, key = self._members[index], self._tar(index), self.key(index)
        where = f"source {self.source!r} ({tar}): sample {key!r}"
        sample = Sample(key=key, source=self.source, frames=np.zeros((1, 0, 0, 3), np.uint8), times=np.zeros(1))
        self._read_frames(sample, tar, member, "frames" in wanted, choose, where)
        if "texts" in wanted and (caption := _caption(tar, member, where)):
            # It tells of the whole clip, so of whatever frames were chosen, up to the last.
            sample.texts = [Text(kind="caption", prompt=PROMPT, answer=caption, frame=len(sample.times) - 1)]
        return sample

    def key(self, index: int) -> str:
        """The key of sample ``index``, known since opening."""
        return f"{self._tar(index).stem}/{self._members[index].key}"

    def _tar(self, index: int) -> Path:
        return self._tars[int(np.searchsorted(self._ends, index, side="right"))]

    def _read_frames(
        self, sample: Sample, tar: Path, member: _Member, decode: bool, choose: ChooseFrames | None, where: str
    ) -> None:
        extension = next(extension for extension in member.files if extension in IMAGES + VIDEOS)
        if extension in IMAGES:
            times = np.zeros(1)
            chosen = choose_indices(choose, times, where)
            frames = decode_image(_payload(tar, member, extension, where), where)[None][chosen] if decode else None
        else:
            video = Video(_payload(tar, member, extension, where), where)
            times = video.times
            chosen = choose_indices(choose, times, where)
            frames = video.read(chosen) if decode else None
        sample.times = times[chosen]
        sample.frames = np.zeros((len(chosen), 0, 0, 3), np.uint8) if frames is None else frames


def _members(tar: Path) -> list[_Member]:
    """The samples of one tar in the order of their first files. Raises :class:`DataError` naming the tar."""
    members: dict[str, _Member] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for info in archive:
                if not info.isfile():
                    continue
                folder, _, file = info.name.rpartition("/")
                stem, _, extension = file.partition(".")
                key, extension = f"{folder}/{stem}".removeprefix("./").removeprefix("/"), extension.lower()
                files = members.setdefault(key, _Member(key)).files
                if extension in files:
                    raise DataError(f"{tar}: two files {info.name!r}")
                files[extension] = (info.offset_data, info.size)
            end = archive.offset
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{tar}: broken tar ({error}); copy or make it again") from error
    # tarfile takes a damaged header, and a file that ends between two members, for the end of the archive.
    with open(tar, "rb") as stream:
        stream.seek(end)
        if stream.read(_BLOCK) != bytes(_BLOCK):
            raise DataError(f"{tar}: broken tar (no header and no end mark at byte {end}); copy or make it again")
    for member in members.values():
        if sum(extension in IMAGES + VIDEOS for extension in member.files) != 1:
            raise DataError(f"{tar}: key {member.key!r} has {', '.join(member.files)}; one must be an image or a video")
    return list(members.values())


def _payload(tar: Path, member: _Member, extension: str, where: str) -> bytes:
    offset, size = member.files[extension]
    try:
        with open(tar, "rb", buffering=0) as stream:
            stream.seek(offset)
            data = read_exactly(stream, size)
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror})") from error
    if len(data) != size:
        raise DataError(f"{where}: the tar is shorter than when it was opened; copy it again")
    return data


def _caption(tar: Path, member: _Member, where: str) -> str | None:
    try:
        if "txt" in member.files:
            return _payload(tar, member, "txt", where).decode().strip() or None
        if "json" not in member.files:
            return None
        found: Any = json.loads(_payload(tar, member, "json", where))
    except ValueError as error:
        raise DataError(f"{where}: its text is not UTF-8, or its JSON broken ({error})") from error
    if not isinstance(found, Mapping):
        raise DataError(f"{where}: its .json is not an object")
    return next(
        (found[key].strip() for key in CAPTIONS if isinstance(found.get(key), str) and found[key].strip()), None
    )
