"""How a run's geometry and features hold up as a stream grows longer than any clip it was trained on.

    python benchmarks/long_streams.py runs/demo [--length 1000] [--window 16] [--rooms 8] [--out long_streams.png]

A camera goes back and forth over the clip of a held-out built-in room (``interlace prepare demo``), so that every lap
shows the same views and only the stream's length differs. Each row of the batch is a room. Measured on the forward way
of laps near 16, 32, 64 ... frames, once with every frame in view and once with a window and the first frame. The stream
with a window is then put forward to frame 1,000,000, as a state whose counter is set forward, and measured again once
every frame in the window is from there:

- depth: mean |D^ / D - 1|, a lap aligned by its median;
- rotation and translation of the camera against the stream's first frame, as in training's held-out measures;
- propagation: the share of patches whose most similar patch of the stream's first frame is more than one patch from
  where depth and cameras put it; patches that the first frame does not show are left out.

Prints a table, means over rooms, and draws the picture: a thin line a room, a thick one for the mean.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn.functional import normalize

from interlace.backbone import Backbone, Stream
from interlace.data_recipes import ShardReader
from interlace.data_recipes.worlds.demo import demo_folder
from interlace.launchers.watching import load_frozen, load_geometry
from interlace.tasks.geometry import GeometryOptions
from interlace.tasks.geometry.clips import Clip, prepare_clip
from interlace.tasks.geometry.heads import GeometryHeads
from interlace.tasks.geometry.measures import Guess, measure

#: Frames seen at which a lap is measured; the last is the length that was asked for.
LENGTHS = (16, 32, 64, 128, 256, 512)
#: A stream with a window is measured again from here on, about.
FAR = 1_000_000
MEASURES = {
    "abs_rel": "depth: relative error",
    "rotation_degrees": "rotation: degrees",
    "translation_error": "translation: parts of the clip's scale",
    "propagation": "propagation: share of wrong patches",
}
_OCCLUDED = 0.05  # of the depth: what lies further behind the first frame's surface is hidden there


def read_clips(data: Path, size: int, rooms: int) -> list[Clip]:
    """The first clip of each of ``rooms`` held-out rooms, brought to ``size`` pixels a side."""
    reader = ShardReader(data / "rooms_held_out", "rooms")
    samples = [reader.read(index) for index in range(min(rooms, len(reader)))]
    options = GeometryOptions(size=size, frames=len(samples[0].frames))
    return [prepare_clip(sample, options) for sample in samples]


def in_first_frame(clip: Clip, frame: int, patch: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the patch centres of a frame are in the first: [n, 2] (row, column) in patches, and [n] bool seen there."""
    height, width = clip.depth.shape[1:]
    rows, columns = (np.arange(side // patch) * patch + patch / 2 for side in (height, width))
    v, u = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    depth, intrinsics, camera = (each.double().numpy() for each in (clip.depth, clip.intrinsics, clip.camera))
    own = depth[frame][v.astype(int), u.astype(int)]
    local = np.linalg.inv(intrinsics[frame]) @ np.stack((u, v, np.ones_like(u))) * own
    point = camera[frame][:3, :3] @ local + camera[frame][:3, 3:]
    seen = intrinsics[0] @ point
    x, y = seen[:2] / np.maximum(seen[2], 1e-9)
    inside = (own > 0) & (seen[2] > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    surface = depth[0][np.clip(y, 0, height - 1).astype(int), np.clip(x, 0, width - 1).astype(int)]
    visible = inside & (surface > 0) & (np.abs(seen[2] - surface) < _OCCLUDED * seen[2])
    return np.stack((y, x), 1) / patch, visible


def propagation(clip: Clip, frame: int, patches: torch.Tensor, first: torch.Tensor, patch: int) -> float:
    """The share of wrong matches of a frame's ``patches`` [h, w, D] in the first one's; NaN where none is visible."""
    truth, visible = in_first_frame(clip, frame, patch)
    if not visible.any():
        return float("nan")
    columns = patches.shape[1]
    likeness = normalize(patches.flatten(0, 1), dim=1) @ normalize(first.flatten(0, 1), dim=1).T
    best = likeness.argmax(1).cpu().numpy()
    found = np.stack((best // columns, best % columns), 1) + 0.5
    wrong = np.abs(found - truth).max(1) > 1
    return float(wrong[visible].mean())


def measured_laps(length: int, period: int, forward: int) -> dict[int, int]:
    """Frame at which a measured lap starts -> frames seen at the end of its forward way."""
    wanted = [each for each in LENGTHS if each < length] + [length]
    last = max(0, (length - forward) // period)
    starts = {min(max(0, round((each - forward) / period)), last) * period for each in wanted}
    return {start: start + forward for start in sorted(starts)}


@dataclass(frozen=True)
class Schedule:
    """What is shown and what of it is measured.

    ``numbers``: the frames' places in the stream, whose counter is set forward where one is missing. ``views``: the
    frame of the clip of each. ``laps``: the place at which a measured lap starts -> frames seen at its end.
    """

    numbers: list[int]
    views: list[int]
    laps: dict[int, int]


def schedule(length: int, forward: int, window: int | None) -> Schedule:
    """Of a stream of ``length`` frames over a clip of ``forward``; with a window also of a lap behind :data:`FAR`."""
    order = [*range(forward), *range(forward - 2, 0, -1)]
    laps = measured_laps(length, len(order), forward)
    numbers = list(range(max(laps.values())))
    if window is not None:
        # both the ring and the lap stand where they stood
        step = math.lcm(window, len(order))
        begin = len(numbers) + math.ceil(FAR / step) * step
        start = math.ceil((begin + window) / len(order)) * len(order)
        numbers += range(begin, start + forward)
        laps[start] = start + forward
    return Schedule(numbers, [order[number % len(order)] for number in numbers], laps)


def put_forward(stream: Stream, frames: int) -> None:
    """As if ``frames`` more had been seen."""
    state = stream.state()
    state["seen"] += frames
    stream.restore(state)


@torch.no_grad()
def follow(
    backbone: Backbone, geometry: GeometryHeads, clips: Sequence[Clip], length: int, window: int | None
) -> dict[int, dict[str, np.ndarray]]:
    """Frames seen -> measure -> [rooms]. Raises ValueError where features or predictions are not finite."""
    forward, patch = len(clips[0].frames), backbone.config.patch_size
    plan = schedule(length, forward, window)
    height, width = clips[0].frames.shape[2:]
    frames = torch.stack([clip.frames for clip in clips])
    keeps = {"max_frames": max(plan.laps.values())} if window is None else {"window": window, "sink": 1}
    found: dict[int, dict[str, np.ndarray]] = {}
    gathered: dict[str, list[np.ndarray]] = {"depth": [], "poses": [], "propagation": []}
    first, start = torch.empty(0), 0
    with backbone.stream(len(clips), height, width, **keeps) as stream:
        for number, view in zip(plan.numbers, plan.views, strict=True):
            if number != stream.frames_seen:
                put_forward(stream, number - stream.frames_seen)
            features = stream(frames[:, view : view + 1], layers=geometry.layers)
            first = features.patches[:, 0] if number == 0 else first
            start = number if number in plan.laps else start
            if start not in plan.laps or number - start >= forward:
                continue
            prediction = geometry(features)
            told = prediction.depth[:, 0], prediction.poses[:, 0], features.patches
            if not all(bool(each.isfinite().all()) for each in told):
                raise ValueError(f"frame {number:,}: what the stream says is not finite")
            gathered["depth"].append(told[0].cpu().numpy())
            gathered["poses"].append(told[1].cpu().numpy())
            if view:
                pairs = zip(clips, features.patches[:, 0], first, strict=True)
                gathered["propagation"].append(np.array([propagation(c, view, p, f, patch) for c, p, f in pairs]))
            if number - start == forward - 1:
                found[plan.laps[start]] = _summary(clips, gathered)
                gathered = {name: [] for name in gathered}
    return found


def _summary(clips: Sequence[Clip], gathered: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    depth, poses = (np.stack(gathered[name], 1) for name in ("depth", "poses"))
    guesses = [Guess(*each) for each in zip(depth, poses, strict=True)]
    result = {
        name: np.array([measure(name, guess, clip) for guess, clip in zip(guesses, clips, strict=True)])
        for name in MEASURES
        if name != "propagation"
    }
    return result | {"propagation": np.nanmean(np.stack(gathered["propagation"]), 0)}


def draw(path: Path, results: dict[str, dict[int, dict[str, np.ndarray]]]) -> None:
    """Errors against frames seen, a column a measure."""
    figure = Figure(figsize=(3.4 * len(MEASURES), 3.2), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(1, len(MEASURES)), MEASURES.items(), strict=True):
        for (mode, laps), colour in zip(results.items(), ("tab:blue", "tab:orange"), strict=True):
            lengths, values = list(laps), np.stack([laps[length][name] for length in laps])
            axis.plot(lengths, values, color=colour, linewidth=0.5, alpha=0.4)
            axis.plot(lengths, np.nanmean(values, 1), "o-", color=colour, label=mode, markersize=3)
        axis.set(xscale="log", xlabel="frames seen", title=title, ylim=(0, None))
        axis.minorticks_off()
        axis.set_xticks(lengths, labels=[f"{length:,}" for length in lengths], rotation=90)
        axis.title.set_fontsize(9)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run with geometry heads")
    parser.add_argument("--length", type=int, default=1000, help="frames of the longest stream")
    parser.add_argument("--window", type=int, default=16, help="frames that are seen besides the first")
    parser.add_argument("--rooms", type=int, default=8)
    parser.add_argument("--data", type=Path, help="where `interlace prepare demo` wrote (its own place)")
    parser.add_argument("--out", type=Path, default=Path("long_streams.png"))
    options = parser.parse_args()
    backbone = load_frozen(options.run)
    heads = load_geometry(options.run, backbone)
    if heads is None:
        parser.error(f"{options.run} has no geometry heads")
    geometry, size = heads
    clips = read_clips(options.data or demo_folder(), size, options.rooms)
    modes = {"all frames": None, f"window {options.window} and the first": options.window}
    results = {}
    for mode, window in modes.items():
        began = time.perf_counter()
        results[mode] = follow(backbone, geometry, clips, options.length, window)
        print(f"\n{mode}, {len(clips)} rooms, {time.perf_counter() - began:.0f} s")
        print(f"{'frames':>8}" + "".join(f"{name:>20}" for name in MEASURES))
        for length, found in results[mode].items():
            print(f"{length:8}" + "".join(f"{np.nanmean(found[name]):20.3f}" for name in MEASURES))
    draw(options.out, results)
    print(f"\npicture: {options.out}")


if __name__ == "__main__":
    main()
