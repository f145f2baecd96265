"""What frame T of a stream costs, beside what it could cost: OmniStream's table 9.

    python benchmarks/streaming.py [--quick] [--preset dinov3_vits16] [--size 224] [--contexts 1 16 64 512] [--out FILE]

A row a context of T frames, the T-th of which is computed (the ones before are random keys and values):

- stream: the backbone's own cache, whose memory is taken once;
- grown: the same backbone over keys and values that are joined anew every frame, with a dense mask;
- recompute: all T frames through a bidirectional backbone of the same size, up to --recompute-to frames;
- kernels: the bare matrix products and attention calls of the frame, same weights, same shapes, nothing between;
- floor: the same arithmetic at the rate of a plain matrix product, or its bytes (weights, keys and values) at the rate
  of a plain copy, whichever is longer; both rates are measured here.

Stream and kernels take turns within each round, over the same weights and the same memory; the best round counts for
milliseconds and the median of the rounds' own ratios for stream / kernels. Memory is the most that a process of its own
held above the weights. "Made" are the bytes of all tensors that one frame makes: the stream's may not depend on T.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from attention import matmul_rate, resident_peak, wait
from machine import stamp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from interlace.backbone import PRESETS, Backbone, BackboneConfig, Stream
from interlace.backbone.rope import rotation

CONTEXTS = (1, 16, 32, 64, 128, 256, 512)
TARGET = 1.15  # stream / kernels


@dataclasses.dataclass(frozen=True)
class Case:
    """One backbone, frame size and context."""

    config: BackboneConfig
    side: int
    context: int
    device: torch.device
    dtype: torch.dtype

    @property
    def tokens(self) -> int:
        return self.config.tokens_per_frame(self.side, self.side)

    @property
    def cache_formula(self) -> int:
        """Bytes: layers * frames * tokens * 2 * hidden_size * bytes of a number."""
        return self.config.depth * self.context * self.tokens * 2 * self.config.hidden_size * self.dtype.itemsize

    def cache_bytes(self, backbone: Backbone) -> int:
        """What a stream of ``context`` frames takes for keys and values."""
        with backbone.stream(1, self.side, self.side, max_frames=self.context, dtype=self.dtype) as stream:
            return stream.cache_bytes

    def flops(self, backbone: Backbone) -> float:
        """Multiplications and additions of frame T: matrix products, scores and mixing."""
        weights = sum(each.weight.numel() for each in backbone.modules() if isinstance(each, nn.Linear))
        patches = (self.tokens - self.config.prefix_tokens) * backbone.embedding.patch.weight.numel()
        attention = 2 * self.tokens * self.context * self.tokens * self.config.hidden_size * self.config.depth
        return 2.0 * (self.tokens * weights + patches + attention)

    def backbone(self, attention: str = "causal") -> Backbone:
        torch.manual_seed(0)
        config = dataclasses.replace(self.config, attention=attention)
        return Backbone(config).to(self.device, self.dtype).eval().requires_grad_(False)

    def frames(self, count: int) -> Tensor:
        return torch.randn(1, count, 3, self.side, self.side, device=self.device, dtype=self.dtype)


class Grown:
    """One block's keys and values, joined anew for every frame and masked."""

    def __init__(self, case: Case) -> None:
        config = case.config
        shape = (1, config.heads, (case.context - 1) * case.tokens, config.head_dim)
        self.keys, self.values = (torch.randn(shape, device=case.device, dtype=case.dtype) for _ in range(2))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys, values = torch.cat((self.keys, key), 2), torch.cat((self.values, value), 2)
        frame = torch.arange(keys.shape[2], device=keys.device) // key.shape[2]
        mask = frame[-key.shape[2] :, None] >= frame
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)


def prefilled(case: Case, backbone: Backbone) -> Stream:
    """A stream that has seen T - 1 frames of noise."""
    stream = backbone.stream(1, case.side, case.side, max_frames=case.context, dtype=case.dtype)
    for tensor in stream._cache.held():  # in place: restoring a state would need the memory twice
        tensor.normal_()
    return stream


def stream_step(case: Case) -> Callable[[], object]:
    backbone = case.backbone()
    return _stream_step(case, prefilled(case, backbone))


def _stream_step(case: Case, stream: Stream) -> Callable[[], object]:
    frame = case.frames(1)

    def step() -> object:
        stream._cache.seen = [case.context - 1]  # the same frame again
        return stream(frame)

    return step


def stream_and_kernels(case: Case) -> dict[str, Callable[[], object]]:
    """Both steps over one backbone and one stream's memory."""
    backbone = case.backbone()
    stream = prefilled(case, backbone)
    return {"stream": _stream_step(case, stream), "kernels": _kernels_step(case, backbone, stream)}


