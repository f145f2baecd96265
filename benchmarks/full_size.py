"""Do the four tasks fit at full size? ViT-L, Qwen3-0.6B's shape, 50,000 centres, two frames of 224 pixels, fp32.

    python benchmarks/full_size.py --data FOLDER      # the demo's input, for its rooms and its tokenizer

One task after another: forward and backward of one micro-batch of one sample, random weights. Prints seconds, the
process's peak memory so far, and the floor: bytes of weights, gradients and what the paper's whole bank would take.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from interlace.backbone import PRESETS
from interlace.data_recipes import generator
from interlace.data_recipes.sources import open_source
from interlace.pretrain.ranks import join
from interlace.pretrain.student import Student
from interlace.tasks import TASKS
from interlace.tasks.interface import Progress, TaskContext

SIZE, FRAMES = 224, 2
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


def options(data: Path) -> dict[str, dict[str, Any]]:
    """Each task's options at full size; what is not said is the task's default, a ViT-L's."""
    return {
        "ssl": {"frames": FRAMES, "global_size": SIZE, "local_size": 96},
        "geometry": {"size": SIZE, "frames": FRAMES},
        "captioning": {
            "size": SIZE,
            "frames": FRAMES,
            "decoder": QWEN3_06B,
            "tokenizer": str(data / "tokenizer.model"),
        },
        "clusters": {
            "size": SIZE,
            "embedding_size": WIDTH,
            "banks": {"object": {"rows": 40_000}, "motion": {"rows": 10_000, "frames": FRAMES}},
        },
    }


def gigabytes(count: float) -> str:
    """Bytes as GB."""
    return f"{count / 1e9:.2f} GB"


def measure(name: str, settings: dict[str, Any], data: Path) -> None:
    """Forward and backward of one task; everything is freed at the end."""
    from interlace.backbone import Backbone

    config = PRESETS["dinov3_vitl16"]
    task = TASKS[name](TASKS[name].Options(**settings), TaskContext(config, seed=0))
    student = Student(Backbone(config), {name: task})
    sample = open_source("rooms", "mds", str(data / "rooms_train")).read(0, task.needs)
    batch = task.collate([task.item(sample, generator(0, name))])
    teacher = task.build_teacher(student.backbone)
    began = time.perf_counter()
    with FlopCounterMode(display=False) as counter:
        terms = student(name, batch, teacher, Progress(0, 1, 0))
        sum((term.sum / term.count.clamp(min=1) for term in terms.values()), torch.zeros(())).backward()
    spent = time.perf_counter() - began
    weights = 4 * sum(parameter.numel() for parameter in student.parameters())
    centres = 4 * sum(matrix.local.numel() for matrix in task.sharded())
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{name:11s} {spent:6.1f} s, {counter.get_total_flops() / 1e12:.2f} TFLOP; peak so far {gigabytes(peak)}; "
        f"floor: weights and gradients {gigabytes(2 * weights)}, centres and gradients {gigabytes(2 * centres)}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    chosen = parser.parse_args()
    join()
    for name in chosen.tasks:
        measure(name, options(chosen.data)[name], chosen.data)
    bank = 4 * FULL_BANK * WIDTH
    print(f"the whole bank, {FULL_BANK:,} x {WIDTH}: {gigabytes(bank)}, with Adam's moments {gigabytes(3 * bank)}")


if __name__ == "__main__":
    main()
