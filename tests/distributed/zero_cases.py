"""What every rank runs for the tests in test_zero.py. Values are compared with plain PyTorch or with another engine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from toy import EPS, LR, PLAN, PROGRESS, SHARES, Plain, batch_of, build, objective, run_step, split

from interlace.pretrain import zero
from interlace.pretrain.sharded import ShardedAdam
from interlace.pretrain.student import Student
from interlace.pretrain.teachers import Teachers
from interlace.pretrain.zero import ZeroConfig, ZeroEngine

CPU = torch.device("cpu")


@contextmanager
def engine_of(student: Student, *, contiguous: bool = False, **options: Any) -> Iterator[ZeroEngine]:
    """An engine that partitions the toy's larger parameters and keeps its smaller ones, and is gone afterwards.

    ``contiguous``: gradients go the way they go on a GPU, in buckets smaller than some of them.
    """
    configure = zero._deepspeed_config

    def configured(*args: Any, **facts: Any) -> dict[str, Any]:
        config = configure(*args, **facts)
        if contiguous:
            config["zero_optimization"] |= {"contiguous_gradients": True, "reduce_bucket_size": 150}
        return config

    zero.PERSISTENT_ELEMENTS, zero._deepspeed_config = 20, configured
    try:
        engine = ZeroEngine(student, ZeroConfig(**{"lr": LR, "eps": EPS, **options}), CPU)
    finally:
        zero._deepspeed_config = configure
    try:
        yield engine
    finally:
        engine.destroy()


def masters(engine: ZeroEngine) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in engine.named_masters()}


def everything(engine: ZeroEngine) -> dict[str, Tensor]:
    return {"steps": torch.tensor(engine.adam_steps)} | {name: value.clone() for name, value in engine.state()}


def different(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


def relative(ours: dict[str, Tensor], theirs: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """The error of the whole update, relative to the update."""
    error = sum(float((ours[k] - theirs[k]).square().sum()) for k in theirs)
    return math.sqrt(error / sum(float((theirs[k] - start[k]).square().sum()) for k in theirs))


def interlaced(rank: int, world: int, *, precision: str = "fp32", decay: float = 0.0, **options: Any) -> dict[str, Any]:
    """Five interlaced steps beside plain PyTorch on the whole batches."""
    plain = Plain(build(), decay=decay, bf16=precision == "bf16", rates=options.get("rates"))
    start = {name: p.detach().clone() for name, p in plain.named.items()}
    if decay:
        options |= {"optimizer": "adamw", "weight_decay": decay}
    norms, largest, student = [], 0.0, build()
    with engine_of(student, precision=precision, **options) as engine:
        for step, tasks in enumerate(PLAN):
            ours, theirs = run_step(engine, step, tasks), plain.run_step(step, tasks)
            norms.append(abs(ours - theirs) / theirs)
            largest = max(largest, theirs)
        found = masters(engine)
    expected = {name: p.detach() for name, p in plain.named.items()}
    found = {name: found[name] for name in expected}
    return {
        "parameters": max(float((found[name] - expected[name]).abs().max()) for name in expected),
        "update": relative(found, expected, start),
        "norms": max(norms),
        "largest": largest,
        "dtype": str(student.tasks["b"].dtype),
    }


def clipped_with_centres(rank: int, world: int, **options: Any) -> dict[str, float]:
    """The clip coefficient is decided by the norm of the student's and the centres' gradients together."""
    plain, student = Plain(build(centres=(0, 1))), build(centres=(rank, world))
    centres = ShardedAdam({"c": student.tasks["c"].sharded()}, eps=EPS)  # type: ignore[operator,union-attr]
    norms, smallest = [], math.inf
    with engine_of(student, **options) as engine:
        for step, tasks in enumerate(PLAN):
            theirs = plain.run_step(step, tasks, clip=0.05)
            smallest = min(smallest, theirs)
            norms.append(abs(run_step(engine, step, tasks, centres=centres, clip=0.05) - theirs) / theirs)
        found = masters(engine)
    whole = dict(centres.state())["weight/c.centres"]
    worst = max(float((found[name] - p).abs().max()) for name, p in plain.named.items() if name != "c.centres")
    rows = float((whole - plain.named["c.centres"]).abs().max()) if rank == 0 else 0.0
    return {"parameters": worst, "centres": rows, "norms": max(norms), "smallest": smallest}


def discarded(rank: int, world: int, **options: Any) -> list[str]:
    """A step that is NaN on one rank only changes nothing, now or later."""
    with engine_of(build(), **options) as engine:
        for step in (0, 1):
            run_step(engine, step, PLAN[step])
        before = everything(engine)
        norm = run_step(engine, 7, ["b", "c", "a"], poison=world - 1)
        assert not math.isfinite(norm), "the norm of a NaN gradient is finite"
        wrong = different(everything(engine), before)
        run_step(engine, 2, PLAN[2])
        after = everything(engine)
    with engine_of(build(), **options) as engine:
        for step in (0, 1, 2):
            run_step(engine, step, PLAN[step])
        return wrong + different(after, everything(engine))


def resumed(rank: int, world: int, **options: Any) -> list[str]:
    """Five steps, and two in an engine that did something else before it took over the state after three: same bits."""
    with engine_of(build(), **options) as engine:
        for step in range(3):
            run_step(engine, step, PLAN[step])
        saved, steps = dict(everything(engine)), engine.adam_steps
        for step in (3, 4):
            run_step(engine, step, PLAN[step])
        undisturbed = everything(engine)
    del saved["steps"]
    with engine_of(build(seed=99), **options) as engine:
        run_step(engine, 7, PLAN[0])
        engine.load_state(reversed(saved.items()), steps)
        again = {name: value.clone() for name, value in engine.state()}
        wrong = different(again, saved)
        for step in (3, 4):
            run_step(engine, step, PLAN[step])
        return wrong + different(everything(engine), undisturbed)


def begun(rank: int, world: int, **options: Any) -> list[str]:
    """A state that says nothing of task b, read into a student that took no step: what is not as it should be."""
    with engine_of(build(), **options) as engine:
        run_step(engine, 0, PLAN[0])
        saved = {name: value for name, value in everything(engine).items() if "/tasks.b." not in name}
    del saved["steps"]
    student = build(seed=99)
    own = [name for name, _ in student.named_parameters() if name.startswith("tasks.b.")]
    with engine_of(student, **options) as engine:
        expected = {name: value for name, value in everything(engine).items() if "/tasks.b." in name} | saved
        engine.load_state(saved.items(), 0, begun=own)
        found = everything(engine)
        del found["steps"]
        return different(found, expected)


def gathered_ahead(rank: int, world: int) -> dict[str, Any]:
    """The tasks whose order of modules stage 3 knows, and steps after a module began to read another's parameter."""
    plain, student = Plain(build()), build()
    with engine_of(student, stage=3) as engine:
        traces = engine._traces
        assert traces is not None
        for step in range(9):
            if step == 5:
                learned = traces.learned()
                plain.student.backbone.reads_late = student.backbone.reads_late = True
            run_step(engine, step, PLAN[step % 5])
            plain.run_step(step, PLAN[step % 5])
        found = masters(engine)
    worst = max(float((found[name] - p).abs().max()) for name, p in plain.named.items())
    return {"learned": learned, "parameters": worst}


