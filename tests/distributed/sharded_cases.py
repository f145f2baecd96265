"""What every rank runs for the tests in test_sharded.py: matrices split over ranks beside whole ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interlace.pretrain.sharded import ShardedAdam
from interlace.tasks.interface import Sharded

SIZES = {"object": (7, 3), "motion": (1, 4)}  # fewer rows than ranks: some rank has none
LR = 1e-2
EPS = 1.0  # so large that a gradient of another size makes another step


def whole(name: str) -> Tensor:
    return torch.randn(SIZES[name], generator=torch.Generator().manual_seed(len(name)))


def gradient(name: str, step: int) -> Tensor | None:
    if name == "motion" and step == 1:  # no loss used it in this step
        return None
    return torch.randn(SIZES[name], generator=torch.Generator().manual_seed(100 * step + len(name)))


def bounds(name: str, rank: int, world: int) -> slice:
    return slice(rank * SIZES[name][0] // world, (rank + 1) * SIZES[name][0] // world)


def build(rank: int, world: int, *, zeros: bool = False) -> tuple[ShardedAdam, dict[str, Tensor]]:
    locals_ = {}
    for name in SIZES:
        rows = whole(name)[bounds(name, rank, world)].clone()
        locals_[name] = (torch.zeros_like(rows) if zeros else rows).requires_grad_()
    matrices = [Sharded(name, part, bounds(name, rank, world).start, SIZES[name][0]) for name, part in locals_.items()]
    return ShardedAdam({"clusters": matrices, "geometry": []}, optimizer="adamw", eps=EPS, weight_decay=0.1), locals_


def run_step(adam: ShardedAdam, locals_: dict[str, Tensor], step: int, rank: int, world: int) -> float:
    for name, part in locals_.items():
        full = gradient(name, step)
        if full is not None:
            part.grad = world * full[bounds(name, rank, world)]  # as the engine's loss makes it
    norm = float(adam.squared_norm())
    adam.step(LR, 0.5)
    return norm


def stepped(rank: int, world: int) -> dict[str, Any]:
    """Four steps beside torch's AdamW on the whole matrices."""
    adam, locals_ = build(rank, world)
    plain = {name: whole(name).requires_grad_() for name in SIZES}
    reference = torch.optim.AdamW(plain.values(), lr=LR, eps=EPS, weight_decay=0.1)
    norms = []
    for step in range(4):
        given = {name: gradient(name, step) for name in SIZES}
        for name, p in plain.items():
            found = given[name]
            p.grad = torch.zeros_like(p) if found is None else 0.5 * found
        reference.step()
        expected = sum(float(g.square().sum()) for g in given.values() if g is not None)
        norms.append(abs(run_step(adam, locals_, step, rank, world) - expected) / expected)
    rows = [float((locals_[n] - plain[n][bounds(n, rank, world)]).abs().sum()) for n in SIZES]
    state = dict(adam.state())
    matrices = [float((state[f"weight/clusters.{n}"] - plain[n]).abs().max()) for n in SIZES] if rank == 0 else [0.0]
    return {"rows": max(rows), "matrices": max(matrices), "norms": max(norms), "steps": adam.adam_steps}


def discarded(rank: int, world: int) -> bool:
    """A discarded gradient leaves no trace, now or later."""
    adam, locals_ = build(rank, world)
    twin, twins = build(rank, world)
    run_step(adam, locals_, 0, rank, world)
    for part in locals_.values():
        part.grad = torch.full_like(part, float("nan"))
    adam.discard()
    run_step(twin, twins, 0, rank, world)
    for step in (1, 2):
        run_step(adam, locals_, step, rank, world)
        run_step(twin, twins, step, rank, world)
    return all(torch.equal(locals_[name], twins[name]) for name in SIZES)


def saved(rank: int, world: int, *, path: str) -> None:
    adam, locals_ = build(rank, world)
    for step in range(2):
        run_step(adam, locals_, step, rank, world)
    state = dict(adam.state())
    if rank == 0:
        torch.save((state, adam.adam_steps), path)
    else:
        assert not any(len(value) for value in state.values())


def continued(rank: int, world: int, *, path: str) -> float:
    """Goes on from a file as an undisturbed run of this world does; the largest difference."""
    state, steps = torch.load(path)
    adam, locals_ = build(rank, world, zeros=True)
    undisturbed, expected = build(rank, world)
    adam.load_state(reversed(state.items()), steps)
    for step in range(4):
        run_step(undisturbed, expected, step, rank, world)
    for step in (2, 3):
        run_step(adam, locals_, step, rank, world)
    return max(float((locals_[name] - expected[name]).abs().sum()) for name in SIZES)


def refused(rank: int, world: int) -> list[str]:
    adam, _ = build(rank, world)
    state = {
        f"{key}/clusters.{n}": torch.zeros(s) for n, s in SIZES.items() for key in ("weight", "exp_avg", "exp_avg_sq")
    }
    messages = []
    for broken in (
        {**state, "weight/clusters.object": torch.zeros(8, 3)},
        {**state, "weight/clusters.sound": torch.zeros(8, 3)},
        {name: value for name, value in state.items() if name != "exp_avg/clusters.motion"},
    ):
        try:
            adam.load_state(broken.items(), 0)
        except ValueError as error:
            messages.append(str(error))
    return messages
