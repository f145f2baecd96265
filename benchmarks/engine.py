"""What interlacing costs: the engine's step against the bare sum of its tasks' work, in one process.

    python benchmarks/engine.py data_recipes/demo.yaml [--rounds 12] [--stages 0 1 2 3]

Both do the same on the same micro-batches: every task's forward and backward, Adam, the teacher's update, the centres'
update. The bare loop has no DeepSpeed, no checks, no logging. They take turns, step by step, and the ratio is that of
the medians, so that a noisy machine slows both alike. The floor is the arithmetic of the bare loop's matrix products at
the rate of one plain matrix product, measured between the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from attention import matmul_rate
from machine import stamp
from torch.utils.flop_counter import FlopCounterMode

from interlace.data_recipes.feed import MicroBatch
from interlace.pretrain.feeds import build_feeds
from interlace.pretrain.ranks import Ranks, join
from interlace.pretrain.step import Parts, interlaced_step
from interlace.pretrain.student import Student
from interlace.pretrain.teachers import Teachers
from interlace.pretrain.train import build, build_student, build_tasks, recipe_from
from interlace.tasks.interface import Progress


def engine_step(parts: Parts, micros: list[MicroBatch], shares: dict[str, float], ranks: Ranks, steps: int) -> None:
    """The step as a run takes it."""
    parts.cosine.begin(sample=False)
    progress = Progress(steps, 10**6, 0)
    interlaced_step(
        parts, micros, shares=shares, progress=progress, rate=1e-4, clip=1.0, stop=lambda: False, device=ranks.device
    )


def bare_step(
    teachers: Teachers,
    student: Student,
    adam: torch.optim.Adam,
    micros: list[MicroBatch],
    shares: dict[str, float],
    step: int,
) -> None:
    """The same work without an engine around it."""
    for micro in micros:
        terms = student(micro.task, micro.batch, teachers.get(micro.task), Progress(step, 10**6, 0, micro.index))
        losses = [term.weight * term.sum / term.count.clamp(min=1) for term in terms.values()]
        (shares[micro.task] * torch.stack(losses).sum()).backward()
    adam.step()
    adam.zero_grad()
    for name, task in student.tasks.items():
        teacher = teachers.get(name)
        if teacher is not None:
            pairs = dict(student.named_parameters())
            ours, theirs = [], []
            for key, value in teacher.named_parameters():
                source = key if key.startswith("backbone.") else key.replace("heads.", f"tasks.{name}.")
                ours.append(value.data)
                theirs.append(pairs[source].data)
            momentum = task.momentum(Progress(step, 10**6, 0))
            torch._foreach_lerp_(ours, theirs, 1.0 - momentum)


def measure(recipe_path: Path, stage: int, rounds: int) -> None:
    """Print one stage's row."""
    recipe = recipe_from(recipe_path, (f"engine.zero.stage={stage}", "engine.workers=0"))
    ranks = join()
    tasks = build_tasks(recipe, ranks)
    feeds = build_feeds(recipe, tasks)
    parts = build(recipe, build_student(recipe, tasks), ranks, None)
    bare_tasks = build_tasks(recipe, ranks)
    bare = build_student(recipe, bare_tasks).to(ranks.device)
    teachers = Teachers(bare, ranks.device)
    everything = [*bare.parameters(), *(m.local for task in bare_tasks.values() for m in task.sharded())]
    adam = torch.optim.Adam(everything, lr=1e-4, fused=True)
    shares = {name: part.weight / part.micro_batches for name, part in recipe.tasks.items()}
    micros = [feeds[name].micro_batch(0, m) for name, part in recipe.tasks.items() for m in range(part.micro_batches)]
    with FlopCounterMode(display=False) as counter:
        bare_step(teachers, bare, adam, micros, shares, 0)
    engine_step(parts, micros, shares, ranks, 0)
    times: dict[str, list[float]] = {"engine": [], "bare": []}
    turns: dict[str, Callable[[int], None]] = {
        "engine": lambda step: engine_step(parts, micros, shares, ranks, step),
        "bare": lambda step: bare_step(teachers, bare, adam, micros, shares, step),
    }
    rate = 0.0
    for step in range(rounds):
        rate = max(rate, matmul_rate(ranks.device, torch.float32, 1024))
        for name in ("engine", "bare") if step % 2 else ("bare", "engine"):
            began = time.perf_counter()
            turns[name](step)
            times[name].append(time.perf_counter() - began)
    engine, loop = (statistics.median(times[name]) for name in ("engine", "bare"))
    flops = counter.get_total_flops()
    print(
        f"ZeRO-{stage}: engine {engine:.3f} s, bare {loop:.3f} s, engine / bare {engine / loop:.3f}; "
        f"floor {flops / rate:.3f} s ({flops / 1e9:.1f} GFLOP at {rate / 1e9:.1f} GFLOP/s), "
        f"bare / floor {loop * rate / flops:.1f}",
        flush=True,
    )
    parts.engine.destroy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    options = parser.parse_args()
    print(stamp(join().device))
    for stage in options.stages:
        measure(options.recipe, stage, options.rounds)


if __name__ == "__main__":
    main()
