"""Adam for the matrices that tasks keep split over ranks, outside DeepSpeed (cluster centres)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from interlace.tasks.interface import Sharded

from .partitions import MOMENTS, WEIGHT, start_adam
from .zero import OPTIMIZERS


class ShardedAdam:
    """Steps every rank's rows of every task's sharded matrices, as one Adam over the whole matrices would.

    The loss that the engine runs backward on carries a factor ``world``, because DeepSpeed averages gradients over
    ranks. Nothing averages these: their gradient is divided by ``world`` here. A matrix without a gradient in a step
    has a gradient of zero.
    """

    def __init__(
        self,
        matrices: Mapping[str, Sequence[Sharded]],
        *,
        optimizer: str = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """``matrices``: task -> what its ``sharded()`` returns, the same tasks and names on every rank."""
        self._matrices = {f"{task}.{m.name}": m for task, found in matrices.items() for m in found}
        self._world = dist.get_world_size()
        self._adam: torch.optim.Adam | None = None
        if self._matrices:
            rows = [m.local for m in self._matrices.values()]
            self._adam = OPTIMIZERS[optimizer](rows, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
            for local in rows:
                start_adam(self._adam, local)

    def squared_norm(self) -> Tensor:
        """Scalar fp32: the squared L2 norm of the whole gradient of all matrices, equal on every rank. Collective."""
        if not self._matrices:
            return torch.zeros(())
        parts = [m.local.grad for m in self._matrices.values() if m.local.grad is not None]
        square = torch.zeros((), dtype=torch.float64, device=next(iter(self._matrices.values())).local.device)
        if parts:
            square += torch.stack(torch._foreach_norm(parts)).double().square().sum() / self._world**2
        dist.all_reduce(square)
        return square.float()

    def step(self, lr: float, scale: float) -> None:
        """One Adam step at ``lr`` on the step's gradient times ``scale``."""
        if self._adam is None:
            return
        for m in self._matrices.values():
            if m.local.grad is None:
                m.local.grad = torch.zeros_like(m.local)
            m.local.grad.mul_(scale / self._world)
        for group in self._adam.param_groups:
            group["lr"] = lr
        self._adam.step()
        self.discard()

    def discard(self) -> None:
        """Forget the step's gradient; nothing else changes."""
        for m in self._matrices.values():
            m.local.grad = None

    @property
    def adam_steps(self) -> int:
        """How many steps were taken."""
        if self._adam is None:
            return 0
        return int(next(iter(self._adam.state.values()))["step"].item())

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """("weight/TASK.NAME", "exp_avg/...", "exp_avg_sq/...") and the whole [rows, D] matrices; collective.

        Whole on the first rank, empty on the others; one at a time, independent of the world size.
        """
        for name, m in self._matrices.items():
            for key in (WEIGHT, *MOMENTS):
                yield f"{key}/{name}", _gather_rows(m, self._part(m, key))

    def load_state(self, state: Iterable[tuple[str, Tensor]], adam_steps: int) -> None:
        """Continue from a :meth:`state`, in any order, given whole on every rank.

        Raises ValueError for matrices that are missing, of another shape, or of no task.
        """
        expected = {f"{key}/{name}": (m, key) for name, m in self._matrices.items() for key in (WEIGHT, *MOMENTS)}
        for label, whole in state:
            if label not in expected:
                raise ValueError(f"the checkpoint holds {label}, which no task of this run has (or twice)")
            m, key = expected.pop(label)
            if whole.shape != (m.rows, m.local.shape[1]):
                ours = [m.rows, m.local.shape[1]]
                raise ValueError(f"{label} is {list(whole.shape)} in the checkpoint and {ours} in this run")
            self._part(m, key).copy_(whole[m.start : m.start + len(m.local)])
        if expected:
            raise ValueError(f"the checkpoint lacks {', '.join(sorted(expected))}")
        if self._adam is not None:
            for held in self._adam.state.values():
                held["step"].fill_(adam_steps)

    def _part(self, m: Sharded, key: str) -> Tensor:
        assert self._adam is not None
        return m.local.data if key == WEIGHT else self._adam.state[m.local][key]


def _gather_rows(m: Sharded, part: Tensor) -> Tensor:
    """[rows, D] on the first rank, from every rank's rows in turn; [0, D] elsewhere."""
    places = torch.zeros(dist.get_world_size(), 2, dtype=torch.int64, device=part.device)
    places[dist.get_rank()] = torch.tensor([m.start, len(part)])
    dist.all_reduce(places)
    if dist.get_rank() != 0:
        if len(part):
            dist.send(part.contiguous(), dst=0)
        return part.new_zeros((0, part.shape[1]))
    whole = torch.empty((m.rows, part.shape[1]), dtype=part.dtype)
    for source, (start, rows) in enumerate(places.tolist()):
        if rows:
            received = part if source == 0 else torch.empty((rows, part.shape[1]), dtype=part.dtype, device=part.device)
            if source:
                dist.recv(received, src=source)
            whole[start : start + rows] = received
    return whole
