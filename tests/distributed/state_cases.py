"""What every rank runs for test_state_bytes.py: the bytes of all tensors that an engine has added to the process."""

from __future__ import annotations

import gc
from typing import Any

import torch
from toy import CENTRES, PLAN, PROGRESS, SHARES, batch_of, build, objective, split
from zero_cases import CPU, engine_of

from interlace.pretrain.groups import parameter_groups
from interlace.pretrain.sharded import ShardedAdam
from interlace.pretrain.state_bytes import centre_bytes, state_bytes, teacher_bytes
from interlace.pretrain.teachers import Teachers


def alive() -> dict[int, tuple[int, torch.UntypedStorage]]:
    """Bytes of every fp32 tensor's storage in this process, scalars (step counters) left out, by its place in memory.

    With the storages themselves: while they are held, nothing else can come to lie in their place.
    """
    gc.collect()
    found = {}
    for each in gc.get_objects():
        if type(each) in (torch.Tensor, torch.nn.Parameter) and each.device == CPU and each.dim():
            # What no Python code has asked for yet is no object of Python's: gradients of most leaves are not.
            for tensor in (each, each.grad if each.is_leaf else None):
                if tensor is not None and tensor.dtype == torch.float32 and tensor.untyped_storage().data_ptr():
                    storage = tensor.untyped_storage()
                    found[storage.data_ptr()] = (storage.nbytes(), storage)
    return found


def added(before: dict[int, tuple[int, torch.UntypedStorage]]) -> int:
    return sum(size for place, (size, _) in alive().items() if place not in before or before[place][0] != size)


def held(rank: int, world: int, **options: Any) -> dict[str, Any]:
    """Bytes before a step and between its micro-batches, beside those that are predicted of both."""
    before = alive()
    student = build()
    rates = options.get("rates", {})
    groups = [[p.numel() for p in group] for _, group in parameter_groups(dict(student.named_parameters()), rates)]
    frozen = [p.numel() for p in student.parameters() if not p.requires_grad]
    stage, offload = options["stage"], options.get("offload") == "cpu"
    with engine_of(student, **options) as engine:
        begun = added(before)
        for micro, task in enumerate(PLAN[0]):
            terms = engine.forward(task, split(batch_of(0, micro), rank, world), None, PROGRESS)
            engine.backward(objective(terms, SHARES[task], world), last=False)
            del terms
        between = added(before)
        # engine_of has set how small a parameter stays whole
        predicted = state_bytes(groups, frozen, stage=stage, offload=offload, world=world)
    unused = 4 * (student.backbone.unused.numel() + 5 * 6)  # late, which no forward reads
    facts = {"largest": 4 * max(map(max, groups)), "unused": unused}
    return {"begun": begun, "between": between, "predicted": predicted, **facts}


def teachers_and_centres(rank: int, world: int, **options: Any) -> dict[str, int]:
    """Of a teacher, once the engine has taken it over, and of centres with a gradient."""
    student = build(teaches=True, centres=(rank, world))
    teachers = Teachers(student, CPU)
    module = teachers.get("a")
    assert module is not None
    sizes = [p.numel() for p in module.parameters()]
    with engine_of(student, **options) as engine:
        teachers.follow(engine)
        own = sum(one.piece.untyped_storage().nbytes() for one in teachers._held["a"].values())
    before = alive()
    matrices = student.tasks["c"].sharded()  # type: ignore[operator]
    centres = ShardedAdam({"c": matrices})
    local = matrices[0].local
    local.grad = torch.zeros_like(local)
    held = local.nbytes + added(before)
    del centres  # its moments were counted
    return {
        "teachers": own,
        "teachers predicted": teacher_bytes(sizes, stage=options["stage"], world=world),
        "centres": held,
        "centres predicted": centre_bytes(CENTRES, local.shape[1], world=world),
    }
