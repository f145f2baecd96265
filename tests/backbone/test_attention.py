"""Every kernel of frame-causal attention computes the same, and none makes an N x N tensor."""

from __future__ import annotations

import math
import shutil
import sys
import types

import pytest
import torch
import torch._dynamo
from lively import Watcher, frames, lively, tiny
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from interlace.backbone import attention
from interlace.backbone.attention import Kernel, attend, causal_kernel, frame_block_mask, frame_flex, frame_sdpa

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def frame_mask(length: int, tokens: int) -> Tensor:
    frame = torch.arange(length) // tokens
    return frame[:, None] >= frame


def naive(query: Tensor, key: Tensor, value: Tensor, tokens: int) -> Tensor:
    """Softmax over all scores, masked, in float64."""
    query, key, value = query.double(), key.double(), value.double()
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
    mask = frame_mask(query.shape[2], tokens).to(query.device)
    return scores.masked_fill(~mask, -math.inf).softmax(-1) @ value


def inputs(length: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(2, 3, length, 32, generator=generator).to(device, dtype).requires_grad_() for _ in range(3)]


def assert_agrees(kernel: Kernel, length: int, tokens: int, tolerance: float, *, device: str = "cpu") -> None:
    dtype = torch.float32 if tolerance < 1e-3 else torch.bfloat16
    tensors = inputs(length, device, dtype)
    expected, found = naive(*tensors, tokens), kernel(*tensors, tokens)
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(device)
    gradients = [torch.autograd.grad((out * weight).sum(), tensors) for out in (expected, found)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other.double(), one.double(), atol=4 * tolerance, rtol=4 * tolerance)


@pytest.mark.parametrize(("count", "tokens"), [(1, 7), (2, 5), (5, 9), (16, 3), (9, 1)])
def test_per_frame_sdpa_equals_naive_softmax(count: int, tokens: int) -> None:
    assert_agrees(frame_sdpa, count * tokens, tokens, 2e-6)


