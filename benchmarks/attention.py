"""Frame-causal attention without a mask against the same attention with a dense one.

    python benchmarks/attention.py [--quick]

For 16 frames of 201 tokens (224 pixels) and of 1,029 tokens (512 pixels) with ViT-B's heads: forward and
forward + backward of the backbone's kernel on this device, of one SDPA call with a dense boolean mask and of one call
without a mask (bidirectional). Kernels take turns within each round and the best round counts, so ratios compare what
ran side by side. The floor is the kernel's arithmetic (scores and mixing, and 2.5 times that backward; the dense mask
computes what it masks) at the rate of a plain matrix product measured between the rounds. Peak memory is that of
forward + backward in a process of its own, inputs left out.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from machine import stamp
from torch import Tensor
from torch.nn import functional as F

from interlace.backbone.attention import causal_kernel

BACKWARD = 2.5  # matrix products of attention's backward over those of its forward
KERNELS = ("per frame", "dense mask", "no mask")


@dataclass(frozen=True)
class Shape:
    frames: int
    tokens: int
    heads: int
    head_dim: int = 64

    @property
    def length(self) -> int:
        return self.frames * self.tokens

    def forward_flops(self, kernel: str) -> float:
        """Multiplications and additions of both matrix products."""
        pairs = self.length**2
        if kernel == "per frame":
            pairs = self.tokens**2 * self.frames * (self.frames + 1) // 2
        return 4.0 * self.heads * self.head_dim * pairs


@dataclass
class Best:
    """The shortest times seen, in seconds."""

    forward: float = float("inf")
    both: float = float("inf")
    rounds: list[float] = field(default_factory=list)


def kernel_of(name: str, shape: Shape, device: torch.device, dtype: torch.dtype) -> Callable[..., Tensor]:
    if name == "per frame":
        chosen = causal_kernel(device, dtype)
        return lambda query, key, value: chosen(query, key, value, shape.tokens)
    if name == "no mask":
        return F.scaled_dot_product_attention

    def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        frame = torch.arange(shape.length, device=device) // shape.tokens
        return F.scaled_dot_product_attention(query, key, value, attn_mask=frame[:, None] >= frame)

    return dense


def inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    size = (1, shape.length, shape.heads, shape.head_dim)
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator).to(device, dtype).transpose(1, 2).requires_grad_() for _ in range(3)]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of one square matrix product, the best of five."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        wait(device)
        start = time.perf_counter()
        left @ right
        wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def measure(shape: Shape, rounds: int, device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Best], float]:
    """Best times of every kernel and the matmul rate, all from the same rounds."""
    tensors = inputs(shape, device, dtype)
    gradient = torch.ones_like(tensors[0])
    best = {name: Best() for name in KERNELS}
    rate = 0.0
    for number in range(rounds + 1):  # the first is not counted: libraries load, pages are touched
        rate = max(rate, matmul_rate(device, dtype, 1024 if device.type == "cpu" else 8192))
        for name, record in best.items():
            kernel = kernel_of(name, shape, device, dtype)
            wait(device)
            start = time.perf_counter()
            output = kernel(*tensors)
            wait(device)
            middle = time.perf_counter()
            torch.autograd.grad(output, tensors, gradient)
            wait(device)
            end = time.perf_counter()
            if number == 0:
                continue
            record.forward = min(record.forward, middle - start)
            record.both = min(record.both, end - start)
            record.rounds.append(end - start)
    return best, rate


def peak_bytes(name: str, shape: Shape, device: torch.device, dtype: torch.dtype) -> float:
    """What forward + backward need above their inputs; NaN where the system does not tell (CPU other than Linux)."""
    tensors = inputs(shape, device, dtype)
    gradient = torch.ones_like(tensors[0])
    kernel = kernel_of(name, shape, device, dtype)
    torch.autograd.grad(kernel(*tensors), tensors, gradient)  # libraries load and keep their own buffers
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.grad(kernel(*tensors), tensors, gradient)
        return torch.cuda.max_memory_allocated() - before
    if sys.platform != "linux":
        return math.nan
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is resident now
    before = resident_peak()
    torch.autograd.grad(kernel(*tensors), tensors, gradient)
    return resident_peak() - before


def resident_peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("/proc/self/status has no VmHWM")


def report(shape: Shape, rounds: int, device: torch.device, dtype: torch.dtype) -> None:
    best, rate = measure(shape, rounds, device, dtype)
    # A process of its own for each: memory that one kernel freed must not be there for the next.
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, torch.set_num_threads, (torch.get_num_threads(),), maxtasksperchild=1) as pool:
        jobs = [(name, shape, device, dtype) for name in KERNELS]
        peaks = dict(zip(KERNELS, pool.starmap(peak_bytes, jobs, chunksize=1), strict=True))
    print(f"\n{shape.frames} frames of {shape.tokens} tokens, {shape.heads} heads, best of {rounds}; ", end="")
    print(f"matmul {rate / 1e9:,.0f} GFLOP/s")
    print(f"{'':12}{'forward ms':>12}{'floor':>9}{'both ms':>12}{'floor':>9}{'peak MB':>10}")
    for name, record in best.items():
        floor = shape.forward_flops(name) / rate
        print(f"{name:12}{record.forward * 1e3:12,.1f}{floor * 1e3:9,.1f}", end="")
        print(f"{record.both * 1e3:12,.1f}{floor * (1 + BACKWARD) * 1e3:9,.1f}{peaks[name] / 1e6:10,.0f}")
    ours, dense = best["per frame"], best["dense mask"]
    paired = sorted(a / b for a, b in zip(ours.rounds, dense.rounds, strict=True))
    print(
        f"per frame / dense mask: forward {ours.forward / dense.forward:.2f}, both {ours.both / dense.both:.2f} "
        f"(rounds {paired[0]:.2f} to {paired[-1]:.2f}), peak {peaks['per frame'] / max(peaks['dense mask'], 1.0):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two heads, 8 frames of 65 tokens: seconds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--heads", type=int, default=12, help="of 64 dimensions; ViT-B has 12, ViT-L 16")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, help="CPU threads (torch's default)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, options.dtype)
    print(stamp(device))
    print(f"{options.dtype}; per frame is {causal_kernel(device, dtype).__name__}")
    shapes = [Shape(16, tokens, options.heads) for tokens in (201, 1029)]
    if options.quick:
        shapes = [Shape(8, 65, 2)]
    for shape in shapes:
        report(shape, options.rounds, device, dtype)


if __name__ == "__main__":
    main()