def saved(rank: int, world: int, *, path: str, **options: Any) -> None:
    """Three steps, then the whole state into a file."""
    with engine_of(build(), **options) as engine:
        for step in range(3):
            run_step(engine, step, PLAN[step])
        whole = everything(engine)
    if rank == 0:
        torch.save(whole, path)


def continued(rank: int, world: int, *, path: str, **options: Any) -> dict[str, Any]:
    """Take over a state that another stage and world size wrote, and go on: as plain PyTorch, undisturbed."""
    whole = torch.load(path)
    steps = int(whole.pop("steps"))
    plain = Plain(build())
    for step, tasks in enumerate(PLAN):
        plain.run_step(step, tasks)
    with engine_of(build(seed=99), **options) as engine:
        engine.load_state(whole.items(), steps)
        wrong = different({name: value.clone() for name, value in engine.state()}, whole)
        for step in (3, 4):
            run_step(engine, step, PLAN[step])
        found = masters(engine)
    worst = max(float((found[name] - p).abs().max()) for name, p in plain.named.items())
    return {"wrong": wrong, "parameters": worst, "steps": steps}


def refused(rank: int, world: int, **options: Any) -> list[str]:
    """The messages of states that do not fit."""
    messages = []
    with engine_of(build(), **options) as engine:
        whole = {name: value.clone() for name, value in engine.state()}
        short = {name: value for name, value in whole.items() if name != "exp_avg/backbone.gain"}
        strange = {**whole, "weight/backbone.pos": torch.zeros(3)}
        bent = {**whole, "weight/backbone.gain": torch.zeros(3)}
        for state in (short, strange, bent):
            try:
                engine.load_state(state.items(), 0)
            except ValueError as error:
                messages.append(str(error))
    return messages


