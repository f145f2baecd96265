"""Chains on the robot table: what they name, that experts can do them, and the button between two instructions."""

from __future__ import annotations

import numpy as np

from interlace.data_recipes.worlds.table import HORIZON, INSTRUCTIONS, PRESSED, Table, draw_layout
from interlace.data_recipes.worlds.table_chains import CHAIN_EPISODES, CHAIN_LENGTH, draw_chain
from interlace.data_recipes.worlds.table_episodes import HELD_OUT_EPISODES
from interlace.data_recipes.worlds.table_experts import expert


def test_each_thing_is_named_once_and_can_be_moved() -> None:
    chains = [draw_chain(0, number) for number in range(200)]
    for number, chain in enumerate(chains):
        assert len(chain.instructions) == CHAIN_LENGTH
        assert len({one.target for one in chain.instructions}) == CHAIN_LENGTH
        (drawer,) = (one for one in chain.instructions if one.target == "drawer")
        assert drawer.verb == ("close" if chain.layout.drawer > 0 else "open")
        assert all(one.verb != "lift" for one in chain.instructions[:-1])  # whoever holds a block can do no more
        assert chain.layout == draw_layout(0, CHAIN_EPISODES + number, drawer)
    assert {one.name for chain in chains for one in chain.instructions} == set(INSTRUCTIONS)
    assert len({chain.instructions for chain in chains}) > 150
    assert len({chain.layout for chain in chains}) == 200
    assert draw_chain(0, 3) == draw_chain(0, 3) != draw_chain(1, 3)
    assert CHAIN_EPISODES > 2 * HELD_OUT_EPISODES - 1  # held-out episodes do not reach them


def test_experts_do_all_five_in_a_row() -> None:
    table = Table()
    for number in range(4):
        chain = draw_chain(5, number)
        table.reset(chain.layout)
        for instruction in chain.instructions:
            state = table.begin(instruction)
            for _ in range(HORIZON):
                state, outcome = table.act(expert(instruction, state))
                if outcome.done or outcome.disturbed:
                    break
            assert outcome.done, (number, instruction.name, outcome.disturbed)


def test_a_button_that_is_still_down_was_not_pressed_again() -> None:
    """The hand rests on it when the next instruction begins: that disturbs nothing, pressing it once more does."""
    table, press, push = Table(), INSTRUCTIONS["press_button"], INSTRUCTIONS["left_red"]
    table.reset(draw_layout(0, 0, press))
    state = table.begin(press)
    for _ in range(HORIZON):
        state, outcome = table.act(expert(press, state))
        if outcome.done:
            break
    down, up = (np.array([*state.knob[:2], height, 0.0]) for height in (0.0, 0.2))
    state, _ = table.act(down)
    assert state.button > PRESSED
    table.begin(push)
    _, outcome = table.act(down)
    assert outcome.disturbed == ()
    for _ in range(4):
        state, outcome = table.act(up)
    assert state.button < PRESSED
    assert outcome.disturbed == ()
    for _ in range(6):
        state, outcome = table.act(down)
    assert outcome.disturbed == ("button",)
