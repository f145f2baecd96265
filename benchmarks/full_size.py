"""Do the four tasks fit at full size? ViT-L, Qwen3-0.6B's shape, 50,000 centres, two frames of 224 pixels, fp32.

    python benchmarks/full_size.py --data FOLDER [--quick]      # the demo's input, for its rooms and its tokenizer

Forward and backward of one micro-batch of one sample with random weights, each task in a process of its own. Beside the
seconds stands the floor that arithmetic sets (matrix products at the rate of one plain matrix product), beside the
process's peak memory the floor that weights, gradients, centres and the teacher set, and both ratios.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from attention import matmul_rate
from machine import stamp
from torch.utils.flop_counter import FlopCounterMode

from interlace.backbone import PRESETS, Backbone
from interlace.data_recipes import generator
from interlace.data_recipes.sources import open_source
from interlace.pretrain.ranks import join
from interlace.pretrain.student import Student
from interlace.tasks import TASKS
from interlace.tasks.interface import Progress, TaskContext

SIZE, FRAMES = 224, 2
TASK_NAMES = ("ssl", "geometry", "captioning", "clusters")
QWEN3_06B = {
    "layers": 28,
    "hidden_size": 1024,
    "heads": 16,
    "key_value_heads": 8,
    "head_size": 128,
    "mlp_size": 3072,
    "vocabulary_size": 151_936,
}
#: OneVision-Encoder's whole bank: 2,000,000 object and 400,000 motion centres of width 512.
FULL_BANK, WIDTH = 2_400_000, 512


def options(data: Path, quick: bool) -> dict[str, dict[str, Any]]:
    """Each task's options at full size; what is not said is the task's default, a ViT-L's."""
    decoder = QWEN3_06B | ({"layers": 1, "vocabulary_size": 2000} if quick else {})
    share = 50 if quick else 1
    banks = {"object": {"rows": 40_000 // share}, "motion": {"rows": 10_000 // share, "frames": FRAMES}}
    return {
        "ssl": {"frames": FRAMES, "global_size": SIZE, "local_size": 96},
        "geometry": {"size": SIZE, "frames": FRAMES},
        "captioning": {
            "size": SIZE,
            "frames": FRAMES,
            "decoder": decoder,
            "tokenizer": str(data / "tokenizer.model"),
        },
        "clusters": {"size": SIZE, "embedding_size": WIDTH, "banks": banks},
    }


def gigabytes(count: float) -> str:
    """Bytes as GB."""
    return f"{count / 1e9:.2f} GB"


def measure(name: str, preset: str, settings: dict[str, Any], data: Path, threads: int) -> str:
    """Forward and backward of one task: its row."""
    torch.set_num_threads(threads)
    join()
    config = PRESETS[preset]
    task = TASKS[name](TASKS[name].Options(**settings), TaskContext(config, seed=0))
    student = Student(Backbone(config), {name: task})
    sample = open_source("rooms", "mds", str(data / "rooms_train")).read(0, task.needs)
    batch = task.collate([task.item(sample, generator(0, name))])
    teacher = task.build_teacher(student.backbone)
    rate = matmul_rate(torch.device("cpu"), torch.float32, 1024)
    began = time.perf_counter()
    with FlopCounterMode(display=False) as counter:
        terms = student(name, batch, teacher, Progress(0, 1, 0))
        sum((term.sum / term.count.clamp(min=1) for term in terms.values()), torch.zeros(())).backward()
    spent, flops = time.perf_counter() - began, counter.get_total_flops()
    trained = sum(parameter.nbytes for parameter in student.parameters())
    trained += sum(matrix.local.nbytes for matrix in task.sharded())
    kept = sum(parameter.nbytes for parameter in teacher.parameters()) if teacher is not None else 0
    floor = 2 * trained + kept
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    arithmetic = f"({flops / 1e12:.2f} TFLOP at {rate / 1e9:.0f} GFLOP/s)"
    return (
        f"{name:11s} {spent:6.1f} s, floor {flops / rate:6.1f} s {arithmetic}, ratio {spent * rate / flops:.1f}; "
        f"peak {gigabytes(peak)}, floor {gigabytes(floor)}, ratio {peak / floor:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=TASK_NAMES, choices=TASK_NAMES)
    parser.add_argument("--quick", action="store_true", help="ViT-S, a one-layer decoder, 1,000 centres: does it run?")
    chosen = parser.parse_args()
    preset = "dinov3_vits16" if chosen.quick else "dinov3_vitl16"
    print(stamp(torch.device("cpu")))
    print(f"{preset}, {FRAMES} frames of {SIZE} pixels, one sample, float32")
    # A process of its own for each: the peak is that of its task alone.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in chosen.tasks:
            settings = options(chosen.data, chosen.quick)[name]
            print(pool.apply(measure, (name, preset, settings, chosen.data, torch.get_num_threads())), flush=True)
    bank = 4 * FULL_BANK * WIDTH
    print(f"the whole bank, {FULL_BANK:,} x {WIDTH}: {gigabytes(bank)}, with Adam's moments {gigabytes(3 * bank)}")


if __name__ == "__main__":
    main()
