"""Pretraining, top to bottom, as section 4.2 of the OmniStream paper tells it.

All tasks are interleaved within each step: their micro-batches are traversed one after another, gradients
accumulate, and the parameters are updated once. Recipe, tasks and engine meet in this file and nowhere else.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from interlace.backbone import PRESETS, Backbone, BackboneConfig, FrozenBackbone
from interlace.data_recipes.broken import Broken
from interlace.data_recipes.feed import Feed, MicroBatch
from interlace.data_recipes.loader import Loader, interleaved
from interlace.data_recipes.recipe import read_recipe, resolve
from interlace.data_recipes.schema import Recipe, Sections, TaskSpec
from interlace.tasks import TASKS
from interlace.tasks.interface import Progress, Task, TaskContext, TaskOptions

from .beginning import begin_from, initial_backbone
from .broken import BrokenSamples, Use
from .cosine import TaskGradients
from .evaluate import PICTURED, HeldOut
from .feeds import build_feeds, held_out_samples, pictured_samples, training_samples
from .frozen import FrozenGuard
from .health import NonFinite, account
from .ranks import Ranks, join
from .replay import read_replay, replay_step, write_replay
from .run_folder import RunFolder
from .save import export, load_checkpoint, save_checkpoint
from .schedules import learning_rate
from .sharded import ShardedAdam
from .step import Outcome, Parts, interlaced_step
from .student import Student
from .teachers import Teachers
from .watch import Watch
from .zero import ZeroConfig, ZeroEngine

Answer = TypeVar("Answer")

#: Exit status after saving on SIGTERM: 128 + the signal's number, as shells have it.
TERMINATED = 128 + signal.SIGTERM

#: Training samples that tasks measure their inputs on.
INPUTS_MEASURED = 64

#: What a recipe may say about the backbone and each task.
SECTIONS = Sections(
    backbone=BackboneConfig,
    presets=PRESETS,
    tasks={name: TaskSpec.of(task) for name, task in TASKS.items()},
)


class Terminated(SystemExit):
    """The run was asked to stop, saved, and stops. Exit status :data:`TERMINATED`."""


class Stopped(ValueError):
    """Numbers were not finite; the message says where, and how to see it again."""


def recipe_from(path: Path | str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe against every task this version knows. Raises RecipeErrors with all that is wrong."""
    return read_recipe(path, overrides, SECTIONS)


@dataclass(frozen=True)
class Observer:
    """Who watches a run; both are called on the first rank only."""

    step: Callable[[int, Outcome], None] = lambda step, outcome: None
    say: Callable[[str], None] = lambda line: None


def pretrain(recipe: Recipe, root: Path, *, resume: bool = False, observer: Observer | None = None) -> RunFolder:
    """Train one backbone on all of the recipe's tasks; everything the run leaves lies under ``root``.

    Works alone, under torchrun and under srun. With ``resume`` it goes on from the newest checkpoint, bit for bit on
    the same number of ranks, or begins when there is none. Raises FolderInUse for another run's folder without
    ``resume``, :class:`Stopped` for numbers that are not finite (nothing changed, a replay file written),
    :class:`.broken.TooManyBroken` for a source too much of which cannot be used,
    :class:`interlace.backbone.NotFrozen` for a frozen backbone that changed, and :class:`Terminated` on SIGTERM, once
    it has saved.
    """
    run = prepare(recipe, RunFolder(root), resume, observer or Observer())
    with asked_to_stop() as asked, run.loader:
        for step, micros in enumerate(run.loader, run.start):
            outcome = update(run, step, micros, stop=asked)
            record(run, step + 1, micros, outcome)
    export(run.folder, run.parts, recipe, run.ranks)
    run.watch.close()
    return run.folder


@dataclass(frozen=True)
class Run:
    """A run before its first step. Every rank has its own, and all take part in whatever is done with it."""

    recipe: Recipe
    ranks: Ranks
    folder: RunFolder
    tasks: Mapping[str, Task]
    feeds: Mapping[str, Feed]
    parts: Parts
    start: int  # steps done before
    loader: Loader
    broken: BrokenSamples
    watch: Watch
    observer: Observer

    def rate(self, step: int) -> float:
        """The learning rate of a step: warm-up, then a cosine."""
        engine = self.recipe.engine
        return learning_rate(step, steps=engine.steps, peak=engine.lr, warmup=engine.warmup, final=engine.final_lr)

    def compares(self, step: int) -> bool:
        """Whether the tasks' gradients are compared in a step."""
        every = self.recipe.engine.cosine_every
        return every > 0 and step % every == 0