def grown_step(case: Case) -> Callable[[], object]:
    backbone, frame = case.backbone(), case.frames(1)
    stores = [Grown(case) for _ in range(case.config.depth)]
    grid = case.config.grid(case.side, case.side)

    @torch.no_grad()
    def step() -> object:
        x = backbone.embedding(frame, (case.context - 1,), None)
        cos, sin = rotation(case.config, torch.full((1, 1), case.context - 1, device=case.device), *grid)
        for block, store in zip(backbone.blocks, stores, strict=True):
            x = block(x, cos, sin, case.tokens, None, store)
        return backbone.norm(x)

    return step


def recompute_step(case: Case) -> Callable[[], object]:
    backbone, frames = case.backbone("bidirectional"), case.frames(case.context)

    @torch.no_grad()
    def step() -> object:
        return backbone(frames)

    return step


def _kernels_step(case: Case, backbone: Backbone, stream: Stream) -> Callable[[], object]:
    """The matrix products with the backbone's own weights, and attention over the stream's own memory."""
    frame, config, cache = case.frames(1)[0], case.config, stream._cache
    cache.seen = [case.context - 1]
    cache.place([0], 1)
    place = cache.places[0][0]
    x = torch.randn(1, case.tokens, config.hidden_size, device=case.device, dtype=case.dtype)
    hidden = torch.randn(1, case.tokens, config.mlp_size, device=case.device, dtype=case.dtype)

    @torch.no_grad()
    def step() -> object:
        result = backbone.embedding.patch(frame)
        for index, block in enumerate(backbone.blocks):
            attention, mlp = block.attention, block.mlp
            query, _, _ = (layer(x) for layer in (attention.query, attention.key, attention.value))
            query = query.unflatten(-1, (config.heads, -1)).transpose(1, 2)
            keys, values = cache.keys.read(index, place), cache.values.read(index, place)
            F.scaled_dot_product_attention(query, keys, values)
            attention.output(x)
            if mlp.gate is not None:
                mlp.gate(x)
            mlp.up(x)
            result = mlp.down(hidden)
        return result

    return step


STEPS: dict[str, Callable[[Case], Callable[[], object]]] = {
    "stream": stream_step,
    "grown": grown_step,
    "recompute": recompute_step,
}
COLUMNS = (*STEPS, "kernels")


class Made(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside a ``with`` block; views and writes in place make none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):  # type: ignore[no-untyped-def]
        options = options or {}
        known = {_storage(each) for each in tree_iter((arguments, options)) if isinstance(each, Tensor)}
        result = operation(*arguments, **options)
        new = {_storage(each): each for each in tree_iter(result) if isinstance(each, Tensor)}
        self.bytes += sum(each.untyped_storage().nbytes() for place, each in new.items() if place not in known)
        return result


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def made_bytes(name: str, case: Case) -> int:
    """Bytes of all tensors that frame T makes. Raises AssertionError where a stream's keys or values moved."""
    if name == "stream":
        stream = prefilled(case, case.backbone())
        places = [tensor.data_ptr() for tensor in stream._cache.held()]
        step = _stream_step(case, stream)
    else:
        step = STEPS[name](case)
    step()
    with Made() as made:
        step()
    if name == "stream":
        assert places == [tensor.data_ptr() for tensor in stream._cache.held()], (
            "keys and values are not where they were"
        )
    return made.bytes


def seconds(step: Callable[[], object], device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    step()
    wait(device)
    return time.perf_counter() - start


def copy_rate(device: torch.device) -> float:
    """Bytes a second of one copy of 256 MB, read and written, the best of five."""
    source = torch.ones(64 << 20, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source), device) for _ in range(5))


def peak_bytes(name: str, case: Case, threads: int) -> float:
    """The most memory that frame T needs above the weights; NaN where the system does not tell."""
    torch.set_num_threads(threads)
    weights = sum(weight.nbytes for weight in case.backbone().parameters())
    step = STEPS[name](dataclasses.replace(case, context=1, side=case.config.patch_size))
    step()  # libraries load and keep their own buffers
    del step
    if case.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        STEPS[name](case)()
        return torch.cuda.max_memory_allocated() - before - weights
    if sys.platform != "linux":
        return math.nan
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is resident now
    before = resident_peak()
    STEPS[name](case)()
    return resident_peak() - before - weights


