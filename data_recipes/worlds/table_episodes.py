"""``interlace prepare table``: episodes of the robot table's experts as shards, once; and the replay that sees nothing.

In one folder: table_train, table_glances, table_held_out and tokenizer.model, of the instructions' words.

An episode has a frame before each action; ``proprio`` is the hand's place and the fingers' gap. What is done has noise
on it, what is recorded is what the expert would do, so that a policy also sees how to come back. A glance is the first
frame of an episode and its first action alone, of several instructions in turn: words are all that tells them apart.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..randomness import generator
from ..sample import Episode, Sample
from ..shards import SampleWriter
from . import render
from .demo import TOKENIZER, demo_folder
from .prepared import Prepared, Progress, alone, counts_of, digest_of, drawing, not_made
from .table import ACTION_SIZE, FPS, HORIZON, INSTRUCTIONS, Instruction, Table, TableCamera, draw_layout, possible
from .table_experts import OVER, expert
from .tokenizer import train_tokenizer

#: Numbers of glances and of held-out episodes begin here; multiples of the number of instructions.
GLANCE_EPISODES = 600_000
HELD_OUT_EPISODES = 1_200_000
#: The dataset of glances.
GLANCES = "table_glances"
#: Instructions that are given at one glance.
_GIVEN = 4
#: Actions of another instruction, at most, after which a recorded one is given.
INTERRUPTED = 15
_FORMAT = 4  # raise it when the same settings give other data
_LICENCE = "CC0-1.0: drawn by interlace, nothing of others in it"


@dataclass(frozen=True)
class TableSettings:
    """How many episodes, and how large. ``glances``: layouts that are glanced at. ``noise``: metres, standard
    deviation of what is added to each axis of an action."""

    seed: int = 0
    size: int = 96  # pixels a side
    train: int = 960
    glances: int = 960
    held_out: int = 96
    noise: float = 0.006

    @property
    def digest(self) -> str:
        """Names the data that these settings give."""
        return digest_of(self, _FORMAT, ("mujoco",))


def table_folder() -> Path:
    """``table``, beside the folder of the demo's input."""
    return demo_folder().parent / "table"


def instruction_of(number: int) -> Instruction:
    """What episode ``number`` is about: the instructions take turns."""
    return list(INSTRUCTIONS.values())[number % len(INSTRUCTIONS)]


@dataclass(frozen=True)
class Played:
    """One episode of the expert. ``done``: whether it did what it was told, and nothing else."""

    actions: np.ndarray  # [N, A] float32, before noise
    proprio: np.ndarray  # [N, P] float32
    done: bool


def interrupt(table: Table, instruction: Instruction, rng: np.random.Generator) -> None:
    """Bring the hand to where the expert of another instruction was on its way, before it touched anything.

    Where every episode begins with the hand at home, a hand over a block gives away which block is meant, and a
    policy learns to look at the hand and not for what it is told.
    """
    other = [one for one in INSTRUCTIONS.values() if one.target != instruction.target and possible(one, table.state())]
    chosen = other[int(rng.integers(len(other)))]
    state = table.begin(chosen)
    for _ in range(int(rng.integers(INTERRUPTED + 1))):
        action = expert(chosen, state)
        if action[2] < OVER:
            break
        state, _ = table.act(action)


def play(
    table: Table,
    instruction: Instruction,
    *,
    noise: float,
    rng: np.random.Generator,
    watch: Callable[[], None] = lambda: None,
) -> Played:
    """Let the expert act until the instruction is done, something else was disturbed, or time is up.

    ``noise`` is added to what is done, not to what is recorded; ``watch`` is called before each action.
    """
    state = table.begin(instruction)
    actions, proprio = [], []
    for _ in range(HORIZON):
        watch()
        actions.append(expert(instruction, state))
        proprio.append(state.proprio)
        state, outcome = table.act(actions[-1] + np.array([*rng.normal(0, noise, ACTION_SIZE - 1), 0.0]))
        if outcome.done or outcome.disturbed:
            break
    return Played(np.array(actions, np.float32), np.array(proprio, np.float32), outcome.done)


def _noise(settings: TableSettings, number: int) -> np.random.Generator:
    return generator(settings.seed, "table noise", number)


def record(table: Table, camera: TableCamera, number: int, settings: TableSettings, dataset: str) -> list[Sample]:
    """Episode ``number`` of a seed; none where the expert failed."""
    instruction, frames = instruction_of(number), list[np.ndarray]()
    rng = _interrupted(table, number, settings)
    played = play(table, instruction, noise=settings.noise, rng=rng, watch=lambda: frames.append(camera.draw()))
    if not played.done:
        return []
    key = f"{dataset}/{number:07d}"
    return [_sample(key, dataset, instruction, np.stack(frames), played.actions, played.proprio)]


def glance(table: Table, camera: TableCamera, number: int, settings: TableSettings, dataset: str) -> list[Sample]:
    """The first frame of layout ``number``, and the first action of the experts of several instructions."""
    rng = _interrupted(table, number, settings)
    state, frames = table.state(), camera.draw()[None]
    given = rng.permutation([name for name, one in INSTRUCTIONS.items() if possible(one, state)])[:_GIVEN]
    samples = []
    for instruction in (INSTRUCTIONS[name] for name in given):
        action = expert(instruction, state).astype(np.float32)[None]
        key = f"{dataset}/{number:07d}_{instruction.name}"
        samples.append(_sample(key, dataset, instruction, frames, action, state.proprio[None].astype(np.float32)))
    return samples


