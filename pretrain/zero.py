"""The optimizer step of a sharded student: DeepSpeed's ZeRO stages 0 to 3, made exact for interlaced tasks.

The only file that imports DeepSpeed. What a caller may rely on, at every stage and world size:

- gradients of all micro-batches of a step are *summed*, and averaged over ranks (so the caller multiplies each rank's
  loss by the world size);
- a parameter that no micro-batch of a step used has a gradient of zero, so its Adam moments decay;
- nothing is clipped, skipped or rescaled but by the ``scale`` that :meth:`ZeroEngine.step` is given;
- parameters, moments and gradients are fp32; "bf16" is autocast inside the forward pass.

Within a micro-batch every rank must run the same modules in the same order.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from interlace.tasks.interface import Batch, Progress, Term

from .groups import parameter_groups
from .partitions import (
    MOMENTS,
    WEIGHT,
    Partition,
    PartitionedOptimizer,
    PartitionedParameters,
    Replicated,
    TaskTraces,
    piece,
)
from .student import Student

OPTIMIZERS: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}

#: ZeRO-3 keeps smaller parameters whole on every rank: gathering them costs more than holding them.
PERSISTENT_ELEMENTS = 100_000
#: Elements reduced or gathered together: 200 MB of fp32.
BUCKET_ELEMENTS = 50_000_000


@dataclass(frozen=True)
class ZeroConfig:
    """How the student is partitioned and stepped. ``offload``: where masters, moments and Adam live.

    ``rates``: of parts of the student, as multiples of the rate that a step is taken at (:mod:`.groups`).
    """

    stage: int = 0
    offload: Literal["none", "cpu"] = "none"
    precision: Literal["fp32", "bf16"] = "fp32"
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.stage not in (0, 1, 2, 3):
            raise ValueError(f"zero.stage is {self.stage}: choose 0, 1, 2 or 3")
        if self.offload == "cpu" and self.stage == 0:
            raise ValueError("zero.offload 'cpu' needs zero.stage 1, 2 or 3: stage 0 partitions nothing to move")


@dataclass(frozen=True)
class Held:
    """This rank's part of one parameter of a frozen module: all of it, or under stage 3 a piece.

    ``piece`` is a view of what the module computes with (flattened under stage 3), from element ``start`` on.
    """

    piece: Tensor
    start: int
    shape: torch.Size

    def write(self, whole: Tensor) -> None:
        """Take this rank's part of ``whole``, of shape :attr:`shape`."""
        self.piece.copy_(whole.reshape(-1).narrow(0, self.start, self.piece.numel()).view_as(self.piece))


class _MicroBatch(nn.Module):
    """What DeepSpeed wraps. It looks for tensors in dicts and tuples only, so terms leave as tuples."""

    def __init__(self, student: Student, device: torch.device, config: ZeroConfig) -> None:
        super().__init__()
        self.student = student
        # Inside the module: DeepSpeed switches off an autocast that surrounds its engine. No cache under ZeRO-3: it
        # would keep bf16 copies of weights that were gathered to be freed again.
        self._autocast: dict[str, Any] = {
            "device_type": device.type,
            "dtype": torch.bfloat16,
            "enabled": config.precision == "bf16",
            "cache_enabled": config.stage < 3,
        }

    def forward(
        self, *, task: str, batch: Batch, teacher: nn.Module | None, progress: Progress
    ) -> dict[str, tuple[Tensor, Tensor, float]]:
        with torch.autocast(**self._autocast):
            terms = self.student(task, batch, teacher, progress)
        return {name: (term.sum, term.count, term.weight) for name, term in terms.items()}