def prepare(recipe: Recipe, folder: RunFolder, resume: bool, observer: Observer) -> Run:
    """Samples in their order, one model for all tasks, what it is measured on, and the measures before training."""
    ranks, engine = join(), recipe.engine
    checkpoint = told_to_all(ranks, lambda: folder.find(resume=resume))

    # The order of samples is a function of the seed and the step: no rank, worker or restart can change it.
    tasks = build_tasks(recipe, ranks)
    feeds = build_feeds(recipe, tasks)

    # One backbone under every task's heads, sharded by ZeRO; teachers and cluster centres beside it.
    student = build_student(recipe, tasks)
    guard = guard_of(student)
    if checkpoint is None:
        measure_inputs(student, tasks, feeds, ranks)
    parts = build(recipe, student, ranks, guard)
    start = begin(recipe, checkpoint, parts, tasks, feeds)
    if ranks.first:
        observer.say("fitting the blind guesses that held-out measures are compared with")
    held_out, met = build_held_out(recipe, tasks, feeds)
    if checkpoint is None:  # until here the recipe, weights and samples may refuse the run, which then leaves nothing
        told_to_all(ranks, lambda: folder.begin(recipe.to_yaml(), resume=resume))

    # Within a step the tasks' micro-batches follow each other in turn.
    loader = Loader(
        feeds,
        interleaved({name: part.micro_batches for name, part in recipe.tasks.items()}),
        rank=ranks.rank,
        world=ranks.world,
        workers=engine.workers,
        start_step=start,
        stop_step=engine.steps,
        pin=ranks.device.type == "cuda",
    )
    broken = BrokenSamples(folder, feeds, engine.max_broken, ranks, observer.say)
    broken.begin(start)
    for use, name, found in met:
        broken.beside(use, name, found, start)
    samples = {name: part.batch * part.micro_batches for name, part in recipe.tasks.items()}
    watch = Watch(folder, parts, held_out, tasks, samples, broken, ranks)
    watch.begin(start, every=engine.evaluate_every, last=engine.steps)
    return Run(recipe, ranks, folder, tasks, feeds, parts, start, loader, broken, watch, observer)


def begin(
    recipe: Recipe, checkpoint: Path | None, parts: Parts, tasks: Mapping[str, Task], feeds: Mapping[str, Feed]
) -> int:
    """Take over the checkpoint's state, or the weights that the recipe starts from: how many steps are done."""
    start = 0
    if checkpoint is not None:
        start = load_checkpoint(checkpoint, parts, recipe.digest(), feeds)
    elif recipe.start_from is not None:
        begin_from(Path(recipe.start_from), parts, tasks)
    if parts.frozen is not None:
        parts.frozen.check("before training")
    return start


def update(run: Run, step: int, micros: list[MicroBatch], *, stop: Callable[[], bool]) -> Outcome:
    """Traverse the micro-batches of all tasks, then update the parameters once."""
    recipe, parts = run.recipe, run.parts
    parts.cosine.begin(sample=run.compares(step))
    try:
        return interlaced_step(
            parts,
            micros,
            shares={name: part.weight / part.micro_batches for name, part in recipe.tasks.items()},
            progress=Progress(step, recipe.engine.steps, recipe.seed),
            rate=run.rate(step),
            clip=recipe.engine.clip,
            stop=stop,
            device=run.ranks.device,
        )
    except NonFinite as error:
        path = run.folder.root / f"replay_{step:08d}.pt"
        keys = write_replay(path, recipe, parts, run.feeds, micros, step, run.ranks)
        raise Stopped(account(error, step, keys, str(path))) from error


def record(run: Run, done: int, micros: list[MicroBatch], outcome: Outcome) -> None:
    """After the ``done``-th update: log, save and measure where the recipe says so; save and leave when asked to."""
    engine, last = run.recipe.engine, done == run.recipe.engine.steps
    if outcome.broken:
        run.broken.step(done, micros)
    if run.parts.frozen is not None and last:
        run.parts.frozen.check("after training")
    log = done % engine.log_every == 0 or last or run.compares(done - 1)
    run.watch.step(done, outcome, run.loader.waited(), rate=run.rate(done - 1), log=log)
    if run.ranks.first:
        run.observer.step(done, outcome)
    if done % engine.checkpoint_every == 0 or last or outcome.stop:
        with run.watch.aside():
            save_checkpoint(run.folder, run.parts, run.tasks, run.recipe, done, run.loader.cursors(done), run.ranks)
    if outcome.stop and not last:
        raise Terminated(TERMINATED)
    if done % engine.evaluate_every == 0 or last:
        with run.watch.aside():
            run.watch.measure(done, draw="end" if last else None)


def build_tasks(recipe: Recipe, ranks: Ranks) -> dict[str, Task]:
    """The recipe's tasks with their heads, drawn from ``recipe.seed`` alone."""
    context = TaskContext(recipe.backbone.config, recipe.seed, ranks.rank, ranks.world, ranks.device)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return {name: TASKS[name](cast(TaskOptions, part.options), context) for name, part in recipe.tasks.items()}


