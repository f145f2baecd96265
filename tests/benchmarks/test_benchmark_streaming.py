"""What benchmarks/streaming.py compares are equal computations, counted as they are."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from interlace.backbone import BackboneConfig

FOLDER = Path(__file__).parents[2] / "benchmarks"
CONFIG = BackboneConfig(hidden_size=32, depth=2, heads=2, mlp_size=64, patch_size=8, layer_scale=0.5)
#: The counter does not know attention on the CPU.
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: sdpa_flop_count(
        query, key, value
    )
}


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """The script, under another name: `streaming` is a package that Interlace needs."""
    sys.path.append(str(FOLDER))  # it imports its neighbours
    spec = importlib.util.spec_from_file_location("benchmark_streaming", FOLDER / "streaming.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]
    sys.path.remove(str(FOLDER))


def case(benchmark: ModuleType, context: int):  # type: ignore[no-untyped-def]
    return benchmark.Case(CONFIG, 16, context, torch.device("cpu"), torch.float32)


def test_a_cache_that_is_grown_and_masked_says_what_the_stream_says(benchmark: ModuleType) -> None:
    mine, clip = case(benchmark, 4), torch.randn(1, 4, 3, 16, 16)
    backbone = mine.backbone()
    stores = []
    with backbone.stream(1, 16, 16, max_frames=4) as stream:
        stream(clip[:, :3])
        for layer in range(CONFIG.depth):
            store = benchmark.Grown(mine)
            seen = 3 * mine.tokens
            store.keys = stream._cache.keys.data[layer, :, :, :seen].clone()
            store.values = stream._cache.values.data[layer, :, :, :seen].clone()
            stores.append(store)
        expected = stream(clip[:, 3:])
    with torch.no_grad():
        x = backbone.embedding(clip[:, 3:], (3,), None)
        cos, sin = benchmark.rotation(CONFIG, torch.full((1, 1), 3), *CONFIG.grid(16, 16))
        for block, store in zip(backbone.blocks, stores, strict=True):
            x = block(x, cos, sin, mine.tokens, None, store)
    patches = backbone.norm(x)[:, CONFIG.prefix_tokens :].unflatten(1, (2, 2))
    torch.testing.assert_close(patches, expected.patches[:, 0], atol=1e-5, rtol=1e-4)


def test_the_bare_kernels_do_the_arithmetic_of_the_stream_and_no_more(benchmark: ModuleType) -> None:
    for context in (1, 5):
        mine = case(benchmark, context)
        counted = {}
        for name, step in benchmark.stream_and_kernels(mine).items():
            with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
                step()
            counted[name] = counter.get_total_flops()
        assert counted["stream"] == counted["kernels"] == mine.flops(mine.backbone()) > 0  # the last is the floor's


def test_a_stream_makes_nothing_that_grows_and_takes_what_the_formula_says(benchmark: ModuleType) -> None:
    made = {T: benchmark.made_bytes("stream", case(benchmark, T)) for T in (2, 8)}
    assert made[2] == made[8] > 0
    grown = {T: benchmark.made_bytes("grown", case(benchmark, T)) for T in (2, 8)}
    mine = case(benchmark, 8)
    assert grown[8] - grown[2] >= 6 / 8 * mine.cache_formula  # all keys and values anew, every frame
    assert mine.cache_bytes(mine.backbone()) == mine.cache_formula == 2 * 8 * mine.tokens * 2 * 32 * 4


def test_recomputing_sees_all_frames(benchmark: ModuleType) -> None:
    features = benchmark.recompute_step(case(benchmark, 3))()
    assert features.patches.shape == (1, 3, 2, 2, 32)


def test_the_table_names_every_cell(benchmark: ModuleType) -> None:
    cells = [f"{number}" for number in range(len(benchmark.HEADINGS))]
    lines = benchmark.markdown("a machine", [cells], "a verdict").splitlines()
    assert lines[2].count("|") == lines[3].count("|") == lines[4].count("|") == len(cells) + 1
    assert (lines[0], lines[-1]) == ("a machine", "a verdict")
