"""Where each ZeRO stage keeps this rank's part of the masters, of Adam's moments and of the gradients.

One class a kind of partition, all with the same few methods, so that :mod:`.zero` treats every stage alike. They read
and write what DeepSpeed holds, and cure what it gets wrong when several tasks share a step; each cure says why.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Fragment:
    """This rank's part of one parameter: elements ``start`` to ``start + n`` of the flattened whole.

    ``parts``: "weight" [n], the fp32 master, and for a trained parameter "exp_avg" and "exp_avg_sq" [n]. All are views
    of the storage that the optimizer updates.
    """

    start: int
    parts: Mapping[str, Tensor]


class Partition(Protocol):
    """What :mod:`.zero` asks of every stage."""

    #: this rank's part of every parameter it holds a part of
    fragments: Mapping[str, Fragment]
    #: Adam's step counters, one a tensor that the optimizer steps
    counters: list[Tensor]

    def reduce(self) -> None:
        """After the last backward of a step: average over ranks what is not averaged yet."""

    def gradients(self) -> list[Tensor]:
        """After :meth:`reduce`: this rank's part of the gradient, as the optimizer will read it. Padding is zero."""

    def clear(self) -> None:
        """Forget the step's gradients, wherever they are held."""

    def refresh(self) -> None:
        """After the masters were written: make the parameters follow."""


class Replicated:
    """Stage 0: every rank holds everything; gradients are averaged once, at the end of the step."""

    def __init__(self, engine: Any, parameters: Mapping[str, Any], optimizer: Optimizer) -> None:
        self._engine = engine
        self._trained = [p for p in parameters.values() if p.requires_grad]
        self.fragments: dict[str, Fragment] = {}
        for name, p in parameters.items():
            moments = start_adam(optimizer, p) if p.requires_grad else {}
            parts = {WEIGHT: p.data, **moments}
            self.fragments[name] = Fragment(0, {key: part.view(-1) for key, part in parts.items()})
        self.counters = [optimizer.state[p]["step"] for p in self._trained]

    def reduce(self) -> None:
        # Fills missing gradients with zeros, then averages.
        self._engine.allreduce_gradients()

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self._trained if p.grad is not None]

    def clear(self) -> None:
        for p in self._trained:
            p.grad = None

    def refresh(self) -> None:
        """The masters are the parameters."""


class PartitionedOptimizer:
    """Stages 1 and 2: every rank holds all weights, and masters, moments and gradients of one stretch of each group."""

    def __init__(self, engine: Any, parameters: Mapping[str, Any], optimizer: Optimizer) -> None:
        self._engine, self._zero = engine, engine.optimizer
        self._flats = self._zero.single_partition_of_fp32_groups
        groups = [{WEIGHT: flat.data, **start_adam(optimizer, flat)} for flat in self._flats]
        group_of = {id(p): index for index, group in enumerate(self._zero.bit16_groups) for p in group}
        self.counters = [optimizer.state[flat]["step"] for flat in self._flats]
        self.fragments: dict[str, Fragment] = {}
        for name, p in parameters.items():
            if p.requires_grad and p._hp_mapping is not None:
                part, place = p._hp_mapping.lp_fragment_address, p._hp_mapping.hp_fragment_address
                flat = groups[group_of[id(p)]]
                views = {key: whole.narrow(0, place.start, place.numel) for key, whole in flat.items()}
                self.fragments[name] = Fragment(part.start, views)

    def reduce(self) -> None:
        if self._zero.partition_gradients:
            self._zero.finalize_gradient_accumulation_boundary()
        else:
            self._engine.allreduce_gradients()

    def gradients(self) -> list[Tensor]:
        if not self._zero.cpu_offload:
            return [part for group in range(len(self._flats)) for part in self._zero.averaged_gradients[group]]
        self._zero._wait_for_offload_copies()
        return [flat.grad for flat in self._flats]

    def clear(self) -> None:
        zero = self._zero
        zero.zero_grad(set_to_none=True)
        zero.micro_step_id = -1
        for group in range(len(self._flats)):
            zero.averaged_gradients[group] = zero.all_grad_tensors[group] = None
        if zero.cpu_offload:
            # DeepSpeed overwrites last step's gradient only where a parameter's first gradient comes in the first
            # micro-batch, adds to it elsewhere, and keeps it for parameters that the step does not use.
            for partition in self._flats:
                partition.grad.zero_()
            for held in zero.accumulated_grads_in_cpu.values():
                held.zero_()
            zero._offload_accumulated_param_ids = set()
            zero.reset_cpu_buffers()

    @torch.no_grad()
    def refresh(self) -> None:
        self._zero.update_lp_params()


