"""What training will compute and keep, from the tasks' own code run on tensors without content.

Student and teachers are made of the recipe's shapes, with torch's fake tensors: no memory is taken, no weights are
read, nothing is computed, and every operation of a forward and a backward is met. So no formula stands beside the code
that it would have to follow. Frame-causal attention is met as a CPU runs it, one call a frame over the frames so far:
what it skips is not counted. What decides where code goes (masks, counts, token numbers) is real.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import (
    flop_registry,
    register_flop_formula,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from interlace.backbone import Backbone, BackboneNoise, FrozenBackbone
from interlace.data_recipes import generator
from interlace.data_recipes.schema import Recipe
from interlace.pretrain.student import Student
from interlace.tasks import TASKS
from interlace.tasks.interface import Batch, Progress, Task, TaskContext, TaskOptions

#: Samples of a rank's micro-batch that are rehearsed; of more, the rest is taken in proportion.
MOST = 16


@dataclass(frozen=True)
class Mix:
    """Samples of one rank's micro-batch, by kind."""

    images: int
    clips: int

    def __len__(self) -> int:
        return self.images + self.clips


@dataclass(frozen=True)
class Rehearsal:
    """One micro-batch's forward and backward. ``flops``: multiplications and additions, teachers' and recomputed ones
    included. ``peak``: bytes that its operations made and that were there at once, at most. ``casts``: of them, half
    precision copies of weights, which do not grow with the batch."""

    flops: int
    peak: int
    casts: int