@pytest.mark.parametrize(("count", "tokens"), [(1, 7), (5, 9)])
def test_flash_attention_is_called_as_its_package_wants(
    count: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with the package's layout, [B, N, heads, d], shows that our side of the call is right."""

    def flash_attn_func(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)

    package = types.ModuleType("flash_attn")
    package.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    assert_agrees(attention.frame_flash, count * tokens, tokens, 2e-6)


def test_bidirectional_and_one_frame_see_everything() -> None:
    query, key, value = inputs(12)
    everything = F.scaled_dot_product_attention(query, key, value)
    assert torch.equal(attend(query, key, value, 4, causal=False), everything)
    assert torch.equal(attend(query, key, value, 12, causal=True), everything)
    assert not torch.allclose(attend(query, key, value, 4, causal=True), everything, atol=1e-3)


@pytest.mark.parametrize(("count", "tokens"), [(1, 64), (16, 21), (5, 128), (3, 201), (40, 8), (2, 192)])
def test_block_mask_is_the_one_torch_makes_from_the_dense_mask(count: int, tokens: int) -> None:
    length = count * tokens
    ours = frame_block_mask(length, tokens, torch.device("cpu"))
    theirs = create_block_mask(lambda b, h, q, k: q // tokens >= k // tokens, None, None, length, length, device="cpu")
    assert ours.BLOCK_SIZE == theirs.BLOCK_SIZE
    assert ours.seq_lengths == theirs.seq_lengths
    for partial in (True, False):
        (counts, indices), (true_counts, true_indices) = (
            (mask.kv_num_blocks, mask.kv_indices) if partial else (mask.full_kv_num_blocks, mask.full_kv_indices)
            for mask in (ours, theirs)
        )
        assert counts is not None
        assert indices is not None
        assert true_counts is not None
        assert true_indices is not None
        assert torch.equal(counts, true_counts)
        for row in range(counts.shape[-1]):
            n = int(counts[0, 0, row])
            assert set(indices[0, 0, row, :n].tolist()) == set(true_indices[0, 0, row, :n].tolist())
    q, k = torch.arange(length)[:, None], torch.arange(length)[None]
    assert torch.equal(ours.mask_mod(q, q, q, k), frame_mask(length, tokens))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(("count", "tokens"), [(3, 50), (5, 128)])
def test_flex_attention_equals_naive_softmax_forward(count: int, tokens: int) -> None:
    """On a CPU FlexAttention compiles and runs forward; it has no backward there."""
    tensors = [tensor.detach() for tensor in inputs(count * tokens)]
    found = frame_flex(*tensors, tokens)
    torch.testing.assert_close(found.double(), naive(*tensors, tokens), atol=5e-6, rtol=5e-6)


def test_flex_attention_is_compiled_as_often_as_tasks_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch gives up past its limit of kernels; here 1, where a training step has dtypes, lengths and a teacher."""
    traced = torch.compile(flex_attention, fullgraph=True, backend="eager")  # traces as ever, compiles nothing
    monkeypatch.setattr(attention, "_compiled_flex_attention", lambda: traced)
    with torch._dynamo.config.patch(recompile_limit=1):
        for dtype in (torch.float32, torch.bfloat16):
            tensors = [tensor.detach().to(dtype) for tensor in inputs(6)]
            found = frame_flex(*tensors, 3)
            torch.testing.assert_close(found.double(), naive(*tensors, 3), atol=3e-2, rtol=3e-2)


@CUDA
@pytest.mark.parametrize(("count", "tokens"), [(3, 50), (5, 128), (16, 201)])
def test_kernels_agree_on_cuda(count: int, tokens: int) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    for kernel in (frame_sdpa, frame_flex):
        assert_agrees(kernel, count * tokens, tokens, 1e-4, device="cuda")
    half = [frame_sdpa, frame_flex]
    if attention._flash_attention_installed():
        half.append(attention.frame_flash)
    for kernel in half:
        assert_agrees(kernel, count * tokens, tokens, 3e-2, device="cuda")


def test_the_kernel_is_chosen_by_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for installed in (True, False):
        monkeypatch.setattr(attention, "_flash_attention_installed", lambda installed=installed: installed)
        assert causal_kernel(cpu, torch.float32) is frame_sdpa
        assert causal_kernel(cpu, torch.bfloat16) is frame_sdpa
        assert causal_kernel(cuda, torch.float32) is frame_flex
        assert causal_kernel(cuda, torch.bfloat16) is (attention.frame_flash if installed else frame_flex)


def test_forward_and_backward_make_no_square() -> None:
    config = tiny(patch_size=4)
    backbone, clip = lively(config), frames(1, 10, 16, 16)
    length = 10 * config.tokens_per_frame(16, 16)
    watcher = Watcher()
    with watcher:
        features = backbone(clip, layers=[0])
        (features.patches.sum() + features.cls.square().sum() + features.layers[0].sum()).backward()
    assert any("scaled_dot_product" in name and "backward" in name for name, _ in watcher.shapes)
    assert watcher.squares(length) == []


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_the_watcher_catches_a_dense_mask(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def dense(query: Tensor, key: Tensor, value: Tensor, tokens: int) -> Tensor:
        mask = frame_mask(query.shape[2], tokens)
        scores = (query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])).masked_fill(~mask, -math.inf)
        return scores.softmax(-1) @ value

    config = tiny(patch_size=4)
    backbone, clip = lively(config), frames(1, 10, 16, 16)
    monkeypatch.setattr(attention, "frame_sdpa", dense)
    watcher = Watcher()
    if where == "forward":
        with watcher:
            backbone(clip)
    else:
        loss = backbone(clip).patches.square().sum()
        with watcher:
            loss.backward()
    assert watcher.squares(10 * config.tokens_per_frame(16, 16))
