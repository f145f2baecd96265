"""Memory and days of a recipe on somebody's machines, before anything is launched. For ``interlace check``.

Bytes of state follow from the recipe (:mod:`interlace.pretrain.state_bytes`). Activations and operations are those of
the tasks' own code (:mod:`.rehearsal`); how much of a GPU's speed training reaches is the caller's assumption.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from rich.table import Table

from interlace.backbone import FrozenBackbone
from interlace.data_recipes.check import TaskRow
from interlace.data_recipes.schema import Recipe
from interlace.pretrain.groups import parameter_groups
from interlace.pretrain.state_bytes import StateBytes, centre_bytes, state_bytes, teacher_bytes
from interlace.pretrain.train import part_rates
from interlace.tasks.interface import Task

from .rehearsal import MOST, Mix, Rehearsal, Stage
from .tables import plain_table

GB, SECONDS_A_DAY = 1e9, 86_400
#: Items of a GPU's memory that are estimates; the others follow from shapes.
BUFFERS, ACTIVATIONS = "communication buffers, at most", "activations"


@dataclass(frozen=True)
class Machines:
    """``memory``: GB of one GPU; ``tflops``: of one GPU, in the precision of training; ``utilisation``: the share of
    them that training reaches, recomputed operations counted."""

    gpus: int
    memory: float | None = None
    tflops: float | None = None
    utilisation: float = 0.35


@dataclass(frozen=True)
class Prediction:
    """``held``: bytes on one GPU by item, ``host``: in its host's memory, of a rank. ``flops``: of a step over all
    ranks, by task. ``largest``: the task and the micro-batch of one rank that ``held``'s activations are of.
    ``left_out``: tasks of which only the state is known."""

    held: dict[str, int]
    host: int
    flops: dict[str, int]
    largest: tuple[str, Mix] | None
    left_out: tuple[str, ...]


def predict(
    recipe: Recipe, rows: Sequence[TaskRow], gpus: int | None, say: Callable[[str], None] = lambda line: None
) -> Prediction:
    """Of ``recipe``, whose :func:`~interlace.data_recipes.check.summary` is ``rows``.

    Without ``gpus``, at once: the state alone, as one rank without ZeRO would hold it. ``say`` is told what is
    rehearsed, which takes seconds each.
    """
    stage = Stage(recipe, gpus or 1)
    held, host = _state(recipe, stage, gpus)
    if gpus is None:
        return Prediction(held, host, {}, None, ())
    flops, peaks = {}, {}
    left_out = tuple(row.task for row in rows if _task(stage, row.task).largest_sample(False) is None)
    for row in rows:
        if row.task in left_out:
            continue
        clips = sum(source.share for source in row.sources if not source.still)
        say(f"rehearsing {row.task}")
        whole = _mix(-(-recipe.tasks[row.task].batch // gpus), clips)
        mix = _mix(min(len(whole), MOST), clips)
        done = stage.rehearse(row.task, mix)
        image = stage.rehearse(row.task, Mix(1, 0)) if 0 < clips < 1 else None
        flops[row.task] = round(row.samples * _a_sample(done, image, mix, clips))
        peaks[row.task] = (round(done.casts + (done.peak - done.casts) * len(whole) / len(mix)), whole)
    if not peaks:
        return Prediction(held, host, flops, None, left_out)
    largest = max(peaks, key=lambda name: peaks[name][0])
    held[ACTIVATIONS] = peaks[largest][0]
    return Prediction(held, host, flops, (largest, peaks[largest][1]), left_out)


def _mix(samples: int, clips: float) -> Mix:
    """So many samples, with no fewer clips than their share, and an image where there are any."""
    count = min(math.ceil(samples * clips - 1e-9), samples)
    return Mix(samples - count, count)


def _a_sample(done: Rehearsal, image: Rehearsal | None, mix: Mix, clips: float) -> float:
    """Operations of the average sample, of a rehearsed mix and of an image alone."""
    if image is None:
        return done.flops / len(mix)
    clip = (done.flops - mix.images * image.flops) / mix.clips
    return clips * clip + (1 - clips) * image.flops


def _task(stage: Stage, name: str) -> Task:
    return cast(Task, stage.student.tasks[name])


def _state(recipe: Recipe, stage: Stage, gpus: int | None) -> tuple[dict[str, int], int]:
    """Bytes by item on the GPU, and in the host's memory."""
    zero, world = recipe.engine.zero, gpus or 1
    level = zero.stage if gpus else 0
    named = dict(stage.student.named_parameters())
    groups = parameter_groups(named, part_rates(recipe))
    found: StateBytes = state_bytes(
        [[weight.numel() for weight in group] for _, group in groups],
        [weight.numel() for weight in named.values() if not weight.requires_grad],
        stage=level,
        offload=zero.offload == "cpu" and level > 0,
        world=world,
    )
    held = {
        "parameters, fp32": found.parameters,
        "ZeRO's masters": found.masters,
        "gradients": found.gradients,
        "Adam's moments": found.moments,
    }
    backbone = stage.student.backbone
    if isinstance(backbone, FrozenBackbone):
        held["frozen backbone"] = sum(tensor.nbytes for tensor in backbone.parameters())
    for name, teacher in stage.teachers.items():
        if teacher is not None:
            sizes = [weight.numel() for weight in teacher.parameters()]
            held[f"teachers of {name}"] = teacher_bytes(sizes, stage=level, world=world)
    for name in recipe.tasks:
        for shard in _task(stage, name).sharded():
            width = shard.local.shape[1]
            held[f"{name}: {shard.name} centres, with Adam"] = centre_bytes(shard.rows, width, world=world)
    if gpus:
        held[BUFFERS] = found.buffers
    return {item: size for item, size in held.items() if size}, found.host


