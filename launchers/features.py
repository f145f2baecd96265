"""``interlace features``: a frozen backbone's features of footage, in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from interlace.backbone import Features
from interlace.backbone.folder import write_tensors
from interlace.eval.frozen import frozen

from .progress import Stages
from .recordings import partial_beside
from .watching import Options, Watch, load_frozen, trained_side

#: The name of the last block's patches after the final LayerNorm, beside the numbers of blocks.
LAST = "last"


def write_features(path: str, source: str, layers: str, out: Path, options: Options, console: Console) -> None:
    """Stream ``source`` through the backbone of ``path`` and write what it says of every frame.

    ``out`` gets, for T frames: ``cls`` and ``camera`` [T, D], ``patches`` [T, h, w, D] where ``layers`` names "last",
    ``layers.N`` [T, h, w, D] for every block named (raw, as :class:`~interlace.backbone.Features` has them),
    ``seconds`` [T] since the first frame or picture and ``times`` [T] in the model's frame units, both float64. The
    metadata hold ``backbone`` (sha256 of its weights), ``config``, ``stream`` and ``left_out`` as JSON, and ``source``.
    ``dtype`` of ``stream`` is that of the keys and values, null where there are none.

    A broken picture of a folder is left out: it is no frame, its time is that of none, and ``left_out`` and the
    console name it. Raises ValueError, and writes nothing, for blocks that do not exist, a camera, a folder whose
    pictures are all broken or differ in size, a video that is seen to be broken anywhere
    (:class:`~interlace.data_recipes.video.Video`), and an ``out`` that cannot be a file.
    """
    partial = partial_beside(out, "--out", source)
    backbone = load_frozen(path)
    blocks, last = parse_layers(layers, backbone.config.depth)
    side = trained_side(path, backbone) if options.size is None else None
    with (
        frozen(backbone, path) as digest,
        Watch(backbone, source, options, side=side) as watch,
        Stages(console) as stages,
    ):
        if watch.count is None:
            raise ValueError(f"{source}: a camera has no end; say how many frames with --frames")
        found: dict[str, Tensor] = {}
        count = 0
        for seen in watch.seen(blocks):
            parts = _parts(seen.features, last)
            parts["seconds"], parts["times"] = (
                torch.tensor(each, dtype=torch.float64) for each in (seen.seconds, seen.time)
            )
            for name, part in parts.items():
                # All of it at once: a list of frames would need the memory twice when it is joined.
                if name not in found:
                    found[name] = part.new_empty((watch.count, *part.shape))
                found[name][count] = part
            count += 1
            stages("features", count, watch.count)
        found = {name: tensor[:count] for name, tensor in found.items()}
        shown = {"height": watch.height, "width": watch.width, "fps": watch.fps, **watch.keeps}
    metadata = {
        "backbone": digest,
        "config": json.dumps(backbone.config.to_json()),
        "stream": json.dumps({**shown, "dtype": watch.dtype}),
        "source": source,
        "left_out": json.dumps(watch.footage.left_out),
    }
    try:
        write_tensors(found, partial, metadata)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    for line in watch.told():
        console.print(line, highlight=False, markup=False)
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in found.items())
    console.print(f"{out}: {shapes}; backbone {digest[:12]}", highlight=False, markup=False)


def parse_layers(text: str, depth: int) -> tuple[list[int], bool]:
    """Blocks, counted from 0, and whether the last patches are wanted, of "3,7,last".

    Raises ValueError for what is no block of a backbone with ``depth`` blocks.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name != LAST and not (name.isdecimal() and int(name) < depth):
            raise ValueError(f'--layers {text}: found "{name}"; allowed are blocks 0 to {depth - 1}, and {LAST}')
    return sorted({int(name) for name in names if name != LAST}), LAST in names


def _parts(features: Features, last: bool) -> dict[str, Tensor]:
    """One frame's features by name, float32 on the CPU."""
    parts = {"cls": features.cls}
    if features.camera is not None:
        parts["camera"] = features.camera
    if last:
        parts["patches"] = features.patches
    parts |= {f"layers.{index}": patches for index, patches in features.layers.items()}
    return {name: part[0, 0].float().cpu() for name, part in parts.items()}
