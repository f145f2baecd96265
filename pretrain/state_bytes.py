"""How many bytes a student's state takes on a rank: what ZeRO's stages hold of what, without building an engine.

Everything is fp32, under "bf16" too, which is autocast over fp32 parameters. Tests hold these numbers against the
tensors that a running engine has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import zero

FP32 = 4
#: ZeRO-1 and 2 pad each group of parameters to a multiple of this many elements a rank.
ALIGNMENT = 2
#: DeepSpeed's own bounds, which the engine leaves alone: elements that stage 0 averages together, and parameters that
#: stage 3 keeps gathered.
AVERAGED_ELEMENTS, GATHERED_ELEMENTS = 500_000_000, 1_000_000_000


@dataclass(frozen=True)
class StateBytes:
    """Bytes on one rank.

    ``parameters``: what modules compute with; under stage 3 a piece of each, and the small ones whole besides.
    ``masters``: the optimizer's copy of this rank's part (stages 1 to 3). ``moments``: Adam's two. ``gradients``:
    between the micro-batches of a step; under stage 2 a parameter across the border of two ranks is whole on both,
    which is left out. ``buffers``: what reducing and gathering takes, at most, an estimate. ``host``: what offloading
    keeps in the host's memory, masters and moments among it, which then are 0 here.
    """

    parameters: int
    masters: int
    moments: int
    gradients: int
    buffers: int
    host: int = 0


def state_bytes(
    groups: Sequence[Sequence[int]], frozen: Sequence[int], *, stage: int, offload: bool, world: int
) -> StateBytes:
    """Of a student whose trained parameters have these elements, by the groups that :mod:`.groups` makes of them.

    ``frozen``: elements of the student's parameters that are not trained. ``world``: number of ranks.
    """
    trained = [numel for group in groups for numel in group]
    total, whole = sum(trained), FP32 * (sum(trained) + sum(frozen))
    if stage == 0:
        return StateBytes(whole, 0, 2 * FP32 * total, FP32 * total, FP32 * min(total, AVERAGED_ELEMENTS))
    bucket = FP32 * min(total, zero.BUCKET_ELEMENTS)
    if stage < 3:
        padded = sum(_padded(sum(group), ALIGNMENT * world) for group in groups)
        part = FP32 * padded // world
        # Stage 1 adds whole gradients up and divides them at the step's end.
        gradients = FP32 * total if stage == 1 else part
        parameters, buffers = FP32 * (padded + sum(frozen)), bucket
    else:
        part = gradients = sharded_bytes(trained, world)
        small = [numel for numel in (*trained, *frozen) if numel <= zero.PERSISTENT_ELEMENTS]
        parameters = part + sharded_bytes(frozen, world) + world * sharded_bytes(small, world)
        buffers = 2 * bucket + FP32 * min(total, GATHERED_ELEMENTS)
    if not offload:
        return StateBytes(parameters, part, 2 * part, gradients, buffers)
    if stage == 3:
        # Masters, moments, the step's gradient and a second sum of it.
        return StateBytes(parameters, 0, 0, 0, buffers, 5 * part)
    # Masters, moments, the step's gradient, a copy of the masters, and on both sides room for the gradient of one
    # parameter on its way. Micro-batches are added up on the device under stage 1, on the host under stage 2.
    way = FP32 * max(trained)
    summed = gradients if stage == 1 else 0
    return StateBytes(parameters, 0, 0, summed + way, buffers, (5 if stage == 1 else 6) * part + way)


def sharded_bytes(sizes: Iterable[int], world: int) -> int:
    """Of a rank's pieces of tensors with these elements, each cut alone, as ZeRO-3 cuts parameters and teachers."""
    return FP32 * sum(_padded(numel, world) // world for numel in sizes)


def teacher_bytes(sizes: Sequence[int], *, stage: int, world: int) -> int:
    """Of a teacher's parameters on one rank: all of it, but under stage 3 a piece of each."""
    return sharded_bytes(sizes, world) if stage == 3 else FP32 * sum(sizes)


def centre_bytes(rows: int, width: int, *, world: int) -> int:
    """Of a matrix that its task splits over ranks, on the rank with most rows: itself, its moments, its gradient."""
    return 4 * FP32 * -(-rows // world) * width


def _padded(numel: int, multiple: int) -> int:
    return -(-numel // multiple) * multiple
