"""A policy in control of a robot in a simulator: how often it does what it is told, in closed loop, with videos.

A world is a simulator with numbered episodes: the built-in robot table (policy_table.py), CALVIN, LIBERO, SimplerEnv
(policy_calvin.py, policy_libero.py, policy_simpler.py). An episode has one instruction, or a chain of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from interlace.data_recipes.randomness import generator
from interlace.tasks.lettering import BLUE, ORANGE, Colour, lettered

from .frozen import DataHash
from .result import Facts, Result, Scores, result


class Actor(Protocol):
    """What is put in control: :class:`interlace.tasks.vla.Policy`, or anything that acts like it."""

    def begin(self, instruction: str) -> None: ...

    def act(self, frame: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Order:
    """An instruction of an episode. ``text`` is what a policy reads; results are summed up by ``name``."""

    name: str
    text: str


@dataclass(frozen=True)
class Step:
    """What came of an action. ``done``: the order is carried out. ``over``: it cannot be any more."""

    frame: np.ndarray  # [H, W, 3] uint8, what is seen now
    done: bool
    over: bool = False


class World(Protocol):
    """A simulator. ``name``: of results' data. ``settings``: all that could move a result. ``fps``: of its actions.

    ``horizon``: actions after which an order of the episode that was started is not carried out. ``groups``: names of
    orders whose results are summed up together too.
    """

    name: str
    settings: Mapping[str, Any]
    fps: float
    groups: Mapping[str, frozenset[str]]

    @property
    def horizon(self) -> int: ...

    def start(self, number: int) -> tuple[np.ndarray, Sequence[Order]]:
        """Put everything where it is when episode ``number`` begins: what is seen, and what there is to do."""
        ...

    def begin(self, order: Order) -> None:
        """What happens from here on is judged by this order."""
        ...

    def act(self, action: np.ndarray) -> Step:
        """Do one action, as the policy was trained to give them."""
        ...


def picture(seen: object, world: str) -> np.ndarray:
    """[H, W, 3] uint8, as a policy is shown it. ValueError for a picture of another kind."""
    found = np.asarray(seen)
    if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
        raise ValueError(f"{world}: its camera gives {found.dtype} {found.shape}, and not uint8 [H, W, 3]")
    return np.ascontiguousarray(found)


def told_as(action: np.ndarray, size: int, world: str) -> np.ndarray:
    """[size] float64, the caller's own. ValueError for an action of another width, or one that is not finite."""
    told = np.array(action, np.float64)
    if told.shape != (size,) or not np.isfinite(told).all():
        raise ValueError(f"{world}: an action is {size} finite numbers, and this policy's is {told}")
    return told


#: Settings of a world whose simulator could not be had where its adapter was written.
UNVERIFIED: Mapping[str, object] = {"adapter": "tried with stand-ins, never with the simulator itself"}


@dataclass(frozen=True)
class Attempt:
    """One episode. ``done``: how many of its orders were carried out in a row, from the first on."""

    number: int
    orders: tuple[Order, ...]
    done: int
    frames: np.ndarray  # [T, H, W, 3] uint8, one before each action and the last

    @property
    def succeeded(self) -> bool:
        return self.done == len(self.orders)


#: What an actor is told of the order at a place of an episode.
Told = Callable[[int, int, Order], str]


def as_it_is(number: int, place: int, order: Order) -> str:
    """The order itself."""
    return order.text


def another(texts: Sequence[str], seed: int) -> Told:
    """Another of these instructions in place of each, drawn from (seed, episode, place) and nothing else.

    A policy that is told so, and is judged by what it was not told, shows what pixels and luck give away.
    """

    def told(number: int, place: int, order: Order) -> str:
        others = [text for text in texts if text != order.text]
        return others[int(generator(seed, "told otherwise", number, place).integers(len(others)))]

    return told


def attempt(world: World, actor: Actor, number: int, told: Told = as_it_is) -> Attempt:
    """Episode ``number``: its orders one after another, until one is not carried out."""
    frame, orders = world.start(number)
    frames, done = [frame], 0
    for place, order in enumerate(orders):
        world.begin(order)
        actor.begin(told(number, place, order))
        if not _carry_out(world, actor, frames):
            break
        done += 1
    return Attempt(number, tuple(orders), done, np.stack(frames))


def _carry_out(world: World, actor: Actor, frames: list[np.ndarray]) -> bool:
    for _ in range(world.horizon):
        step = world.act(actor.act(frames[-1]))
        frames.append(step.frame)
        if step.done or step.over:
            return step.done
    return False


#: Pixels that the longer side of a film's pictures has at least: simulators draw small ones.
SIDE = 256
#: What :class:`Films` writes, whole or not.
_FILM = re.compile(r"(done|failed)_.+_\d+\.mp4|\.(done|failed)_.+_\d+\.mp4\.partial")


class Films:
    """mp4 files of the first ``most`` successes and the first ``most`` failures, named by what happened.

    Made when a measurement begins: the films of an earlier one in ``folder`` are removed, and no other file.
    """

    def __init__(self, folder: Path, fps: float, most: int = 4) -> None:
        self.folder, self.fps, self.most = folder, fps, most
        self.written: list[Path] = []
        self._counts = {"done": 0, "failed": 0}
        for earlier in folder.iterdir() if folder.is_dir() else ():
            if _FILM.fullmatch(earlier.name):
                earlier.unlink()

    def keep(self, tried: Attempt) -> None:
        """Write it, if there are not enough of its kind yet."""
        word = "done" if tried.succeeded else "failed"
        if self._counts[word] < self.most:
            self._counts[word] += 1
            last = tried.orders[min(tried.done, len(tried.orders) - 1)]
            path = self.folder / f"{word}_{last.name}_{tried.number}.mp4"
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial")
            _write_video(tried, partial, self.fps)
            partial.replace(path)
            self.written.append(path)


