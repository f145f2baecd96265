"""A tiny self-supervised task on a tiny backbone, in float64: what several tests build the same way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from interlace.backbone import Backbone, BackboneConfig
from interlace.data_recipes import Sample, generator
from interlace.tasks.collectives import sum_over_ranks
from interlace.tasks.interface import Progress, TaskContext, Term
from interlace.tasks.ssl import Ssl, SslOptions
from interlace.tasks.ssl.task import Teacher

# layer_scale 1: every block changes its input, so that a wrong input cannot go unnoticed
CONFIG = BackboneConfig(
    hidden_size=32, depth=2, heads=2, mlp_size=48, patch_size=8, registers=1, drop_path=0.2, layer_scale=1.0
)
HALFWAY = Progress(step=50, steps=100, seed=0)


def options(**changes: object) -> SslOptions:
    small: dict[str, object] = {
        "frames": 3,
        "global_size": 32,
        "local_size": 16,
        "local_crops": 2,
        "dino_prototypes": 12,
        "ibot_prototypes": 10,
        "head_hidden": 24,
        "head_bottleneck": 8,
        "probe_frames": 2,
        "neighbours": 3,
    }
    return SslOptions(**{**small, **changes})


def build(config: BackboneConfig = CONFIG, **changes: object) -> tuple[Ssl, Backbone, Teacher]:
    """The task, the student's backbone, and a teacher that is not quite the student any more."""
    torch.manual_seed(0)
    task, backbone = Ssl(options(**changes), TaskContext(config, seed=0)), Backbone(config)
    with torch.no_grad():
        # large weights: at their deviation of .02 a tiny backbone barely looks at its input
        for module in (task, backbone):
            for parameter in module.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(6)
    teacher = task.build_teacher(backbone)
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if not name.startswith("gram."):
                parameter.add_(0.1 * parameter.std(correction=0) * torch.randn_like(parameter))
    return task.double(), backbone.double(), teacher.double()


def sample(number: int, frames: int, label: int | None = None) -> Sample:
    """A clip (or image) of smooth colours; ``label`` tints it."""
    rng = generator(7, "sample", number)
    coarse = rng.integers(0, 160, (frames, 5, 6, 3)).astype(np.uint8)
    pixels = coarse.repeat(8, axis=1).repeat(8, axis=2)
    if label is not None:
        pixels[..., label % 3] = np.minimum(pixels[..., label % 3].astype(int) + 90, 255)
    return Sample(
        key=f"made/{number}",
        source="made",
        frames=pixels,
        times=np.arange(frames) / 8,
        labels={} if label is None else {"tint": label},
    )


def items(task: Ssl, lengths: Sequence[int]) -> list:
    """One item a sample, with ``lengths`` frames each; its draws depend on its place alone."""
    return [task.item(sample(n, length), generator(0, "item", n)) for n, length in enumerate(lengths)]


def total(terms: dict[str, Term]) -> Tensor:
    """This rank's part of the objective: what the engine minimises with a task weight of 1."""
    parts = []
    for term in terms.values():
        count = sum_over_ranks(term.count)
        parts.append(term.weight * term.sum / (count if count > 0 else 1))
    return torch.stack(parts).sum()


def gradients(task: Ssl, backbone: Backbone, objective: Tensor) -> dict[str, Tensor]:
    """By parameter name; zeros where a parameter takes no part."""
    named = {f"backbone.{name}": p for name, p in backbone.named_parameters()} | dict(task.named_parameters())
    found = torch.autograd.grad(objective, list(named.values()), allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(named.items(), found, strict=True)
    }
