"""From what the language model says at the query to a chunk of actions."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


def _mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers of these sizes, ReLU between them; Xavier-uniform weights, zero biases (VLM4VLA)."""
    layers: list[nn.Module] = []
    for given, wanted in itertools.pairwise(sizes):
        linear = nn.Linear(given, wanted)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class ActionHead(nn.Module):
    """MLPs from a query's last hidden state [R, E] to ``chunk`` actions of an arm with ``axes`` axes and a gripper.

    The form is VLM4VLA's: E -> E / 2 -> ``size``, then for arm and gripper each ``size`` -> size -> size / 2 ->
    size / 4 -> their numbers.
    """

    def __init__(self, width: int, size: int, chunk: int, axes: int) -> None:
        super().__init__()
        self.chunk, self.axes = chunk, axes
        self.trunk = _mlp([width, max(width // 2, 1), size])
        narrowing = [size, size, size // 2, size // 4]
        self.arm = _mlp([*narrowing, chunk * axes])
        self.gripper = _mlp([*narrowing, chunk])

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Arm [R, chunk, axes] in -1...1, and the gripper's logits [R, chunk] (of being open)."""
        seen = self.trunk(hidden)
        return torch.tanh(self.arm(seen)).unflatten(1, (self.chunk, self.axes)), self.gripper(seen)