def _write_video(tried: Attempt, path: Path, fps: float) -> None:
    """Its pictures, enlarged without blur, above what there was to do and whether that was done."""
    import av

    _, rows, columns, _ = tried.frames.shape
    factor = -(-SIDE // max(rows, columns))
    below = np.asarray(lettered(_outcome(tried), columns * factor, 3))
    height, width = (side // 2 * 2 for side in (rows * factor + len(below), columns * factor))  # as yuv420p wants them
    with av.open(str(path), "w", format="mp4") as video:
        stream = video.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in tried.frames:
            whole = np.concatenate((frame.repeat(factor, 0).repeat(factor, 1), below))
            even = np.ascontiguousarray(whole[:height, :width])
            video.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        video.mux(stream.encode(None))


def _outcome(tried: Attempt) -> list[tuple[str, Colour]]:
    """A line for each order that was begun, with its colour: done or failed."""
    done = [(f"done: {order.text}", BLUE) for order in tried.orders[: tried.done]]
    return done + [(f"failed: {order.text}", ORANGE) for order in tried.orders[tried.done : tried.done + 1]]


def attempts(
    world: World,
    actor: Actor,
    numbers: Sequence[int],
    *,
    told: Told = as_it_is,
    films: Films | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Attempt]:
    """Several episodes. What is returned keeps the first frame of each; ``films`` sees the whole."""
    tried = []
    for number in numbers:
        one = attempt(world, actor, number, told)
        if films is not None:
            films.keep(one)
        tried.append(replace(one, frames=one.frames[:1].copy()))
        if len(tried) % 10 == 0:
            say(f"{len(tried)} of {len(numbers)} episodes, {sum(each.succeeded for each in tried)} done")
    return tried


@dataclass(frozen=True)
class Who:
    """Whom results are of. ``seed``: of the policy's training."""

    name: str
    backbone_hash: str
    seed: int = 0


def success(world: World, tried: Sequence[Attempt], who: Who) -> list[Result]:
    """Share of episodes whose one order was carried out: of all, of the world's groups, of each order.

    Episodes are resampled. ValueError for no attempt.
    """
    facts = _facts(world, tried, who, "policy/success in closed loop", "episode")
    found = []
    for measure, names in _groups(world, tried).items():
        chosen = [each for each in tried if each.orders[0].name in names]
        found.append(_share(measure, chosen, [float(each.succeeded) for each in chosen], facts))
    return found


def chains(world: World, tried: Sequence[Attempt], who: Who) -> list[Result]:
    """``length``: how many orders of a chain were carried out in a row, in the mean; ``k in a row``: how often at least
    k were. CALVIN's measures; chains are resampled. ValueError for no attempt."""
    facts = _facts(world, tried, who, "policy/chains in closed loop", "chain")
    longest = max((len(each.orders) for each in tried), default=0)
    found = [_share("length", tried, [float(each.done) for each in tried], facts)]
    for count in range(1, longest + 1):
        found.append(_share(f"{count} in a row", tried, [float(each.done >= count) for each in tried], facts))
    return found


def differences(
    world: World, mine: Sequence[Attempt], theirs: Mapping[str, Sequence[Attempt]], who: Who
) -> list[Result]:
    """By how much a policy does better than each of these, which tried the same episodes, paired by episode.

    Of episodes with one order: of all and of the world's groups; of chains: of the number done in a row. ValueError for
    others than the same episodes.
    """
    chained = any(len(each.orders) > 1 for each in mine)
    facts = _facts(world, mine, who, "policy/above its controls", "chain" if chained else "episode")
    groups = {"length": set[str]()} if chained else _groups(world, mine, each_order=False)
    found = []
    for name, others in theirs.items():
        if [(each.number, each.orders) for each in others] != [(each.number, each.orders) for each in mine]:
            raise ValueError(f"{name}: did not try the same episodes as {who.name}, so that they cannot be paired")
        for measure, names in groups.items():
            pairs = [
                (one, other) for one, other in zip(mine, others, strict=True) if chained or one.orders[0].name in names
            ]
            gains = [float(one.done - other.done) for one, other in pairs]
            found.append(_share(f"{measure}, above {name}", [one for one, _ in pairs], gains, facts))
    return found


def _groups(world: World, tried: Sequence[Attempt], *, each_order: bool = True) -> dict[str, set[str]]:
    """Measure -> the names of the orders that it sums up; groups of which nothing was tried are left out."""
    names = list(dict.fromkeys(each.orders[0].name for each in tried))
    groups = {"all": set(names)}
    groups |= {group: set(members) for group, members in world.groups.items() if set(members) & set(names)}
    return groups | ({name: {name} for name in names} if each_order else {})


def _share(measure: str, tried: Sequence[Attempt], marks: Sequence[float], facts: Facts) -> Result:
    return result(Scores.of(measure, "higher", [str(each.number) for each in tried], marks), facts)


def _facts(world: World, tried: Sequence[Attempt], who: Who, protocol: str, unit: str) -> Facts:
    hashed = DataHash()
    for each in tried:
        hashed.add(f"{each.number}: {', '.join(order.text for order in each.orders)}", each.frames[0])
    return Facts(
        protocol=protocol,
        data=world.name,
        unit=unit,
        subject=who.name,
        backbone_hash=who.backbone_hash,
        data_hash=hashed.hexdigest(),
        seed=who.seed,
        settings=dict(world.settings),
    )
