"""Chains on the robot table: several instructions in a row in one scene, as CALVIN counts them."""

from __future__ import annotations

from dataclasses import dataclass

from ..randomness import generator
from .table import INSTRUCTIONS, Instruction, Layout, draw_layout
from .table_mjcf import BLOCKS

#: Instructions of a chain.
CHAIN_LENGTH = 5
#: Numbers of chains' layouts begin here: no episode has them.
CHAIN_EPISODES = 2_400_000


@dataclass(frozen=True)
class Chain:
    """Where everything is when the first instruction is given, and the instructions."""

    layout: Layout
    instructions: tuple[Instruction, ...]


def draw_chain(seed: int, number: int) -> Chain:
    """Chain ``number`` of a seed: each thing that may be named is named once, in any order.

    All is possible when its turn comes: the drawer is opened where it is shut, and shut where it is open; a block is
    lifted in the end alone, because the hand that holds it cannot do anything else (in CALVIN: ``grasped``).
    """
    rng = generator(seed, "table chain", number)
    layout = draw_layout(seed, CHAIN_EPISODES + number, INSTRUCTIONS["press_button"])
    targets = rng.permutation([*BLOCKS, "drawer", "button"]).tolist()
    names = []
    for place, target in enumerate(targets):
        if target == "drawer":
            names.append("close_drawer" if layout.drawer else "open_drawer")
        elif target == "button":
            names.append("press_button")
        else:
            verbs = ("left", "right", "lift") if place == CHAIN_LENGTH - 1 else ("left", "right")
            names.append(f"{verbs[int(rng.integers(len(verbs)))]}_{target}")
    return Chain(layout, tuple(INSTRUCTIONS[name] for name in names))
