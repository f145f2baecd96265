"""Positions turn tokens and do nothing else."""

from __future__ import annotations

import pytest
import torch
from lively import tiny
from torch import Tensor
from transformers import DINOv3ViTConfig
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTRopePositionEmbedding

from interlace.backbone.config import BackboneConfig
from interlace.backbone.rope import rotate, rotation

ROWS, COLUMNS = 4, 6
CONFIG = BackboneConfig(hidden_size=128, depth=1, heads=2, mlp_size=1)
PREFIX = CONFIG.prefix_tokens
HALF = CONFIG.head_dim // 2


def table(times: list[float], config: BackboneConfig = CONFIG, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return rotation(config, torch.tensor([times], dtype=torch.float64), ROWS, COLUMNS, scale)


def product(times: list[float], query: tuple[int, int, int], key: tuple[int, int, int]) -> float:
    """The dot product of one fixed pair of vectors, put at (frame, row, column)."""
    cos, sin = table(times)
    q, k = torch.randn(2, CONFIG.head_dim, generator=torch.Generator().manual_seed(3))
    turned = []
    for vector, (t, y, x) in ((q, query), (k, key)):
        place = t * (PREFIX + ROWS * COLUMNS) + PREFIX + y * COLUMNS + x
        turned.append(rotate(vector[None, None, None], cos[:, :, place, None], sin[:, :, place, None]).flatten())
    return float(turned[0].double() @ turned[1].double())


def test_norm() -> None:
    cos, sin = table([0.0, 1.0, 500.25])
    x = torch.randn(2, 3, cos.shape[2], CONFIG.head_dim)
    turned = rotate(x, cos, sin)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(cos**2 + sin**2, torch.ones_like(cos), atol=1e-6, rtol=0)
    assert (turned - x).abs().max() > 1


def test_products_depend_on_offsets_only() -> None:
    times = [0.0, 3.0, 7.0, 10.0]
    one = product(times, (1, 0, 1), (0, 2, 4))
    assert product(times, (3, 0, 1), (2, 2, 4)) == pytest.approx(one, abs=1e-5)  # later by 7 frames
    assert product(times, (1, 1, 1), (0, 3, 4)) == pytest.approx(one, abs=1e-5)  # a row down
    assert product(times, (1, 0, 2), (0, 2, 5)) == pytest.approx(one, abs=1e-5)  # a column right
    assert product(times, (3, 1, 2), (2, 3, 5)) == pytest.approx(one, abs=1e-5)  # all at once
    for other in [((2, 0, 1), (0, 2, 4)), ((1, 1, 1), (0, 2, 4)), ((1, 0, 2), (0, 2, 4)), ((0, 0, 1), (1, 2, 4))]:
        assert abs(product(times, *other) - one) > 0.1


def test_a_frame_at_a_million_is_as_exact_as_at_zero() -> None:
    start = 1_000_000.0
    pair = ((1, 0, 1), (0, 2, 4))
    assert product([start, start + 5], *pair) == pytest.approx(product([0.0, 5.0], *pair), abs=1e-5)


def test_a_clip_s_length_changes_no_position() -> None:
    short, long = table([0.0, 1.0])[0], table([float(t) for t in range(40)])[0]
    assert torch.equal(short, long[:, :, : short.shape[2]])


def test_time_takes_two_of_eight_indices() -> None:
    (early, _), (late, _) = table([0.0]), table([5.0])
    moved = (early != late)[0, 0, PREFIX:].all(0)
    still = (early == late)[0, 0].all(0)
    assert moved.nonzero().flatten().tolist() == [*range(3, HALF, 4), *range(HALF + 3, 2 * HALF, 4)]
    assert (moved ^ still).all()
    image, _ = table([5.0], tiny(rope="image", hidden_size=128))
    assert torch.equal(early[..., PREFIX:, still], image[..., tiny().prefix_tokens :, still])


def test_periods_of_time_begin_at_sixteen_frames() -> None:
    cos, sin = table([4.0])
    assert torch.equal(cos[..., :HALF], cos[..., HALF:])
    assert torch.equal(-sin[..., :HALF], sin[..., HALF:])
    angle = torch.atan2(sin, cos)[0, 0, PREFIX, HALF + 3 :: 4]
    periods = 16 * 100 ** (torch.arange(8) / 16)
    torch.testing.assert_close(angle, 2 * torch.pi * 4 / periods, atol=1e-6, rtol=0)


def test_prefix_tokens_do_not_turn() -> None:
    cos, sin = table([3.0, 9.0])
    frames = cos.view(2, -1, CONFIG.head_dim), sin.view(2, -1, CONFIG.head_dim)
    assert (frames[0][:, :PREFIX] == 1).all()
    assert (frames[1][:, :PREFIX] == 0).all()
    assert (frames[1][:, PREFIX:] != 0).any(-1).all()


@pytest.mark.parametrize("grid", [(14, 14), (4, 9), (1, 3)])
def test_image_layout_is_dinov3_s_to_the_bit(grid: tuple[int, int]) -> None:
    config = tiny(rope="image", hidden_size=128, camera_token=False)
    theirs = DINOv3ViTRopePositionEmbedding(DINOv3ViTConfig(hidden_size=128, num_attention_heads=2)).eval()
    cos, sin = theirs(torch.zeros(1, 3, 16 * grid[0], 16 * grid[1]))
    ours = rotation(config, torch.tensor([[7.0]]), *grid)
    assert torch.equal(ours[0][0, 0, config.prefix_tokens :], cos)
    assert torch.equal(ours[1][0, 0, config.prefix_tokens :, HALF:], sin[:, HALF:])


def test_jitter_scales_time_and_space_of_each_sample() -> None:
    scale = torch.tensor([[1.0, 1.0], [0.5, 1.0], [1.0, 2.0]])
    cos, sin = table([0.0, 6.0], scale=scale)
    plain, half = table([0.0, 6.0])[0], table([0.0, 3.0])[0]
    assert torch.equal(cos[:1], plain)
    assert torch.equal(cos[1:2], half)
    angle = torch.atan2(sin, cos).view(3, 2, -1, CONFIG.head_dim)[:, 1, PREFIX:, HALF:]
    space = torch.arange(HALF) % 4 != 3
    turns = (angle[2] - 2 * angle[0])[:, space] / (2 * torch.pi)
    torch.testing.assert_close(turns, turns.round(), atol=1e-5, rtol=0)
    assert torch.equal(angle[2][:, ~space], angle[0][:, ~space])


def test_rotation_is_computed_in_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cos, sin = table([1.0, 100.0])
    expected = table([1.0, 100.0])
    assert torch.equal(cos, expected[0])
    x = torch.randn(1, 1, cos.shape[2], CONFIG.head_dim).bfloat16()
    assert rotate(x, cos, sin).dtype == torch.bfloat16
    assert torch.equal(rotate(x, cos, sin), rotate(x.float(), cos, sin).bfloat16())