def prediction_tables(prediction: Prediction, machines: Machines | None) -> list[Table]:
    """Operations by task, and memory by item."""
    where = f"GB on each of {machines.gpus:,} GPUs" if machines else "GB, on one GPU and without ZeRO"
    memory = plain_table("part", where)
    for item, size in prediction.held.items():
        memory.add_row(item if item != ACTIVATIONS else f"{item} ({_of(prediction)})", f"{size / GB:,.2f}")
    memory.add_row("together", f"{sum(prediction.held.values()) / GB:,.2f}")
    if not prediction.flops:
        return [memory]
    tasks = plain_table("task", "TFLOP a step")
    for name, flops in prediction.flops.items():
        tasks.add_row(name, f"{flops / 1e12:,.4g}")
    tasks.add_row("together", f"{sum(prediction.flops.values()) / 1e12:,.4g}")
    return [tasks, memory]


def _of(prediction: Prediction) -> str:
    assert prediction.largest is not None
    task, mix = prediction.largest
    counts = (("image", mix.images), ("clip", mix.clips))
    kinds = [f"{count} {kind}{'s' * (count > 1)}" for kind, count in counts if count]
    return f"{task}, {' and '.join(kinds)}: an estimate"


def prediction_lines(prediction: Prediction, recipe: Recipe, machines: Machines | None) -> list[str]:
    """What follows, and what all of it rests on."""
    lines = [f"{name}: state only; its operations and activations are left out" for name in prediction.left_out]
    if machines is None:
        return [*lines, "--gpus, --gpu-memory and --tflops predict activations, operations and days"]
    if prediction.host:
        total = prediction.host * machines.gpus / GB
        lines.append(f"offloaded to the hosts: {prediction.host / GB:,.2f} GB a GPU, {total:,.0f} GB together")
    if machines.memory is not None:
        needed = sum(prediction.held.values()) / GB
        verdict = "fits" if needed <= machines.memory else "does not fit"
        lines.append(f"memory: {needed:,.1f} of {machines.memory:g} GB: {verdict}, without what fragmentation takes")
    if prediction.largest is not None and prediction.largest[1].images and prediction.largest[1].clips:
        lines.append("a rank may draw more clips than their share, and then needs more")
    if machines.tflops is not None:
        seconds = sum(prediction.flops.values()) / (machines.gpus * machines.tflops * 1e12 * machines.utilisation)
        days = seconds * recipe.engine.steps / SECONDS_A_DAY
        lines.append(
            f"time: {seconds:.3g} s a step, {days:.3g} days for {recipe.engine.steps:,} steps, if training reaches "
            f"{machines.utilisation:.0%} of {machines.tflops:g} TFLOP/s (--utilisation: an assumption)"
        )
    return [*lines, "predicted from code and shapes; never compared with a run on a real cluster"]