class Meter(TorchDispatchMode):
    """Counts what the operations inside of it compute, and the bytes of what they make while it is there.

    ``held``: what was there before, and is not counted; ``weights``, the part of it whose copies are casts.
    """

    def __init__(self, held: Sequence[Tensor] = (), weights: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.flops = self.live = self.peak = self.casts = 0
        self._cast_live = 0
        self._held = [tensor.untyped_storage() for tensor in (*held, *weights)]
        self._known: dict[int, tuple[int, bool]] = {storage._cdata: (0, False) for storage in self._held}
        self._weights = {tensor.untyped_storage()._cdata for tensor in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.prim.device.default:  # asked for thousands of times, and makes nothing
            return out
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        cast = func is torch.ops.aten._to_copy.default and args[0].untyped_storage()._cdata in self._weights
        for made in tree_leaves(out):
            if isinstance(made, Tensor):
                self._note(made.untyped_storage(), cast)
        return out

    def _note(self, storage: Any, cast: bool) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = (size, cast)
        weakref.finalize(storage, self._forget, key).atexit = False
        self.live += size
        self._cast_live += size * cast
        if self.live > self.peak:
            self.peak, self.casts = self.live, self._cast_live

    def _forget(self, key: int) -> None:
        size, cast = self._known.pop(key)
        self.live -= size
        self._cast_live -= size * cast


class Stage:
    """The first of ``world`` ranks of a recipe: :attr:`student` and :attr:`teachers`, of shapes without content."""

    def __init__(self, recipe: Recipe, world: int) -> None:
        config = recipe.backbone.config
        context = TaskContext(config, recipe.seed, 0, world, torch.device("meta"))
        with torch.device("meta"):
            tasks = {name: TASKS[name](cast(TaskOptions, part.options), context) for name, part in recipe.tasks.items()}
            self.student = Student(FrozenBackbone(config) if recipe.backbone.frozen else Backbone(config), tasks)
            self.teachers = {name: task.build_teacher(self.student.backbone) for name, task in tasks.items()}
        self._recipe = recipe
        # What is not fake becomes so where it meets what is: masks and indices stay real among themselves.
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        originals = list(self._tensors())
        fakes = {id(tensor): self._fake(tensor) for tensor in originals}
        for module in self._modules():
            for place in (module._parameters, module._buffers):
                for name, tensor in place.items():
                    if tensor is not None:
                        # What modules share, they go on sharing; elsewhere it may have been replaced already.
                        place[name] = fakes.get(id(tensor), tensor)  # type: ignore[assignment]
        for task in tasks.values():
            for shard in task.sharded():
                task.put_sharded(shard.name, fakes[id(shard.local)])
        for tensor in self._tensors():
            if tensor.requires_grad:
                # Its gradient joins the step's, which are counted apart.
                tensor.register_post_accumulate_grad_hook(_let_go)

    def rehearse(self, name: str, mix: Mix) -> Rehearsal:
        """Forward and backward of one micro-batch. Only of a task that has a ``largest_sample``."""
        task = cast(Task, self.student.tasks[name])
        items = [self._item(task, still=True)] * mix.images if mix.images else []
        items += [self._item(task, still=False)] * mix.clips if mix.clips else []
        batch = self._without_content(task.collate(items))
        engine = self._recipe.engine
        progress = Progress(0, engine.steps, self._recipe.seed)
        held = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
        with Meter(held, list(self._tensors())) as meter:
            with torch.autocast(
                "cpu", torch.bfloat16, enabled=engine.precision == "bf16", cache_enabled=engine.zero.stage < 3
            ):
                terms = self.student(name, batch, self.teachers[name], progress)
            torch.stack([term.sum.float() for term in terms.values()]).sum().backward()
            del terms
        return Rehearsal(meter.flops, meter.peak, meter.casts)

    def _item(self, task: Task, *, still: bool) -> Any:
        sample = task.largest_sample(still)
        assert sample is not None
        return task.item(sample, generator(0, task.name))

    def _fake(self, tensor: Tensor) -> Tensor:
        with self._mode:
            fake = torch.empty(tensor.shape, dtype=tensor.dtype)
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(fake, tensor.requires_grad)
        return fake.requires_grad_(tensor.requires_grad)

    def _modules(self) -> Iterator[nn.Module]:
        for whole in (self.student, self.student.backbone, *filter(None, self.teachers.values())):
            yield from whole.modules()

    def _tensors(self) -> Iterator[Tensor]:
        held = (store for module in self._modules() for store in (module._parameters, module._buffers))
        found = {id(tensor): tensor for store in held for tensor in store.values() if tensor is not None}
        for task in self.student.tasks.values():
            found |= {id(shard.local): shard.local for shard in cast(Task, task).sharded()}
        return iter(found.values())

    def _without_content(self, batch: Batch) -> Batch:
        """The same batch; its frames and what has fractions without content, everything else as it is."""

        def emptied(leaf: Any) -> Any:
            if isinstance(leaf, BackboneNoise):
                return BackboneNoise(emptied(leaf.rope_scale), emptied(leaf.keep.float()).bool())
            if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or leaf.dtype == torch.uint8):
                return leaf
            with self._mode:
                return torch.empty(leaf.shape, dtype=leaf.dtype)

        return cast(Batch, tree_map(emptied, batch))


def _let_go(weight: Tensor) -> None:
    weight.grad = None


def _attention(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **more: Any) -> int:
    """Of torch's attention on a CPU, which its own registry leaves out."""
    return _seen(sdpa_flop_count(query, key, value), query, key, rest, more)


def _attention_backward(
    slope: Any, query: Any, key: Any, value: Any, out: Any, sums: Any, *rest: Any, out_shape: Any = None, **more: Any
) -> int:
    return _seen(sdpa_backward_flop_count(slope, query, key, value), query, key, rest, more)


def _seen(flops: int, query: Any, key: Any, rest: Sequence[Any], more: Mapping[str, Any]) -> int:
    """A causal decoder's kernels skip the keys that come later: ``is_causal`` is the second of the ``rest``."""
    causal = more.get("is_causal", rest[1] if len(rest) > 1 else False)
    length = query[-2]
    return flops * (length + 1) // (2 * length) if causal and length == key[-2] else flops


_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_CPU_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
for _operation, _formula in ((_CPU_ATTENTION, _attention), (_CPU_ATTENTION_BACKWARD, _attention_backward)):
    if _operation not in flop_registry:
        register_flop_formula(_operation)(_formula)
