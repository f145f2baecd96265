"""Checkpoints: full tensors in safetensors, whole or absent, readable at any world size and ZeRO stage."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from interlace.backbone.folder import write_tensors

MANIFEST = "manifest.json"
#: A file is closed once it holds this much, so that the writing rank never holds a whole large model.
FILE_BYTES = 2 << 30


class BadCheckpoint(ValueError):
    """A checkpoint that cannot be read, or does not fit the run that wants it."""


class Writer:
    """Writes one checkpoint folder: tensors as they come, the manifest last, then the final name.

    Until :meth:`commit` nothing but a folder named ``.partial-*`` exists, and the newest checkpoint stays newest.
    """

    def __init__(self, root: Path, step: int) -> None:
        self.final = root / f"step_{step:08d}"
        self.folder = root / f".partial-{self.final.name}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._files: dict[str, dict[str, Any]] = {}

    def tensors(self, group: str, named: Iterable[tuple[str, Tensor]]) -> None:
        """Write ``named`` as ``group-00000.safetensors``, ``group-00001...`` of at most :data:`FILE_BYTES` each."""
        held: dict[str, Tensor] = {}
        size = number = 0
        for name, tensor in named:
            held[name] = tensor.detach().to("cpu", copy=True).contiguous()
            size += held[name].nbytes
            if size >= FILE_BYTES:
                self._write(group, number, held)
                held, size, number = {}, 0, number + 1
        self._write(group, number, held)

    def commit(self, state: dict[str, Any]) -> Path:
        """Write the manifest with ``state`` (JSON), make everything durable, and give the folder its name."""
        manifest = {"state": state, "files": self._files}
        path = self.folder / MANIFEST
        path.write_text(json.dumps(manifest, indent=1))
        _sync(path)
        _sync(self.folder)
        if self.final.exists():
            shutil.rmtree(self.final)
        os.replace(self.folder, self.final)
        _sync(self.final.parent)
        return self.final

    def _write(self, group: str, number: int, held: dict[str, Tensor]) -> None:
        path = self.folder / f"{group}-{number:05d}.safetensors"
        write_tensors(held, path)
        _sync(path)
        self._files[path.name] = {"group": group, "bytes": path.stat().st_size, "sha256": _digest(path)}


class Reader:
    """Reads a checkpoint folder; sizes are checked at once, hashes too. Raises :class:`BadCheckpoint`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / MANIFEST
        if not path.is_file():
            raise BadCheckpoint(f"{folder} is no checkpoint: it has no {MANIFEST}")
        manifest = json.loads(path.read_text())
        self.state: dict[str, Any] = manifest["state"]
        self._files: dict[str, dict[str, Any]] = manifest["files"]
        for name, facts in self._files.items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != facts["bytes"] or _digest(file) != facts["sha256"]:
                raise BadCheckpoint(f"{file} is missing or damaged; resume from an earlier checkpoint")

    def tensors(self, group: str) -> Iterator[tuple[str, Tensor]]:
        """The (name, tensor) pairs of a group, one at a time, on the CPU."""
        return ((key, file.get_tensor(key)) for key, file in self._entries(group))

    def shapes(self, group: str) -> Iterator[tuple[str, list[int]]]:
        """The names and shapes of a group; no tensor is read."""
        return ((key, file.get_slice(key).get_shape()) for key, file in self._entries(group))

    def _entries(self, group: str) -> Iterator[tuple[str, Any]]:
        for name, facts in self._files.items():
            if facts["group"] == group:
                with safe_open(self.folder / name, framework="pt") as file:
                    for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                        yield key, file

    def groups(self) -> set[str]:
        """The groups this checkpoint holds."""
        return {facts["group"] for facts in self._files.values()}


def newest(root: Path) -> Path | None:
    """The newest complete checkpoint under ``root``, or None."""
    found = sorted(path.parent for path in root.glob(f"step_*/{MANIFEST}"))
    return found[-1] if found else None


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints, and what cut saves left behind."""
    for stale in root.glob(".partial-*"):
        shutil.rmtree(stale)
    for old in sorted(root.glob("step_*"))[:-keep]:
        shutil.rmtree(old)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk: a rename may outlive a crash that its contents did not."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
