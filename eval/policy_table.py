"""The robot table as a world for policies, and whom they are held against: the expert, and who sees nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from interlace.data_recipes.worlds.table import (
    BLOCK_INSTRUCTIONS,
    FPS,
    HORIZON,
    INSTRUCTIONS,
    Instruction,
    Layout,
    Table,
    draw_layout,
)
from interlace.data_recipes.worlds.table_chains import draw_chain
from interlace.data_recipes.worlds.table_episodes import (
    HELD_OUT_EPISODES,
    TableSettings,
    instruction_of,
    mean_actions,
)
from interlace.data_recipes.worlds.table_experts import expert

from .policy import (
    Actor,
    Attempt,
    Films,
    Order,
    Step,
    Told,
    Who,
    World,
    another,
    as_it_is,
    attempts,
    chains,
    differences,
    success,
)
from .result import Result
from .subjects import NO_WEIGHTS

#: Training episodes of each instruction whose mean is replayed.
REPLAYED = 40
#: What a policy may be told.
TEXTS = tuple(one.text for one in INSTRUCTIONS.values())

_BY_TEXT = {one.text: one for one in INSTRUCTIONS.values()}


class TableEpisodes:
    """Held-out layouts of a seed, number 0, 1, ...; the instructions take turns.

    ``draw`` gives the table's picture as it is now. ``every``: 1 draws it after every action, n after every n-th of an
    order's, for actors that look no oftener, and 0 never, for those that do not look: in between they are shown the
    picture before, again and again. How an order ends is drawn in any case but the last.
    """

    name, fps, horizon = "robot table", FPS, HORIZON
    groups: Mapping[str, frozenset[str]] = {"blocks": frozenset(BLOCK_INSTRUCTIONS)}

    def __init__(self, table: Table, draw: Callable[[], np.ndarray], seed: int, *, every: int = 1) -> None:
        self.table, self.draw, self.seed, self.every = table, draw, seed, every
        self.settings: Mapping[str, object] = {"horizon": HORIZON, "seed of layouts": seed, "replay of": REPLAYED}

    def start(self, number: int) -> tuple[np.ndarray, Sequence[Order]]:
        instruction = instruction_of(number)
        return self._set(draw_layout(self.seed, HELD_OUT_EPISODES + number, instruction), [instruction])

    def begin(self, order: Order) -> None:
        self.table.begin(INSTRUCTIONS[order.name])
        self._done = 0

    def act(self, action: np.ndarray) -> Step:
        _, outcome = self.table.act(action)
        self._done += 1
        ends = outcome.done or bool(outcome.disturbed)
        if self.every and (ends or self._done % self.every == 0):
            self._shown = self.draw()
        return Step(self._shown, outcome.done, bool(outcome.disturbed))

    def _set(self, layout: Layout, instructions: Sequence[Instruction]) -> tuple[np.ndarray, Sequence[Order]]:
        self.table.reset(layout)
        self._shown = self.draw()
        return self._shown, [Order(one.name, one.text) for one in instructions]


class TableChains(TableEpisodes):
    """Five instructions in a row in one scene: chain 0, 1, ... of a seed."""

    name = "robot table, chains"
    groups: Mapping[str, frozenset[str]] = {}

    def start(self, number: int) -> tuple[np.ndarray, Sequence[Order]]:
        chain = draw_chain(self.seed, number)
        return self._set(chain.layout, chain.instructions)


class Expert:
    """The scripted expert. Told in words as a policy is; it peeps at the simulator in place of looking."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def begin(self, instruction: str) -> None:
        self._instruction = _BY_TEXT[instruction]

    def act(self, frame: np.ndarray) -> np.ndarray:
        return expert(self._instruction, self._table.state())


class Replay:
    """Does the mean of the expert's actions for an instruction, step by step, and sees nothing; then the last of them.

    ``actions``: what it is told -> [steps, A].
    """

    def __init__(self, actions: Mapping[str, np.ndarray]) -> None:
        self._actions = actions

    @staticmethod
    def of(table: Table, settings: TableSettings) -> Replay:
        """Means over training episodes with these settings' seed and noise."""
        found = {one.text: mean_actions(table, one, settings, REPLAYED) for one in INSTRUCTIONS.values()}
        return Replay(found)

    def begin(self, instruction: str) -> None:
        self._mine, self._step = self._actions[instruction], 0

    def act(self, frame: np.ndarray) -> np.ndarray:
        step, self._step = self._step, self._step + 1
        return self._mine[min(step, len(self._mine) - 1)]


@dataclass(frozen=True)
class Rival:
    """Whom results are of, and how it acts. ``every``: how often it looks, as worlds draw it. ``told``: of an order."""

    who: Who
    actor: Actor
    every: int
    told: Told = as_it_is


def rivals(table: Table, policy: Actor, every: int, who: Who, settings: TableSettings) -> list[Rival]:
    """The policy, then the scripted expert, the blind replay, and the policy told another instruction each time.

    ``every``: how often the policy looks. ``settings``: of the episodes that were trained on.
    """
    misled = replace(who, name=f"{who.name}, told another")
    return [
        Rival(who, policy, every),
        Rival(Who("scripted expert", NO_WEIGHTS), Expert(table), 0),
        Rival(Who("blind replay", NO_WEIGHTS), Replay.of(table, settings), 0),
        Rival(misled, policy, every, told=another(TEXTS, settings.seed)),
    ]


def compare(
    make: Callable[[int], World],
    sides: Sequence[Rival],
    count: int,
    *,
    films: Films | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[Result], dict[str, list[Attempt]]]:
    """Results of all sides on episodes 0 ... ``count`` - 1, and by how much the first is above each other, in pairs.

    ``make``: a world of the table, for actors that look so often. ``films``: of the first side, if it looks; they show
    every action. Attempts come back too, by name.
    """
    tried: dict[str, list[Attempt]] = {}
    results: list[Result] = []
    for side in sides:
        kept = films if side.every and not tried else None
        world = make(side.every if kept is None else 1)
        say(f"{world.name}: {side.who.name}")
        mine = attempts(world, side.actor, range(count), told=side.told, films=kept, say=say)
        tried[side.who.name] = mine
        results += chains(world, mine, side.who) if len(mine[0].orders) > 1 else success(world, mine, side.who)
    first = sides[0].who
    others = {side.who.name.removeprefix(f"{first.name}, "): tried[side.who.name] for side in sides[1:]}
    return results + differences(world, tried[first.name], others, first), tried
