"""Camera head: a pose from each frame's camera token (OmniStream section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CameraHead(nn.Module):
    """Two hidden layers, then translation, quaternion and field of view. Before training: about the first camera."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, hidden_size), nn.ReLU()
        )
        self.translation = nn.Linear(hidden_size, 3)
        self.quaternion = nn.Linear(hidden_size, 4)
        self.fov = nn.Linear(hidden_size, 2)
        # A field of view of one radian, because a ReLU that begins below zero for all inputs never learns.
        for layer, start in ((self.translation, (0, 0, 0)), (self.quaternion, (0, 0, 0, 1)), (self.fov, (1, 1))):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            with torch.no_grad():
                layer.bias.copy_(torch.tensor(start))

    def forward(self, tokens: Tensor) -> Tensor:
        """Camera tokens [..., D], fp32 -> poses [..., 9].

        Quaternion xyzw (not normalised), translation in normalised units, field of view (vertical, horizontal) in
        radians >= 0: the first frame's camera is the world.
        """
        hidden = self.hidden(tokens)
        return torch.cat((self.quaternion(hidden), self.translation(hidden), self.fov(hidden).relu()), dim=-1)
