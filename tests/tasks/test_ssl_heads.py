"""The projection head against its formula in float64, and what it must not lose in half precision."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from interlace.tasks.ssl.heads import DinoHead


def gelu(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))


def test_scores_are_cosines_of_the_mlp_s_output_and_the_prototypes() -> None:
    torch.manual_seed(0)
    head = DinoHead(6, 10, 4, 7).double()
    with torch.no_grad():
        for parameter in head.parameters():  # biases too; prototypes of any length
            parameter.normal_()
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    found = head(x)
    state = head.state_dict()
    h = gelu(x @ state["mlp.0.weight"].T + state["mlp.0.bias"])
    h = gelu(h @ state["mlp.2.weight"].T + state["mlp.2.bias"])
    h = h @ state["mlp.4.weight"].T + state["mlp.4.bias"]
    for view in range(2):
        for row in range(3):
            for k, prototype in enumerate(state["prototypes.weight"]):
                cosine = (h[view, row] @ prototype) / (h[view, row].norm() * prototype.norm())
                score = found.rows[view, row] @ found.prototypes[k]
                torch.testing.assert_close(score, cosine, rtol=1e-12, atol=1e-12)


def test_under_autocast_the_mlp_alone_is_in_half_precision() -> None:
    torch.manual_seed(0)
    head = DinoHead(8, 16, 64, 5)
    x = torch.randn(1, 4, 8)
    plain = head(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = head(x)
    assert mixed.rows.dtype == mixed.prototypes.dtype == torch.float32
    assert torch.equal(mixed.prototypes, plain.prototypes)
    # unit length to fp32's precision, not to bf16's 4e-3
    torch.testing.assert_close(mixed.rows.norm(dim=-1), torch.ones(1, 4), rtol=1e-6, atol=0)
    assert 0 < (mixed.rows - plain.rows).abs().max() < 0.02
