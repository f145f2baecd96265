"""LLaVA's conversations as people have them: JSON, JSON lines or Parquet, with images and videos beside them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .media import DataError, decode_image, read_bytes
from .sample import Sample, Text
from .shards import ChooseFrames, choose_indices, wanted_fields
from .video import Video

#: Who asks and who answers, in the two spellings that are about.
ASKS, ANSWERS = ("human", "user"), ("gpt", "assistant")
#: Where the picture goes in a text. It is taken out: a model puts its visual tokens where it wants them.
PLACES = ("<image>", "<video>")
#: Where paths are looked for, from the conversations' own folder on.
BESIDE = (".", "images", "videos")

Row = Mapping[str, Any]


class Rows(Protocol):
    """The rows of one file by number, in shards that are cheap to read together."""

    shard_sizes: np.ndarray

    def __getitem__(self, index: int) -> Row: ...


class LlavaReader:
    """Conversations by index: a ``.json`` list, a ``.jsonl``, a ``.parquet``, or a folder of Parquet files, which may
    lie in folders of their own, as the hub's downloads have them.

    A row has ``conversations`` (``from``/``value`` or ``role``/``content``, human and model in turn; what a model says
    before the first question, and a last question without an answer, are left out) and an ``image`` (a path beside the
    file or in ``images/``, or Parquet's bytes), a ``video`` (a path) or neither. Every answered question is a
    :class:`Text` of kind "turn" about the last frame; a row without a picture has no frames. The key is "file/number",
    folders before the file, with the row's ``id`` behind it. Raises :class:`DataError` that names file and row.
    """

    fields = frozenset({"frames", "texts"})

    def __init__(self, path: str | Path, source: str) -> None:
        self.path, self.source = Path(path), source
        files = sorted(self.path.rglob("*.parquet")) if self.path.is_dir() else [self.path]
        if not files or not files[0].is_file():
            raise DataError(f"{path}: no conversations here; expected a .json, .jsonl or .parquet file, or Parquets")
        kinds: dict[str, Callable[[Path], Rows]] = {".json": JsonRows, ".jsonl": JsonRows, ".parquet": ParquetRows}
        if unknown := [file for file in files if file.suffix not in kinds]:
            raise DataError(f"{unknown[0]}: not a .json, .jsonl or .parquet file")
        self._files = files
        self._rows: list[Rows] = [kinds[file.suffix](file) for file in files]
        self.shard_sizes = np.concatenate([rows.shard_sizes for rows in self._rows])
        self._ends = np.cumsum([int(rows.shard_sizes.sum()) for rows in self._rows])
        if not self._ends[-1]:
            raise DataError(f"{path}: no conversation in it")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int, fields: Collection[str] | None = None, choose: ChooseFrames | None = None) -> Sample:
        """As :meth:`interlace.data_recipes.shards.ShardReader.read`."""
        wanted = wanted_fields(fields, self.fields, f"source {self.source!r} ({self.path})")
        file, place, row = self._row(index)
        where = f"source {self.source!r} ({file}): row {place}"
        sample = Sample(
            key=self._key(file, place, row),
            source=self.source,
            frames=np.zeros((0, 0, 0, 3), np.uint8),
            times=np.zeros(0),
        )
        _read_picture(sample, row, file.parent, "frames" in wanted, choose, where)
        if "texts" in wanted:
            last = max(len(sample.times) - 1, 0)
            turns = _turns(row, where)
            sample.texts = [Text(kind="turn", prompt=asked, answer=said, frame=last) for asked, said in turns]
        return sample

    def key(self, index: int) -> str:
        """The key of sample ``index``, for which its row is read."""
        return self._key(*self._row(index))

    def _row(self, index: int) -> tuple[Path, int, Row]:
        """The file of a sample, its place there, and its row."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        place = index - (int(self._ends[number - 1]) if number else 0)
        file, row = self._files[number], self._rows[number][place]
        if not isinstance(row, Mapping):
            raise DataError(f"source {self.source!r} ({file}): row {place}: not an object with conversations")
        return file, place, row

    def _key(self, file: Path, place: int, row: Row) -> str:
        name = file.relative_to(self.path).with_suffix("").as_posix() if self.path.is_dir() else file.stem
        return f"{name}/{place:08d}" + (f"-{row['id']}" if row.get("id") is not None else "")


class JsonRows:
    """A JSON list, or an object a line, by the bytes each row has in the file: opening reads it once and keeps none."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            found = list(_list_items(file) if file.suffix == ".json" else _lines(file))
        except ValueError as error:
            raise DataError(f"{file}: not {file.suffix[1:]} of conversations ({error})") from error
        self._places = np.array(found, np.int64).reshape(-1, 2)
        self.shard_sizes = np.array([len(self._places)], np.int64)

    def __getitem__(self, index: int) -> Row:
        begin, end = self._places[index].tolist()
        try:
            with self._file.open("rb") as stream:
                stream.seek(begin)
                row: Row = json.loads(stream.read(end - begin))
        except OSError as error:
            raise DataError(f"{self._file}: row {index}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise DataError(f"{self._file}: row {index}: broken JSON, or changed since ({error})") from error
        return row


class ParquetRows:
    """A Parquet file's rows; its row groups are the shards, a few of which are kept."""

    def __init__(self, file: Path) -> None:
        self._file = file
        metadata = _parquet(file).metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.shard_sizes = np.array(sizes, np.int64)
        self._ends = np.cumsum(self.shard_sizes)
        self._held: dict[int, Any] = {}

    def __getitem__(self, index: int) -> Row:
        group = int(np.searchsorted(self._ends, index, side="right"))
        try:
            if group not in self._held:
                self._held = {**dict(list(self._held.items())[-3:]), group: _parquet(self._file).read_row_group(group)}
            table = self._held[group]
            row: Row = table.slice(index - int(self._ends[group] - self.shard_sizes[group]), 1).to_pylist()[0]
        except DataError:
            raise
        except (OSError, ValueError) as error:
            raise DataError(f"{self._file}: row {index}: broken Parquet, or changed since ({error})") from error
        return row

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": {}}


def _parquet(file: Path) -> Any:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(f"{file}: reading Parquet needs a package that is missing: pip install pyarrow") from None
    try:
        return parquet.ParquetFile(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not a Parquet file ({error})") from error


def _list_items(file: Path) -> Iterator[tuple[int, int]]:
    """(begin, end) in bytes of every item of a JSON list."""
    text = file.read_bytes().decode()
    decoder, at, passed = json.JSONDecoder(), _after_space(text, 0), 0
    if text[at : at + 1] != "[":
        raise ValueError("it does not begin with a list")
    begin = _after_space(text, at + 1)
    bytes_before = len(text[:begin].encode())
    while text[begin : begin + 1] != "]":
        _, end = decoder.raw_decode(text, begin)
        size = len(text[begin:end].encode())
        yield bytes_before, bytes_before + size
        passed = _after_space(text, end)
        if text[passed : passed + 1] == ",":
            passed = _after_space(text, passed + 1)
        elif text[passed : passed + 1] != "]":
            raise ValueError(f"no , or ] at character {passed}")
        bytes_before += size + len(text[end:passed].encode())
        begin = passed


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _lines(file: Path) -> Iterator[tuple[int, int]]:
    at = 0
    with file.open("rb") as stream:
        for line in stream:
            if line.strip():
                yield at, at + len(line)
            at += len(line)


def _read_picture(
    sample: Sample, row: Row, folder: Path, decode: bool, choose: ChooseFrames | None, where: str
) -> None:
    image, video = row.get("image"), row.get("video")
    if isinstance(image, list) and len(image) == 1:
        image = image[0]
    if isinstance(image, list):
        raise DataError(f"{where}: {len(image)} images; conversations about one image or one video can be read")
    if image is not None and video is not None:
        raise DataError(f"{where}: an image and a video; expected one of them")
    if image is not None:
        sample.times = np.zeros(1)
        if decode:
            data, name = _image_bytes(image, folder, where)
            sample.frames = decode_image(data, name)[None]
    elif video is not None:
        film = Video(_beside(video, folder, where), f"{where}: {video}")
        chosen = choose_indices(choose, film.times, where)
        sample.times = film.times[chosen]
        if decode:
            sample.frames = film.read(chosen)
    if not decode:
        sample.frames = np.zeros((len(sample.times), 0, 0, 3), np.uint8)


def _image_bytes(image: object, folder: Path, where: str) -> tuple[bytes, str]:
    """``image``: a path, or Parquet's ``{"bytes", "path"}``."""
    if isinstance(image, Mapping) and isinstance(image.get("bytes"), bytes):
        return image["bytes"], where
    path = image.get("path") if isinstance(image, Mapping) else image
    file = _beside(path, folder, where)
    return read_bytes(file), f"{where}: {file}"


def _beside(path: object, folder: Path, where: str) -> Path:
    if not isinstance(path, str) or not path:
        raise DataError(f"{where}: its picture is {path!r}, not a path")
    found = next((folder / each / path for each in BESIDE if (folder / each / path).is_file()), None)
    if found is None:
        raise DataError(f"{where}: {path}: no such file in {folder}, its images/ or its videos/")
    return found


def _turns(row: Row, where: str) -> list[tuple[str, str]]:
    said = row.get("conversations", row.get("messages"))
    if not isinstance(said, list):
        raise DataError(f"{where}: no conversations")
    turns: list[tuple[str, str]] = []
    asked: str | None = None
    for number, message in enumerate(said):
        who, text = _message(message, f"{where}: message {number}")
        if who in ASKS and asked is None:
            asked = text
        elif who in ANSWERS and asked is not None:
            turns.append((asked, text.strip()))
            asked = None
        elif who in ASKS or (who in ANSWERS and turns):
            raise DataError(f"{where}: message {number}: two of {who!r} one after the other")
        elif who not in ANSWERS:
            raise DataError(f"{where}: message {number}: from {who!r}; known are {', '.join(ASKS + ANSWERS)}")
    return turns


def _message(message: object, where: str) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise DataError(f"{where}: not an object with from and value")
    who, text = message.get("from", message.get("role")), message.get("value", message.get("content"))
    if not isinstance(who, str) or not isinstance(text, str):
        raise DataError(f"{where}: not an object with from and value")
    for place in PLACES:
        text = text.replace(place, "")
    return who, text.strip()
