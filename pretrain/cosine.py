"""Do the tasks pull the backbone the same way? Cosines between their gradients, on a sample of its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations

import torch
import torch.distributed as dist
from torch import Tensor, nn

#: Blocks whose matrices are watched: all of a small backbone, an even spread of a large one.
WATCHED_BLOCKS = 4


class TaskGradients:
    """Collects each task's gradient of the watched parameters during a sampled step.

    Hooks on the parameters see the gradient of the running backward pass before it is accumulated, reduced or
    partitioned, so the measure is the same under every ZeRO stage. Make it before the engine takes the backbone over.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.sampling = False
        self._task: str | None = None
        self._sums: dict[str, dict[str, Tensor]] = {}
        for name, parameter in watched(backbone):
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient, name=name: self._see(name, gradient))

    def begin(self, *, sample: bool) -> None:
        """A step begins; collect during it, or not."""
        self.sampling, self._sums = sample, {}

    @contextmanager
    def watch(self, task: str) -> Iterator[None]:
        """The backward pass inside this context is ``task``'s."""
        self._task = task if self.sampling else None
        yield
        self._task = None

    def cosines(self) -> dict[str, float]:
        """``{"a~b": cosine}`` for every pair of tasks of a sampled step, over all ranks; collective, else empty."""
        if not self._sums:
            return {}
        tasks = list(self._sums)
        names = sorted(set.intersection(*(set(seen) for seen in self._sums.values())))
        whole = torch.stack([torch.cat([self._sums[task][name].flatten() for name in names]) for task in tasks])
        dist.all_reduce(whole)
        unit = nn.functional.normalize(whole, dim=1)
        cosine = (unit @ unit.T).tolist()
        return {f"{tasks[i]}~{tasks[j]}": cosine[i][j] for i, j in combinations(range(len(tasks)), 2)}

    def _see(self, name: str, gradient: Tensor) -> None:
        if self._task is not None:
            mine, value = self._sums.setdefault(self._task, {}), gradient.detach().float()
            mine[name] = mine[name] + value if name in mine else value.clone()


def watched(backbone: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The matrices of at most :data:`WATCHED_BLOCKS` blocks, spread evenly over the depth."""
    blocks: nn.ModuleList = backbone.blocks  # type: ignore[assignment]
    count = min(WATCHED_BLOCKS, len(blocks))
    chosen = sorted({round(i * (len(blocks) - 1) / max(1, count - 1)) for i in range(count)})
    return [
        (f"{index}.{name}", parameter)
        for index in chosen
        for name, parameter in blocks[index].named_parameters()
        if parameter.dim() == 2
    ]
