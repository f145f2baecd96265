"""What the spawned ranks do in the tests of the four real tasks."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_run import read

from interlace.pretrain import train
from interlace.pretrain.checkpoint import Reader, newest
from interlace.pretrain.feeds import build_feeds
from interlace.pretrain.ranks import join
from interlace.pretrain.run_folder import RunFolder
from interlace.pretrain.schedules import learning_rate
from interlace.pretrain.step import Outcome, interlaced_step
from interlace.pretrain.student import Student
from interlace.tasks.interface import Progress

STEPS = 5


def interlaced(rank: int, world: int, root: str, overrides: list[str]) -> dict[str, Any]:
    """Five interlaced steps in the real engine: weights, centres, teachers and losses of each step."""
    recipe = read(Path(root), *overrides)
    tasks = train.build_tasks(recipe, join())
    feeds = build_feeds(recipe, tasks)
    parts = train.build(recipe, train.build_student(recipe, tasks), join(), None)
    shares = {name: part.weight / part.micro_batches for name, part in recipe.tasks.items()}
    history = []
    for step in range(STEPS):
        micros = []
        for name, part in recipe.tasks.items():
            for index in range(part.micro_batches):
                micros.append(feeds[name].micro_batch(step, index, rank, world))
        rate = learning_rate(step, steps=STEPS, peak=recipe.engine.lr, warmup=2, final=0.0)
        outcome = interlaced_step(
            parts,
            micros,
            shares=shares,
            progress=Progress(step, STEPS, recipe.seed),
            rate=rate,
            clip=recipe.engine.clip,
            stop=lambda: False,
            device=torch.device("cpu"),
        )
        history.append({**outcome.losses, "gradient_norm": outcome.gradient_norm})
    weights = {name: value.clone() for name, value in parts.engine.named_masters()}
    centres = {name: value for name, value in parts.centres.state() if name.startswith("weight/")}
    teachers = {name: value.clone() for name, value in parts.teachers.state()}
    parts.engine.destroy()
    if rank:
        return {}
    return _plain({"weights": weights, "centres": centres, "teachers": teachers, "history": history})


def plain_pytorch(rank: int, world: int, root: str) -> dict[str, Any]:
    """The same five steps without any of the engine: one process, whole batches, torch's Adam, one backward a step."""
    recipe = read(Path(root))
    tasks = train.build_tasks(recipe, join())
    feeds = build_feeds(recipe, tasks)
    parts = train.build(recipe, train.build_student(recipe, tasks), join(), None)
    student: Student = parts.engine._student
    initial = {name: value.clone() for name, value in parts.engine.named_masters()}
    parts.engine.destroy()
    teachers = {name: parts.teachers.get(name) for name in tasks}
    centres = {f"{name}.{m.name}": m.local for name, task in tasks.items() for m in task.sharded()}
    everything = [*student.parameters(), *centres.values()]
    adam = torch.optim.Adam(everything, lr=recipe.engine.lr, betas=recipe.engine.betas, eps=recipe.engine.eps)
    history = []
    for step in range(STEPS):
        total, losses = torch.zeros(()), {}
        for name, part in recipe.tasks.items():
            for index in range(part.micro_batches):
                batch = feeds[name].micro_batch(step, index).batch
                progress = Progress(step, STEPS, recipe.seed, index)
                for term, value in student(name, batch, teachers[name], progress).items():
                    mean = value.sum / value.count if value.count else 0.0 * value.sum
                    total = total + part.weight / part.micro_batches * value.weight * mean
                    key = f"{name}/{term}"
                    losses[key] = losses.get(key, 0.0) + float(mean) / part.micro_batches
        total.backward()
        for parameter in everything:  # a head that no micro-batch used has a gradient of zero
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        norm = torch.nn.utils.clip_grad_norm_(everything, recipe.engine.clip)
        for group in adam.param_groups:
            group["lr"] = learning_rate(step, steps=STEPS, peak=recipe.engine.lr, warmup=2, final=0.0)
        adam.step()
        adam.zero_grad()
        momentum = tasks["ssl"].momentum(Progress(step, STEPS, recipe.seed))
        with torch.no_grad():
            for name, value in teachers["ssl"].named_parameters():
                source = name if name.startswith("backbone.") else name.replace("heads.", "tasks.ssl.")
                if name.startswith(("backbone.", "heads.")):
                    ours = dict(student.named_parameters())[source]
                    value.copy_(momentum * value + (1 - momentum) * ours)
        history.append({**losses, "gradient_norm": float(norm)})
    weights = dict(student.named_parameters())
    named_teachers = {f"ssl/{name}": value for name, value in teachers["ssl"].named_parameters()}
    return _plain(
        {
            "weights": weights,
            "centres": {f"weight/{name}": value for name, value in centres.items()},
            "teachers": named_teachers,
            "history": history,
            "initial": initial,
        }
    )