def _interrupted(table: Table, number: int, settings: TableSettings) -> np.random.Generator:
    """Lay the table as ``number`` has it, with the hand on its way; what is drawn of its noise from there on."""
    instruction, rng = instruction_of(number), _noise(settings, number)
    table.reset(draw_layout(settings.seed, number, instruction))
    interrupt(table, instruction, rng)
    return rng


def _sample(
    key: str, dataset: str, instruction: Instruction, frames: np.ndarray, actions: np.ndarray, proprio: np.ndarray
) -> Sample:
    return Sample(
        key=key,
        source=dataset,
        frames=frames,
        times=np.arange(len(frames)) / FPS,
        labels={"instruction": list(INSTRUCTIONS).index(instruction.name)},
        episode=Episode(instruction=instruction.text, actions=actions, proprio=proprio, steps=np.arange(len(frames))),
    )


def prepare_table(
    folder: str | Path | None = None,
    *,
    settings: TableSettings | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
    backend: str | None = None,
    workers: int | None = None,
) -> Prepared:
    """Write the datasets that ``folder`` (:func:`table_folder` if None) lacks, and say in one line how they are drawn.

    One that was made with other settings or another MuJoCo is made again; a dataset is written whole or not at all.
    ``backend``: of OpenGL, or "rays"; found by trying if None. ``workers``: processes that draw. The same settings
    give the same episodes whatever their number. Workers are spawned: a script calls this under
    ``if __name__ == "__main__":``.
    """
    folder, settings = table_folder() if folder is None else Path(folder), settings or TableSettings()
    sides = {"table_train": range(settings.train)}
    sides["table_held_out"] = range(HELD_OUT_EPISODES, HELD_OUT_EPISODES + settings.held_out)
    sides[GLANCES] = range(GLANCE_EPISODES, GLANCE_EPISODES + settings.glances)
    missing = not_made(folder, sides, settings.digest)
    if not missing and (folder / TOKENIZER).exists():
        return Prepared(folder, counts_of(folder, sides), ())
    with alone(folder, say):
        missing = not_made(folder, sides, settings.digest)
        if missing:
            (folder / TOKENIZER).unlink(missing_ok=True)  # perhaps of other instructions' words
            backend = backend or render.find_backend()
            say(render.describe_table(backend))
        for name in missing:
            shutil.rmtree(folder / name, ignore_errors=True)
            _write(folder / name, sides[name], settings, str(backend), workers, progress)
        if not (folder / TOKENIZER).exists():
            train_tokenizer({one.text for one in INSTRUCTIONS.values()}, folder / TOKENIZER)
    return Prepared(folder, counts_of(folder, sides), tuple(missing))


def _write(
    folder: Path,
    numbers: range,
    settings: TableSettings,
    backend: str,
    workers: int | None,
    progress: Progress | None,
) -> None:
    jobs = [numbers[at : at + len(INSTRUCTIONS)] for at in range(0, len(numbers), len(INSTRUCTIONS))]
    with (
        SampleWriter(
            folder,
            name=folder.name,
            fields=("frames", "labels", "episode"),
            split=folder.name.removeprefix("table_"),
            licence=_LICENCE,
            fps=FPS,
            classes={"instruction": list(INSTRUCTIONS)},
            extra={
                "digest": settings.digest,
                "settings": asdict(settings),
                "instructions": {name: one.text for name, one in INSTRUCTIONS.items()},
            },
            codec="png",
        ) as writer,
        drawing(partial(_record_all, settings=settings, dataset=folder.name), jobs, backend, workers) as recorded,
    ):
        done = 0
        for job, samples in zip(jobs, recorded, strict=True):
            for sample in samples:
                writer.write(sample)
            done += len(job)
            if progress:
                progress(folder.name, done, len(numbers))


def _record_all(numbers: Sequence[int], settings: TableSettings, dataset: str) -> list[Sample]:
    table = Table()
    draw = glance if dataset == GLANCES else record
    with TableCamera(table, settings.size) as camera:
        return [sample for number in numbers for sample in draw(table, camera, number, settings, dataset)]


@dataclass(frozen=True)
class Replay:
    """What succeeds without pixels. ``rates``: instruction -> share of ``plays`` unseen layouts."""

    rates: dict[str, float]
    plays: int

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.rates.values())))


def mean_actions(table: Table, instruction: Instruction, settings: TableSettings, episodes: int) -> np.ndarray:
    """[longest, A] the expert's mean action at each step, over training layouts; what has ended no longer counts."""
    turn = list(INSTRUCTIONS).index(instruction.name)
    recorded = []
    for number in range(turn, turn + episodes * len(INSTRUCTIONS), len(INSTRUCTIONS)):
        table.reset(draw_layout(settings.seed, number, instruction))
        played = play(table, instruction, noise=settings.noise, rng=_noise(settings, number))
        if played.done:
            recorded.append(played.actions)
    longest = max(len(actions) for actions in recorded)
    return np.array([np.mean([a[step] for a in recorded if len(a) > step], 0) for step in range(longest)])


def replay(settings: TableSettings, episodes: int, plays: int) -> Replay:
    """Do each instruction's mean action, step by step and blind, on layouts that no training episode has."""
    table = Table()
    rates = {}
    for turn, (name, instruction) in enumerate(INSTRUCTIONS.items()):
        actions, successes = mean_actions(table, instruction, settings, episodes), 0
        for index in range(plays):
            table.reset(draw_layout(settings.seed, HELD_OUT_EPISODES + turn + index * len(INSTRUCTIONS), instruction))
            table.begin(instruction)
            successes += any(table.act(action)[1].done for action in actions)
        rates[name] = successes / plays
    return Replay(rates, plays)