class ZeroEngine:
    """Forward, backward and the optimizer step of a student over all ranks of the default process group.

    Takes the student over: rank 0's weights become everybody's, and under stage 3 its parameters are partitioned and
    empty outside :meth:`forward` and :meth:`full_parameters`.
    """

    def __init__(self, student: Student, config: ZeroConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self._student = student.to(device)
        student.backbone.to(device)  # a frozen one is not within the student
        self._parameters: dict[str, Any] = dict(student.named_parameters())
        self._shapes = {name: p.shape for name, p in self._parameters.items()}
        for name, p in self._parameters.items():
            if p.dim() == 0:
                raise ValueError(
                    f"parameter {name} is a scalar, which DeepSpeed cannot broadcast: give it the shape [1]"
                )
        groups = parameter_groups(self._parameters, config.rates)
        self._rates = [rate for rate, _ in groups]
        self._adam = OPTIMIZERS[config.optimizer](
            [{"params": parameters, "lr": config.lr * rate} for rate, parameters in groups],
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._deepspeed = _import_deepspeed(device)
        self._engine, *_ = self._deepspeed.initialize(
            model=_MicroBatch(student, device, config),
            optimizer=self._adam,
            config=_deepspeed_config(config, device, elements=sum(p.numel() for _, group in groups for p in group)),
        )
        self._complete = False
        kinds: tuple[Any, ...] = (Replicated, PartitionedOptimizer, PartitionedOptimizer, PartitionedParameters)
        self._partition: Partition = kinds[config.stage](self._engine, self._parameters, self._adam)
        self._traces = TaskTraces(self._engine.optimizer.parameter_offload) if config.stage == 3 else None
        self._begin_step()

    # ---- one step

    def forward(self, task: str, batch: Batch, teacher: nn.Module | None, progress: Progress) -> dict[str, Term]:
        """The terms of this rank's part of a micro-batch. Under "bf16" matrix products run in bfloat16."""
        if self._traces is not None:
            self._traces.enter(task)
        outputs = self._engine(task=task, batch=batch, teacher=teacher, progress=progress)
        return {name: Term(*parts) for name, parts in outputs.items()}

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of ``loss`` (scalar) to the step's; ``last``: no other follows in this step."""
        if self._complete:
            raise RuntimeError("backward after the step's last backward: call step() or discard() first")
        self._engine.backward(loss, scale_wrt_gas=False)
        if last:
            # Every backward accumulates; a boundary is where the caller says so, not a count of micro-batches.
            self._engine.set_gradient_accumulation_boundary(True)
            self._partition.reduce()
            self._complete = True

    def gradient_norm(self) -> Tensor:
        """Scalar fp32 on the device: the L2 norm of the step's whole gradient, the same on every rank.

        Not finite where any element of any rank is not. Call it after the last backward.
        """
        parts = self._complete_gradients()
        square = torch.stack(torch._foreach_norm(parts)).double().square().sum().to(self.device)
        if self.config.stage > 0:
            dist.all_reduce(square)
        return square.sqrt().float()

    def step(self, lr: float, scale: float) -> None:
        """One Adam step at ``lr`` on the step's gradient times ``scale``, which must be finite.

        Parts with a rate of their own are stepped at that multiple of ``lr``.
        """
        parts = self._complete_gradients()
        if scale != 1.0:
            torch._foreach_mul_(parts, scale)
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group["lr"] = lr * rate
        self._engine.step()
        if not self._engine.was_step_applied():
            raise FloatingPointError("the gradient is not finite and no step was taken: discard() such a step")
        self._begin_step()

    def discard(self) -> None:
        """Forget the step's gradient: weights, moments and counters stay as they were before the step."""
        self._begin_step()

    def _begin_step(self) -> None:
        self._partition.clear()
        self._engine.set_gradient_accumulation_boundary(False)
        self._complete = False

    def _complete_gradients(self) -> list[Tensor]:
        if not self._complete:
            raise RuntimeError("the step has no last backward yet")
        return self._partition.gradients()

    # ---- weights and state, whole

    def named_masters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter's fp32 master, whole, on every rank, one at a time. Collective under stage 3."""
        for name in self._parameters:
            yield name, self._whole(name, WEIGHT)

    @property
    def trained(self) -> frozenset[str]:
        """Names of the parameters that steps change."""
        return frozenset(name for name, p in self._parameters.items() if p.requires_grad)

    def master(self, name: str) -> Tensor:
        """This rank's part of a parameter's fp32 master: under stage 3 a flattened piece, else the whole."""
        if self.config.stage < 3:
            return self._parameters[name].data
        fragment = self._partition.fragments.get(name)
        return torch.zeros(0, device=self.device) if fragment is None else fragment.parts[WEIGHT]

    def hold(self, module: nn.Module) -> dict[str, Held]:
        """Take over a module that is never trained by gradients; its parameters' parts match :meth:`master`'s.

        Under stage 3 its parameters are partitioned as the student's are and gathered where its submodules run.
        """
        parameters: dict[str, Any] = dict(module.named_parameters())
        shapes = {name: p.shape for name, p in parameters.items()}
        if self.config.stage < 3:
            return {name: Held(p.data, 0, shapes[name]) for name, p in parameters.items()}
        self._deepspeed.runtime.zero.parameter_offload.DeepSpeedZeRoOffload(
            module,
            timers=self._deepspeed.utils.timer.NoopTimer(),
            ds_config=self._engine.config,
            overlap_comm=False,
            # Its pieces change every step: nothing stays gathered after the submodule that needed it.
            param_persistence_threshold=0,
            max_reuse_distance=0,
            prefetch_bucket_size=0,
        )
        for submodule in module.modules():
            # Gathers a parameter that another module than its own reads.
            submodule._parameters._in_forward = True  # type: ignore[attr-defined]
        held = {}
        for name, p in parameters.items():
            start, numel = piece(p)
            held[name] = Held(p.ds_tensor.data.narrow(0, 0, numel), min(start, shapes[name].numel()), shapes[name])
        return held

    def whole(self, held: Held) -> Tensor:
        """A held parameter, whole, on every rank. Collective under stage 3."""
        return held.piece if self.config.stage < 3 else self._assemble(held.piece, held.start, held.shape)

    @contextmanager
    def full_parameters(self) -> Iterator[Student]:
        """The student as a plain module, parameters whole on every rank, without hooks. Collective; read only."""
        if self._traces is None:
            yield self._student
            return
        offload = self._engine.optimizer.parameter_offload
        offload.partition_all_parameters()
        with self._deepspeed.zero.GatheredParameters(list(self._parameters.values())):
            # Its hooks would gather and free again at every module, on ranks that need not run the same ones.
            for hook in (*offload.forward_hooks, *offload.backward_hooks):
                hook.remove()
            offload.forward_hooks, offload.backward_hooks = [], []
            try:
                yield self._student
            finally:
                offload._register_deepspeed_module(offload.module)
                self._traces.forget()

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """("weight/NAME", "exp_avg/NAME", "exp_avg_sq/NAME") and their whole fp32 tensors, one at a time; collective.

        Independent of stage and world size. Frozen parameters have no moments. With :attr:`adam_steps` it is all that
        :meth:`load_state` needs. What is already whole on this rank is not copied: copy what outlives the next step.
        """
        for name, key in self._entries():
            yield f"{key}/{name}", self._whole(name, key)

    @property
    def adam_steps(self) -> int:
        """How many optimizer steps were taken."""
        return int(self._partition.counters[0].item())

    def load_state(self, state: Iterable[tuple[str, Tensor]], adam_steps: int, *, begun: Collection[str] = ()) -> None:
        """Continue from a :meth:`state`, in any order, given whole on every rank.

        ``begun``: parameters that the state says nothing of, which stay as they are. Raises ValueError for tensors that
        are missing, of another shape, or of no parameter of this student.
        """
        expected = {f"{key}/{name}": (name, key) for name, key in self._entries() if name not in begun}
        for label, value in state:
            if label not in expected:
                raise ValueError(f"the checkpoint holds {label}, which this student has not (or twice)")
            self._write(*expected.pop(label), value)
        if expected:
            raise ValueError(f"the checkpoint lacks {', '.join(sorted(expected)[:5])} ({len(expected)} tensors)")
        for counter in self._partition.counters:
            counter.fill_(adam_steps)
        self._partition.refresh()

    def destroy(self) -> None:
        """Take DeepSpeed's hooks off the student."""
        self._engine.destroy()

    def _entries(self) -> Iterator[tuple[str, str]]:
        for name, p in self._parameters.items():
            for key in (WEIGHT, *MOMENTS) if p.requires_grad else (WEIGHT,):
                yield name, key

    def _whole(self, name: str, key: str) -> Tensor:
        if key == WEIGHT and self.config.stage < 3:
            return self._parameters[name].data
        fragment = self._partition.fragments.get(name)
        if fragment is not None and self.config.stage == 0:
            return fragment.parts[key].view(self._shapes[name])
        part = torch.zeros(0) if fragment is None else fragment.parts[key]
        return self._assemble(part, 0 if fragment is None else fragment.start, self._shapes[name])

    def _assemble(self, part: Tensor, start: int, shape: torch.Size) -> Tensor:
        whole = torch.zeros(shape.numel(), device=self.device)
        whole.narrow(0, start, part.numel()).copy_(part)
        # Added as integers, the bits of the one rank that holds an element arrive as they are, those of -0.0 too.
        dist.all_reduce(whole.view(torch.int32))
        return whole.view(shape)

    def _write(self, name: str, key: str, value: Tensor) -> None:
        if value.shape != self._shapes[name]:
            theirs, ours = list(value.shape), list(self._shapes[name])
            raise ValueError(f"{key} of {name} is {theirs} in the checkpoint and {ours} in this student")
        if key == WEIGHT and self.config.stage < 3:
            self._parameters[name].data.copy_(value)
        fragment = self._partition.fragments.get(name)
        if fragment is not None:
            part = fragment.parts[key]
            part.copy_(value.reshape(-1).narrow(0, fragment.start, part.numel()))


def _import_deepspeed(device: torch.device) -> ModuleType:
    """DeepSpeed decides at its import what it computes on, and reads its place on the node from the environment."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
    deepspeed = importlib.import_module("deepspeed")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if deepspeed.accelerator.get_accelerator().device_name() != device.type:
        raise ValueError(f"DeepSpeed was loaded for another device than {device}: set DS_ACCELERATOR={device.type}")
    # A minute of compiling at run time, for something that only inference uses.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed calls torch's collectives by the names they had before 2.13.
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
    hooks: Any = importlib.import_module("deepspeed.runtime.zero.parameter_offload")
    if not hasattr(hooks, "cured_by_interlace"):
        hooks.cured_by_interlace = True
        _look_into_dataclasses(hooks, importlib.import_module("deepspeed.runtime.zero.utils"))
        _notice_external_parameters(hooks)
        for stages in ("stage_1_and_2", "stage3"):
            # Walks over all parameters in every backward, to know where it ends without torch's callback at the end,
            # which every torch that this package runs with has: a millisecond a micro-batch on a small student.
            module: Any = importlib.import_module(f"deepspeed.runtime.zero.{stages}")
            module.count_used_parameters_in_backward = len
    return deepspeed


def _look_into_dataclasses(hooks: Any, utils: Any) -> None:
    """Let ZeRO-3's hooks find tensors inside dataclasses.

    A module's parameters come back in the backward pass through hooks on its output tensors, which DeepSpeed looks for
    in tuples, lists and dicts only. Behind a dataclass the parameters that the module owns itself would stay empty, and
    a product with an empty tensor is a gradient of zero, without an error.
    """
    original = utils.apply_to_tensors_only

    def apply_to_tensors_only(function: Any, value: Any, warning_msg_fn: Any = None) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            inner = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
            return dataclasses.replace(value, **apply_to_tensors_only(function, inner))
        return original(function, value, warning_msg_fn)

    # The original finds itself in its own module, the hooks find it in theirs.
    utils.apply_to_tensors_only = hooks.apply_to_tensors_only = apply_to_tensors_only


def _notice_external_parameters(hooks: Any) -> None:
    """Let ZeRO-3 survive a module that begins to read another module's parameter in the middle of a run.

    DeepSpeed adds the parameter to those of the module, and stops with a "tracing error" the next time that module runs
    if it already knew the order in which to gather ahead. It has to learn that order anew.
    """
    original = hooks.register_external_parameter

    def register_external_parameter(module: Any, parameter: Any) -> None:
        original(module, parameter)
        optimizer = getattr(parameter, "_z3_optimizer", None)
        if optimizer is not None and optimizer.parameter_offload.param_coordinator.is_complete_trace():
            optimizer.parameter_offload.param_coordinator._invalidate_trace()

    hooks.register_external_parameter = register_external_parameter


def _deepspeed_config(config: ZeroConfig, device: torch.device, elements: int) -> dict[str, Any]:
    bucket = max(1, min(BUCKET_ELEMENTS, elements))
    zero: dict[str, Any] = {
        "stage": config.stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": 2 * bucket,
        # Copies every gradient twice to keep a GPU's memory in one piece; a CPU's needs no keeping.
        "contiguous_gradients": device.type == "cuda",
    }
    if config.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu"}
    elif config.stage in (1, 2):
        # Ours includes what DeepSpeed does not hold.
        zero["compute_grad_norm"] = False
    if config.stage == 3:
        zero["stage3_param_persistence_threshold"] = PERSISTENT_ELEMENTS
        # It would replace torch.nn.functional.linear in the whole process, for teachers too.
        zero["memory_efficient_linear"] = False
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # The default is 1.0: a clip that nobody asked for.
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        # DeepSpeed's own CPU Adam is compiled at run time; torch's is fused as well.
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
        "timers": {"throughput": {"enabled": False}},
    }