def whole_run(
    rank: int,
    world: int,
    root: str,
    run: str,
    overrides: list[str],
    kill_after: int | None = None,
    term: int | None = None,
) -> dict[str, Any]:
    """A run, or what is left of one after it was cut at step ``kill_after`` or sent SIGTERM in step ``term``."""
    recipe = read(Path(root), *overrides)

    def step(done: int, outcome: Outcome) -> None:
        if done == kill_after:
            os._exit(9)  # nothing is flushed, closed or saved, as when a node is lost
        if done == term:
            os.kill(os.getpid(), signal.SIGTERM)

    status: object = None
    try:
        train.pretrain(recipe, Path(run), resume=True, observer=train.Observer(step=step))
    except SystemExit as error:
        status = error.code
    return {"status": status, **(left_behind(Path(run)) if rank == 0 else {})}


def poisoned(rank: int, world: int, root: str, run: str, overrides: list[str]) -> dict[str, Any]:
    """A run in which the second rank's depth leaves float32 in some step: what it said, and the weights it left."""
    recipe = read(Path(root), *overrides)
    weights: list[dict[str, torch.Tensor]] = []
    original = train.interlaced_step

    def step(parts: Any, micros: Any, **options: Any) -> Outcome:
        weights.append({name: value.clone() for name, value in parts.engine.named_masters()})
        weights[:-1] = []
        try:
            return original(parts, micros, **options)
        finally:
            weights.append({name: value.clone() for name, value in parts.engine.named_masters()})

    train.interlaced_step = step
    try:
        train.pretrain(recipe, Path(run))
        said = "nothing"
    except train.Stopped as error:
        said = str(error)
    finally:
        train.interlaced_step = original
    before, after = weights[-2], weights[-1]
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    return {"said": said, "changed": changed}


def refused(rank: int, world: int, root: str, run: str, overrides: list[str]) -> str:
    """A run that stops with an error that a user can do something about: what it said."""
    try:
        train.pretrain(read(Path(root), *overrides), Path(run))
    except ValueError as error:
        return str(error)
    return "nothing"


def replayed(rank: int, world: int, file: str) -> dict[str, float]:
    """The stopped step again, in one process."""
    return train.replay(Path(file))


def left_behind(run: Path) -> dict[str, Any]:
    """The newest checkpoint's tensors and the logged rows of a run's folder."""
    folder = RunFolder(run)
    path = newest(folder.checkpoints)
    assert path is not None
    reader = Reader(path)
    tensors = {f"{group}:{name}": value for group in reader.groups() for name, value in reader.tensors(group)}
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return _plain({"step": reader.state["step"], "state": reader.state, "tensors": tensors, "rows": rows})


def _plain(value: Any) -> Any:
    """Tensors as arrays, which travel between processes without shared memory."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value.detach().cpu().numpy().copy() if isinstance(value, torch.Tensor) else value


def barrier(rank: int, world: int) -> int:
    dist.barrier()
    return world