class PartitionedParameters:
    """Stage 3: every rank holds one piece of each parameter, of its moments and of its gradient."""

    def __init__(self, engine: Any, parameters: Mapping[str, Any], optimizer: Optimizer) -> None:
        self._zero = zero = engine.optimizer
        flats = zero.fp32_partitioned_groups_flat
        groups = [{WEIGHT: flat.data, **start_adam(optimizer, flat)} for flat in flats]
        self.counters = [optimizer.state[flat]["step"] for flat in flats]
        self.fragments: dict[str, Fragment] = {}
        for name, p in parameters.items():
            start, numel = piece(p)
            if numel == 0:
                continue
            if p.requires_grad:
                group, place, _ = zero.grad_position[zero.get_param_id(p)]
                views = {key: whole.narrow(0, place, numel) for key, whole in groups[group].items()}
            else:
                views = {WEIGHT: p.ds_tensor.data.narrow(0, 0, numel)}
            self.fragments[name] = Fragment(start, views)

    def reduce(self) -> None:
        self._zero.finalize_gradient_accumulation_boundary()

    def gradients(self) -> list[Tensor]:
        zero = self._zero
        if zero.offload_optimizer:
            return [flat.grad for flat in zero.fp32_partitioned_groups_flat]
        return [zero.grad_partitions_flat_buffer]

    def clear(self) -> None:
        zero = self._zero
        zero.zero_grad(set_to_none=True)
        zero.averaged_gradients = {}
        # DeepSpeed overwrites last step's gradient in the first micro-batch of a step and adds to it afterwards: a
        # parameter that is first used later, or not at all, would be stepped with last step's gradient too.
        zero.grad_partitions_flat_buffer.zero_()
        zero._offload_boundary_param_ids = set()
        if zero.offload_optimizer:
            for flat in zero.fp32_partitioned_groups_flat:
                flat.grad.zero_()
            zero.reset_cpu_buffers()

    @torch.no_grad()
    def refresh(self) -> None:
        zero = self._zero
        # What is gathered now has the old values; it is gathered anew where it is used next.
        zero._partition_all_parameters()
        for group in range(len(zero.fp16_groups)):
            zero._reassign_or_swap_out_partitioned_parameters(group)


class TaskTraces:
    """Lets ZeRO-3 gather ahead although tasks run different modules.

    DeepSpeed gathers along the order in which modules ran in the forward before, and forgets the order wherever the
    next one differs: with tasks in turn it would hardly ever gather ahead. Here every task has an order of its own.
    """

    def __init__(self, offload: Any) -> None:
        self._offload = offload
        self._untraced = copy.copy(offload.param_coordinator)
        self._of_task: dict[str, Any] = {}
        self._external = 0

    def enter(self, task: str) -> None:
        """The coming forward and backward are of ``task``."""
        external = sum(len(module._external_params) for module in self._offload.module.modules())
        if external != self._external:
            # A module began to read another module's parameter, perhaps in another task: no order known so far has it.
            self._external = external
            self.forget()
        if task not in self._of_task:
            self._of_task[task] = copy.copy(self._untraced)
            self._of_task[task]._clear_trace_structures()
        self._offload.param_coordinator = self._of_task[task]

    def forget(self) -> None:
        """Learn every task's order anew."""
        self._of_task.clear()

    def learned(self) -> set[str]:
        """The tasks whose order is known."""
        return {task for task, coordinator in self._of_task.items() if coordinator.is_complete_trace()}


def piece(p: Any) -> tuple[int, int]:
    """Where this rank's piece of a parameter that ZeRO-3 partitioned begins, and how many elements it has."""
    start = dist.get_rank() * p.partition_numel()
    return start, max(0, min(p.partition_numel(), p.ds_numel - start))


def start_adam(optimizer: Optimizer, flat: Tensor) -> dict[str, Tensor]:
    """Adam's moments of ``flat``, made now as its first step would, so that they can be read and written before it."""
    state = optimizer.state[flat]
    state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
    for moment in MOMENTS:
        state[moment] = torch.zeros_like(flat)
    return {moment: state[moment] for moment in MOMENTS}