def measure(case: Case, rounds: int, recompute: bool) -> tuple[dict[str, float], list[float]]:
    """Best seconds by name, and stream / kernels of every round. No two caches are held at once."""
    best, ratios = {}, list[float]()
    for make in (stream_and_kernels, lambda case: {"grown": grown_step(case)}):
        steps = make(case)
        found: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(rounds + 1):  # the first is not counted: libraries load, pages are touched
            for name, step in steps.items():
                took = seconds(step, case.device)
                if number:
                    found[name].append(took)
        if "kernels" in found:
            ratios = [ours / bare for ours, bare in zip(found["stream"], found["kernels"], strict=True)]
        best |= {name: min(each) for name, each in found.items()}
        del steps, step
    if recompute:
        step = recompute_step(case)
        best["recompute"] = min(seconds(step, case.device) for _ in range(1 if case.context > 8 else 2))
    return best, ratios


HEADINGS = (
    "T",
    *(f"{name} ms" for name in COLUMNS),
    "floor ms",
    "floor of",
    "stream / kernels",
    *(f"{name} MB" for name in STEPS),
    "stream made MB",
    "grown made MB",
    "cache MB",
    "cache / formula",
)


def row(case: Case, rounds: int, recompute: bool, rates: tuple[float, float]) -> tuple[list[str], float]:
    """The cells of one context, as :data:`HEADINGS` names them, and stream / kernels."""
    best, ratios = measure(case, rounds, recompute)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        jobs = [(name, case, torch.get_num_threads()) for name in best if name != "kernels"]
        peaks = dict(zip([job[0] for job in jobs], pool.starmap(peak_bytes, jobs, chunksize=1), strict=True))
    backbone = case.backbone()
    cache, ratio = case.cache_bytes(backbone), statistics.median(ratios)
    moved = sum(weight.nbytes for weight in backbone.parameters()) + cache
    arithmetic, memory = case.flops(backbone) / rates[0], moved / rates[1]
    cells = [
        f"{case.context}",
        *(f"{best[name] * 1e3:,.1f}" if name in best else "-" for name in COLUMNS),
        f"{max(arithmetic, memory) * 1e3:,.1f}",
        "flops" if arithmetic > memory else "bytes",
        f"{ratio:.2f}",
        *(f"{peaks[name] / 1e6:,.0f}" if name in peaks else "-" for name in STEPS),
        *(f"{made_bytes(name, case) / 1e6:,.2f}" for name in ("stream", "grown")),
        f"{cache / 1e6:,.1f}",
        f"{cache / case.cache_formula:.4f}",
    ]
    return cells, ratio


def markdown(title: str, rows: list[list[str]], verdict: str) -> str:
    """The table as a page can hold it."""
    lines = [HEADINGS, ["---:"] * len(HEADINGS), *rows]
    return "\n".join([title, "", *(f"| {' | '.join(line)} |" for line in lines), "", verdict, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two narrow blocks, 64 pixels, at most 16 frames: seconds")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="dinov3_vits16")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--recompute-to", type=int, default=64, help="longest context that is computed anew")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="float32 on a CPU, bfloat16 on CUDA")
    parser.add_argument("--out", type=Path, help="write the table as Markdown too")
    parser.add_argument("--threads", type=int, help="CPU threads (torch's default)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, options.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    config, contexts, side, name = PRESETS[options.preset], options.contexts, options.size, options.preset
    if options.quick:
        config = BackboneConfig(hidden_size=128, depth=2, heads=2, mlp_size=512)
        contexts, side, name = (1, 4, 16), 64, "2 blocks of 128 channels"
    rates = matmul_rate(device, dtype, 1024 if device.type == "cpu" else 8192), copy_rate(device)
    precision = str(dtype).removeprefix("torch.")
    title = (
        f"{name}, {side} pixels, {precision}, best of {options.rounds}; {stamp(device)}; "
        f"matmul {rates[0] / 1e9:,.0f} GFLOP/s, copy {rates[1] / 1e9:,.1f} GB/s"
    )
    widths = [max(len(heading), 6) for heading in HEADINGS]
    print(title, flush=True)
    print("  ".join(f"{heading:>{width}}" for heading, width in zip(HEADINGS, widths, strict=True)), flush=True)
    rows, ratios = [], []
    for count in contexts:
        case = Case(config, side, count, device, dtype)
        cells, ratio = row(case, options.rounds, count <= options.recompute_to, rates)
        rows.append(cells)
        ratios.append(ratio)
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)), flush=True)
    verdict = "within" if max(ratios) <= TARGET else "not within"
    small = " (too small to judge by: the time between kernels counts most)" if options.quick else ""
    verdict = f"stream / kernels at most {max(ratios):.2f}: {verdict} {TARGET}{small}"
    print(verdict)
    if options.out is not None:
        options.out.write_text(markdown(title, rows, verdict))


if __name__ == "__main__":
    main()
