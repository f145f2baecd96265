"""What the spawned ranks do in the tests of self-supervision in the engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import tiny_ssl
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from interlace.pretrain import zero
from interlace.pretrain.step import objective
from interlace.pretrain.student import Student
from interlace.pretrain.teachers import Teachers
from interlace.pretrain.zero import ZeroConfig, ZeroEngine
from interlace.tasks.ssl import scores

CPU = torch.device("cpu")
#: Frames of each sample. Images have no mask here, so of two ranks only the first, which has the clips, masks patches.
LENGTHS = [3, 3, 1, 1]


class Collectives(TorchDispatchMode):
    """Counts this process's collectives by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.counts[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def uneven_masks(rank: int, world: int, stage: int, block: int) -> dict[str, Any]:
    """Three steps on samples of which the first half are masked: weights, losses, blocks made and collectives run."""
    zero.PERSISTENT_ELEMENTS, scores.BLOCK_ELEMENTS = 0, block
    task, backbone, _ = (module.float() for module in tiny_ssl.build(image_mask_probability=0.0))
    items = tiny_ssl.items(task, LENGTHS)
    batch = task.collate(items[rank * len(items) // world : (rank + 1) * len(items) // world])
    student = Student(backbone, {"ssl": task})
    teachers = Teachers(student, CPU)
    engine = ZeroEngine(student, ZeroConfig(stage=stage, lr=1e-3, eps=1e-3), CPU)
    teachers.follow(engine)
    made, original = [0], scores.blocks

    def counted(*sizes: int) -> Iterator[slice]:
        for part in original(*sizes):
            made[0] += 1
            yield part

    scores.blocks = counted
    history = []
    try:
        with Collectives() as collectives:
            for _ in range(3):
                terms = engine.forward("ssl", batch, teachers.get("ssl"), tiny_ssl.HALFWAY)
                loss, sums, _ = objective(terms, 1.0)
                engine.backward(loss, last=True)
                norm = engine.gradient_norm()
                engine.step(1e-3, 1.0)
                teachers.update(tiny_ssl.HALFWAY)
                history.append([*sums.tolist(), norm.item()])
    finally:
        scores.blocks, scores.BLOCK_ELEMENTS = original, 2**24
    weights = {name: value.numpy().copy() for name, value in engine.named_masters()}
    weights |= {f"teacher {name}": value.numpy().copy() for name, value in teachers.state()}
    engine.destroy()
    return {
        "weights": weights,
        "history": np.array(history),
        "blocks": made[0],
        "masked": sum(len(group["masked"]) for group in batch.values()),
        "collectives": dict(collectives.counts),
    }
