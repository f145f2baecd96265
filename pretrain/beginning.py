"""Beginning from the weights of another run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from interlace.tasks.interface import Task

from .checkpoint import BadCheckpoint, Reader, newest
from .partitions import MOMENTS, WEIGHT
from .run_folder import RunFolder
from .save import CENTRES, STUDENT, TEACHERS, require_its_backbone
from .step import Parts


def begin_from(run: Path, parts: Parts, tasks: Mapping[str, Task]) -> None:
    """Begin with backbone, heads, teachers and centres of ``run``, as its newest checkpoint has them; Adam begins anew.

    Of two runs on a frozen backbone, which must be the same, one may train what the other leaves as it is. A task that
    ``run`` has not begins with parts of one that it has, where :attr:`Task.begins_with` says so, and its other parts
    stay as they were drawn. BadCheckpoint for another frozen backbone, and for weights that mean something else there.
    """
    path = newest(RunFolder(run).checkpoints)
    if path is None:
        raise BadCheckpoint(f"start_from: {run} holds no checkpoint")
    reader = Reader(path)
    require_its_backbone(reader, parts)
    theirs: Mapping[str, Mapping[str, str]] = reader.state.get("tasks", {})  # older ones do not say
    renamed: dict[str, str] = {}
    own: set[str] = set()
    for name, task in tasks.items():
        giver = name if name in theirs else next((each for each in task.begins_with if each in theirs), None)
        if giver is None:
            continue
        _require_its_meaning(path, giver, theirs[giver], name, task.fingerprints())
        if giver != name:
            taken = task.begins_with[giver]
            renamed |= {f"tasks.{giver}.{part}": f"tasks.{name}.{part}" for part in taken}
            own |= {f"tasks.{name}.{each}" for each, _ in task.named_parameters() if each.split(".")[0] not in taken}
    weights = _weights(reader.tensors(STUDENT), renamed)
    parts.engine.load_state(_with_moments(weights, parts.engine.trained), 0, begun=own)
    parts.teachers.load_state(reader.tensors(TEACHERS))
    parts.centres.load_state(_fresh_moments(reader.tensors(CENTRES)), 0)


def _require_its_meaning(path: Path, giver: str, theirs: Mapping[str, str], name: str, ours: Mapping[str, str]) -> None:
    for what, digest in ours.items():
        if theirs.get(what) != digest:
            raise BadCheckpoint(
                f"{path}: its {giver} was trained with another {what} than {name} has here (hashes differ); "
                f"name that {what} in the recipe"
            )


def _weights(stream: Iterable[tuple[str, Tensor]], renamed: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    """Names and weights of a state; those of parts in ``renamed`` under their names here."""
    for label, tensor in stream:
        kind, _, name = label.partition("/")
        if kind == WEIGHT:
            part = next((part for part in renamed if f"{name}.".startswith(f"{part}.")), "")
            yield renamed.get(part, "") + name.removeprefix(part), tensor


def _with_moments(weights: Iterable[tuple[str, Tensor]], trained: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """A state of these weights, with zeros as the moments of those that are trained from here on."""
    for name, tensor in weights:
        yield f"{WEIGHT}/{name}", tensor
        if name in trained:
            for moment in MOMENTS:
                yield f"{moment}/{name}", torch.zeros_like(tensor)


def _fresh_moments(stream: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    for label, tensor in stream:
        yield label, tensor if label.startswith(f"{WEIGHT}/") else torch.zeros_like(tensor)
