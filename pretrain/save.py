"""A run's state on disk: checkpoints to go on from, and the backbone and heads to hand over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from interlace import backbone as backbones
from interlace.backbone.folder import write_tensors
from interlace.backbone.frozen import REFERENCE, write_reference
from interlace.data_recipes.feed import Feed
from interlace.data_recipes.schema import Recipe
from interlace.tasks.interface import Task

from .checkpoint import BadCheckpoint, Reader, Writer, prune
from .ranks import Ranks
from .run_folder import RunFolder
from .step import Parts

#: Groups of a checkpoint: the student with Adam's moments, the teachers, the centres with theirs.
STUDENT, TEACHERS, CENTRES = "student", "teachers", "centres"


def save_checkpoint(
    folder: RunFolder,
    parts: Parts,
    tasks: Mapping[str, Task],
    recipe: Recipe,
    step: int,
    cursors: object,
    ranks: Ranks,
) -> None:
    """Write the state after ``step`` steps; all ranks take part, the first writes.

    It is all there is: every random draw is keyed by the seed and what is drawn, so no generator has a state.
    ``cursors``: where every source stands, JSON.
    """
    writer = Writer(folder.checkpoints, step) if ranks.first else None
    streams: dict[str, Iterator[tuple[str, Tensor]]] = {
        STUDENT: parts.engine.state(),
        TEACHERS: parts.teachers.state(),
        CENTRES: parts.centres.state(),
    }
    for group, stream in streams.items():
        if writer is not None:
            writer.tensors(group, stream)
        else:
            for _ in stream:  # every tensor is assembled by all ranks together
                pass
    if writer is not None:
        state = {
            "step": step,
            "recipe": recipe.digest(),
            "seed": recipe.seed,
            "world": ranks.world,
            "adam_steps": {STUDENT: parts.engine.adam_steps, CENTRES: parts.centres.adam_steps},
            "cursors": cursors,
            "frozen_backbone": parts.frozen.sha256 if parts.frozen else None,
            "tasks": {name: task.fingerprints() for name, task in tasks.items()},
        }
        writer.commit(state)
        prune(folder.checkpoints, recipe.engine.keep)
    dist.barrier()


def load_checkpoint(path: Path, parts: Parts, digest: str, feeds: Mapping[str, Feed]) -> int:
    """Go on from a checkpoint of this recipe and data; the ranks and the ZeRO stage may differ. Returns its step."""
    reader = Reader(path)
    if reader.state["recipe"] != digest:
        raise BadCheckpoint(
            f"{path} was made with another recipe (the run's recipe.yaml shows it): resuming must change nothing that "
            "decides the weights; to begin anew from its weights, set start_from in a new run"
        )
    require_its_backbone(reader, parts.frozen.sha256 if parts.frozen else None)
    step = int(reader.state["step"])
    for task, sources in reader.state["cursors"].items():
        for source, cursor in feeds[task].cursors(step).items():
            before = sources[source]
            if any(cursor[key] != value for key, value in before.items()):  # older ones have no "order"
                raise BadCheckpoint(
                    f"source {source!r} of task {task!r} has {cursor['samples']} samples, and had {before['samples']}, "
                    f"or has them in other shards than when {path} was made: the order of samples would change"
                )
    steps = reader.state["adam_steps"]
    parts.engine.load_state(reader.tensors(STUDENT), steps[STUDENT])
    parts.teachers.load_state(reader.tensors(TEACHERS))
    parts.centres.load_state(reader.tensors(CENTRES), steps[CENTRES])
    return step


def require_its_backbone(reader: Reader, ours: str | None) -> None:
    """BadCheckpoint unless both train their backbone, or have frozen the same, whose hash here is ``ours``.

    A checkpoint of a run on a frozen backbone holds the backbone's hash in place of its weights.
    """
    theirs = reader.state.get("frozen_backbone")
    if theirs == ours:
        return
    if ours is None or theirs is None:
        here, there = ("trained", "frozen") if ours is None else ("frozen", "trained")
        raise BadCheckpoint(
            f"{reader.folder}: the backbone is {there} there and {here} here; set backbone.frozen alike, or begin from "
            "that run's backbone alone with backbone.init"
        )
    raise BadCheckpoint(f"{reader.folder} belongs to another frozen backbone than backbone.init names (hashes differ)")


def export(folder: RunFolder, parts: Parts, recipe: Recipe, ranks: Ranks) -> None:
    """Write ``backbone/`` and ``heads/TASK.safetensors`` with their configurations, fp32, whole or not at all.

    Of a frozen backbone ``backbone.json`` says which it was.
    """
    with parts.engine.full_parameters() as student:
        if ranks.first:
            if parts.frozen is not None and recipe.backbone.init is not None:
                where, config = recipe.backbone.init, student.backbone.config
                write_reference(folder.root / REFERENCE, where, config, parts.frozen.sha256)
            else:
                _replace(folder.root / "backbone", lambda target: backbones.save(student.backbone, target))
            _replace(folder.root / "heads", lambda target: _write_heads(target, student.tasks.items(), recipe))
    dist.barrier()


def _write_heads(target: Path, tasks: Iterable[tuple[str, torch.nn.Module]], recipe: Recipe) -> None:
    target.mkdir()
    for name, task in tasks:
        state = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in task.state_dict().items()}
        write_tensors(state, target / f"{name}.safetensors")
        (target / f"{name}.json").write_text(json.dumps(recipe.tasks[name].options.model_dump(mode="json"), indent=1))


def load_heads(folder: Path, task: torch.nn.Module, name: str) -> None:
    """Read ``heads/NAME.safetensors`` of a run into a task of the same options. Names must match exactly."""
    task.load_state_dict(load_file(folder / f"{name}.safetensors"), strict=True)


def _replace(target: Path, write: Callable[[Path], None]) -> None:
    """Write a folder beside ``target`` and swap it in: a reader sees the old one or the new one."""
    fresh = target.with_name(f".new-{target.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    write(fresh)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