def taught(rank: int, world: int, *, momentum: float = 0.9, steps: int = 5, **options: Any) -> dict[str, Any]:
    """Steps with a teacher whose targets the loss uses, beside a float64 average of the masters kept here."""
    student = build(teaches=True)
    student.tasks["a"].speed = momentum  # type: ignore[union-attr]
    start = {name: p.detach().clone() for name, p in student.named_parameters()}
    average = {name: p.double() for name, p in start.items()}
    teachers = Teachers(student, CPU)
    with engine_of(student, **options) as engine:
        teachers.follow(engine)
        for step in range(steps):
            run_step(engine, step, PLAN[step % len(PLAN)], teachers=teachers)
            for name, master in engine.named_masters():
                average[name] = momentum * average[name] + (1 - momentum) * master.double()
        found = {name: value.clone() for name, value in teachers.state()}
        module = teachers.get("a")
        assert module is not None
        resident = sum(p.numel() for p in module.parameters())
    moved = {f"a/{name}": name for name in start if name.startswith("backbone.")}
    moved |= {f"a/heads.{name[8:]}": name for name in start if name.startswith("tasks.a.head.")}
    error = sum(float((found[ours] - average[name]).square().sum()) for ours, name in moved.items())
    way = sum(float((start[name] - average[name]).square().sum()) for name in moved.values())
    fixed = [k for k in found if k.startswith("a/first.") and not torch.equal(found[k], start["tasks.a.head." + k[8:]])]
    return {
        "error": math.sqrt(error / way),
        "moved": len(moved),
        "fixed": fixed,
        "teacher": {name: value.numpy() for name, value in found.items()},
        "resident": resident,
        "reloaded": _reloaded(found, **options),
    }


def _reloaded(found: dict[str, Tensor], **options: Any) -> list[str]:
    student = build(teaches=True, seed=99)
    teachers = Teachers(student, CPU)
    with engine_of(student, **options) as engine:
        teachers.follow(engine)
        teachers.load_state(reversed(found.items()))
        return different({name: value.clone() for name, value in teachers.state()}, found)


def whole_inside(rank: int, world: int, **options: Any) -> dict[str, Any]:
    """Inside full_parameters ranks run what they like and see plain weights; training then goes on undisturbed."""
    student = build()
    with engine_of(student, **options) as engine:
        for step in (0, 1):
            run_step(engine, step, PLAN[step])
        expected = masters(engine)
        with engine.full_parameters() as full, torch.no_grad():
            wrong = [n for n, p in full.named_parameters() if not torch.equal(p, expected[n])]
            if rank == 0:  # no other rank takes part
                full("b", batch_of(0, 0), None, PROGRESS)
        for step in (2, 3, 4):
            run_step(engine, step, PLAN[step])
        found = everything(engine)
    with engine_of(build(), **options) as engine:
        for step in range(5):
            run_step(engine, step, PLAN[step])
        return {"wrong": wrong, "after": different(found, everything(engine))}


def shares(rank: int, world: int, **options: Any) -> dict[str, int]:
    """How many elements of moments and of weights this rank holds between steps."""
    student = build()
    whole = sum(p.numel() for p in student.parameters() if p.requires_grad)
    with engine_of(student, **options) as engine:
        run_step(engine, 0, PLAN[0])
        moments = sum(f.parts["exp_avg"].numel() for f in engine._partition.fragments.values() if "exp_avg" in f.parts)
        large = sum(p.numel() for p in student.parameters() if len(p.shape) == 2 or not p.numel())
        return {"whole": whole, "moments": moments, "large": large}


def misused(rank: int, world: int) -> list[str]:
    """The messages of calls out of order."""
    messages = []
    with engine_of(build(), stage=1) as engine:
        batch = split(batch_of(0, 0), rank, world)
        for call in (engine.gradient_norm, lambda: engine.step(LR, 1.0)):
            try:
                call()
            except RuntimeError as error:
                messages.append(str(error))
        for last in (True, False):
            terms = engine.forward("a", batch, None, PROGRESS)
            try:
                engine.backward(objective(terms, SHARES["a"], world), last=last)
            except RuntimeError as error:
                messages.append(str(error))
    return messages


def untouched(rank: int, world: int) -> list[str]:
    """What DeepSpeed would replace in the whole process, or compile at run time."""
    linear = torch.nn.functional.linear
    with engine_of(build(), stage=3) as engine:
        run_step(engine, 0, PLAN[0])
        changed = [] if torch.nn.functional.linear is linear else ["torch.nn.functional.linear"]
        if engine._deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"]:
            changed.append("deepspeed_shm_comm would be compiled")
    return changed