def build_held_out(
    recipe: Recipe, tasks: Mapping[str, Task], feeds: Mapping[str, Feed]
) -> tuple[dict[str, HeldOut], list[tuple[Use, str, Sequence[Broken]]]]:
    """What each task is measured on and drawn from; blind guesses are fitted where there is something to measure.

    And what could not be used: for what, of which task, and which samples.
    """
    measured_on = held_out_samples(recipe, tasks)
    held_out, met = {}, list[tuple[Use, str, Sequence[Broken]]]()
    for name, part in recipe.tasks.items():
        task, measured = tasks[name], measured_on[name]
        pictured = pictured_samples(measured, part.pictured, task, PICTURED)
        training = training_samples(feeds[name], task, recipe.engine.blind_samples)
        samples = [sample for whole in measured for sample in whole.samples]
        left_out = [each for whole in measured for each in whole.broken]
        if pictured.samples:
            blind = task.fit_blind(training) if samples else None
            held_out[name] = HeldOut(task, samples, blind, pictured.samples, len(left_out))
        met += [("held_out", name, left_out), ("picture", name, pictured.broken), ("blind", name, training.broken)]
    return held_out, met


def build_student(recipe: Recipe, tasks: Mapping[str, Task]) -> Student:
    """The backbone under the tasks' heads; without ``recipe.backbone.init`` it is drawn from ``recipe.seed`` alone."""
    backbone = initial_backbone(recipe)
    if backbone is None:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            backbone = Backbone(recipe.backbone.config)
    return Student(backbone, tasks)


def measure_inputs(student: Student, tasks: Mapping[str, Task], feeds: Mapping[str, Feed], ranks: Ranks) -> None:
    """Show every task the first samples that it will train on, before an engine takes its parameters."""
    backbone = student.backbone.to(ranks.device)
    for name, task in tasks.items():
        task.measure_inputs(backbone, training_samples(feeds[name], task, INPUTS_MEASURED))


def guard_of(student: Student) -> FrozenGuard | None:
    """Of a frozen backbone as it was loaded, before anything has used it."""
    return FrozenGuard(student.backbone) if isinstance(student.backbone, FrozenBackbone) else None


def build(recipe: Recipe, student: Student, ranks: Ranks, guard: FrozenGuard | None) -> Parts:
    """The student in its engine, its teachers, which copy what it begins with, and its centres."""
    engine, tasks = recipe.engine, cast(dict[str, Task], dict(student.tasks))
    teachers = Teachers(student, ranks.device)
    cosine = TaskGradients(student.backbone)
    zero = ZeroEngine(
        student,
        ZeroConfig(
            stage=engine.zero.stage,
            offload=engine.zero.offload,
            precision=engine.precision,
            optimizer=engine.optimizer,
            lr=engine.lr,
            betas=engine.betas,
            eps=engine.eps,
            weight_decay=engine.weight_decay,
            rates=part_rates(recipe),
        ),
        ranks.device,
    )
    teachers.follow(zero)
    centres = ShardedAdam(
        {name: task.sharded() for name, task in tasks.items()},
        optimizer=engine.optimizer,
        betas=engine.betas,
        eps=engine.eps,
        weight_decay=engine.weight_decay,
    )
    return Parts(zero, centres, teachers, cosine, guard)


def part_rates(recipe: Recipe) -> dict[str, float]:
    """The student's parts that do not learn at ``engine.lr``, and at which multiple of it."""
    return {
        f"tasks.{name}.{part}": rate / recipe.engine.lr
        for name, task in recipe.tasks.items()
        for part, rate in task.rates.items()
    }


def replay(file: Path) -> dict[str, float]:
    """A stopped step again, in this process: its terms and gradient norm."""
    ranks, content = join(), read_replay(file)
    recipe = resolve(content["recipe"], SECTIONS)
    student = build_student(recipe, build_tasks(recipe, ranks))
    parts = build(recipe, student, ranks, guard_of(student))
    return replay_step(content, parts, recipe, ranks)


def told_to_all(ranks: Ranks, work: Callable[[], Answer]) -> Answer:
    """What the first rank's ``work`` gives, on every rank; or the OSError or ValueError that it raises."""
    told: list[Any] = [None]
    if ranks.first:
        try:
            told = [work()]
        except (OSError, ValueError) as error:
            told = [error]
    dist.broadcast_object_list(told)
    if isinstance(told[0], Exception):
        raise told[0]
    return cast(Answer, told[0])


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM into a question the loop asks once a step, so that a save never starts inside one."""
    asked = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGTERM, before)
