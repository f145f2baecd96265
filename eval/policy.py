"""A policy in control of the robot table: success by instruction, in closed loop, with videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np

from interlace.data_recipes.worlds.table import (
    BLOCK_INSTRUCTIONS,
    FPS,
    HORIZON,
    INSTRUCTIONS,
    Instruction,
    Table,
    draw_layout,
)
from interlace.data_recipes.worlds.table_episodes import HELD_OUT_EPISODES, instruction_of

from .frozen import DataHash
from .result import Facts, Result, Scores, result


class Actor(Protocol):
    """What is put in control: :class:`interlace.tasks.vla.Policy`, or anything that acts like it."""

    def begin(self, instruction: str) -> None: ...

    def act(self, frame: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Attempt:
    """One episode. ``disturbed``: what moved though nobody named it; empty too where time was up."""

    number: int
    instruction: Instruction
    done: bool
    disturbed: tuple[str, ...]
    frames: np.ndarray  # [T, H, W, 3] uint8, one before each action and the last


def attempt(table: Table, draw: Callable[[], np.ndarray], actor: Actor, seed: int, number: int) -> Attempt:
    """Held-out episode ``number`` (0, 1, ...) of a seed. ``draw`` gives the table's picture as it is now."""
    instruction = instruction_of(number)
    table.reset(draw_layout(seed, HELD_OUT_EPISODES + number, instruction))
    table.begin(instruction)
    actor.begin(instruction.text)
    frames = [draw()]
    for _ in range(HORIZON):
        _, outcome = table.act(actor.act(frames[-1]))
        frames.append(draw())
        if outcome.done or outcome.disturbed:
            break
    return Attempt(number, instruction, outcome.done, outcome.disturbed, np.stack(frames))


def success(attempts: Sequence[Attempt], *, subject: str, backbone_hash: str, seed: int) -> list[Result]:
    """Share of attempts that were done: of all, of the nine about blocks, of each instruction. Episodes are resampled.

    ``seed``: of the policy's training. ValueError for no attempt.
    """
    hashed = DataHash()
    for each in attempts:
        hashed.add(str(each.number), each.frames[0])
    facts = Facts(
        protocol="policy/success in closed loop",
        data="robot table",
        unit="episode",
        subject=subject,
        backbone_hash=backbone_hash,
        data_hash=hashed.hexdigest(),
        seed=seed,
        settings={"horizon": HORIZON},
    )
    groups = {"all": set(INSTRUCTIONS), "blocks": set(BLOCK_INSTRUCTIONS), **{name: {name} for name in INSTRUCTIONS}}
    found = []
    for measure, names in groups.items():
        chosen = [each for each in attempts if each.instruction.name in names]
        if chosen or measure == "all":
            units, marks = [str(each.number) for each in chosen], [float(each.done) for each in chosen]
            found.append(result(Scores.of(measure, "higher", units, marks), facts))
    return found


def write_videos(attempts: Sequence[Attempt], folder: Path, most: int = 4) -> list[Path]:
    """mp4 files of the first ``most`` successes and the first ``most`` failures, named by what happened."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for done, word in ((True, "done"), (False, "failed")):
        for each in [one for one in attempts if one.done == done][:most]:
            path = folder / f"{word}_{each.instruction.name}_{each.number}.mp4"
            _write_video(each.frames, path)
            written.append(path)
    return written


def _write_video(frames: np.ndarray, path: Path) -> None:
    import av

    with av.open(str(path), "w") as video:
        stream = video.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        video.mux(stream.encode(None))
