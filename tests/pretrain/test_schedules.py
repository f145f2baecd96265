"""The learning rate against torch's own schedulers."""

from __future__ import annotations

import pytest
import torch

from interlace.pretrain.schedules import learning_rate


def test_equals_torchs_linear_then_cosine() -> None:
    steps, warmup, peak, final = 50, 8, 3e-4, 2e-5
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=peak)
    linear = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps - 1 - warmup, eta_min=final)
    whole = torch.optim.lr_scheduler.SequentialLR(optimizer, [linear, cosine], milestones=[warmup])
    for step in range(steps):
        ours = learning_rate(step, steps=steps, peak=peak, warmup=warmup, final=final)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        whole.step()


def test_ends_at_the_final_rate() -> None:
    assert learning_rate(99, steps=100, peak=1.0, warmup=10, final=0.1) == pytest.approx(0.1)
    assert learning_rate(0, steps=1, peak=1.0, warmup=0, final=0.0) == pytest.approx(1.0)
