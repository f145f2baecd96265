"""Scripted experts of the robot table: the next action as a function of how things are, and of nothing else.

An expert keeps no phase of its own. Pushed off its way it takes it up again, and what it does can be told from one
picture of the table.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .table import STEP, Instruction, State
from .table_mjcf import BLOCK

#: Height of the fingers' tips at which the hand passes over everything.
OVER = 0.13
#: Height to which a block is lifted.
_RAISED = 0.2
_OPEN, _CLOSED = 1.0, 0.0


def expert(instruction: Instruction, state: State) -> np.ndarray:
    """[4] float64, the expert's next action."""
    return _EXPERTS[instruction.verb](instruction, state)


def _travel(state: State, goal: np.ndarray, gripper: float) -> np.ndarray:
    """Over everything to above ``goal`` [3], sideways only as far as the hand is up."""
    distance = np.linalg.norm(goal[:2] - state.hand[:2])
    rises = state.hand[2] < OVER - 0.03 and distance > 0.02
    return np.array([*(state.hand if rises else goal)[:2], OVER, gripper])


def _lift(instruction: Instruction, state: State) -> np.ndarray:
    place = state.blocks[instruction.target]
    off = np.linalg.norm(place[:2] - state.hand[:2])
    low = state.hand[2] - (place[2] - BLOCK)  # height of the tips over the block's underside
    if off > (0.012 if low > 0.03 else 0.02):
        return _travel(state, place, _OPEN)
    around = place - (0.0, 0.0, BLOCK - 0.012)
    if low > 0.025:
        return np.array([*around, _OPEN])
    if state.gap > 2 * BLOCK + 0.003:
        return np.array([*around, _CLOSED])
    return np.array([*place[:2], _RAISED, _CLOSED])


def _push(instruction: Instruction, state: State) -> np.ndarray:
    place, side = state.blocks[instruction.target], -1.0 if instruction.verb == "left" else 1.0
    behind = side * (place[0] - state.hand[0])  # how far the hand is on the side that it pushes from
    beside = abs(place[1] - state.hand[1])
    start = np.array([place[0] - side * 0.065, place[1], 0.015])
    low = state.hand[2] < 0.035
    if not (0.02 < behind < (0.1 if low else 0.08) and beside < (0.02 if low else 0.012)):
        return _travel(state, start, _CLOSED)
    if not low:
        return np.array([*start, _CLOSED])
    return np.array([*place[:2], start[2], _CLOSED])


def _press(instruction: Instruction, state: State) -> np.ndarray:
    if np.linalg.norm(state.knob[:2] - state.hand[:2]) > 0.012:
        return _travel(state, state.knob, _CLOSED)
    return np.array([*state.knob[:2], state.knob[2] - STEP, _CLOSED])


def _open(instruction: Instruction, state: State) -> np.ndarray:
    start = state.bar + np.array([0.0, 0.028, -0.02])  # between the bar and the drawer's front
    low = state.hand[2] < state.bar[2] - 0.008
    off = state.hand - start
    if abs(off[0]) > (0.02 if low else 0.01) or abs(off[1]) > (0.024 if low else 0.008):
        return _travel(state, start, _CLOSED)
    if not low:
        return np.array([*start, _CLOSED])
    return np.array([start[0], state.bar[1] - STEP, start[2], _CLOSED])


def _close(instruction: Instruction, state: State) -> np.ndarray:
    start = state.bar + np.array([0.0, -0.045, -0.02])
    low = state.hand[2] < state.bar[2] - 0.005
    before = state.bar[1] - state.hand[1]  # how far the hand is on the camera's side of the bar
    if abs(state.hand[0] - start[0]) > 0.025 or not (0.012 < before < (0.1 if low else 0.06)):
        return _travel(state, start, _CLOSED)
    if not low:
        return np.array([*start, _CLOSED])
    return np.array([start[0], state.bar[1] + STEP, start[2], _CLOSED])


_EXPERTS: dict[str, Callable[[Instruction, State], np.ndarray]] = {
    "lift": _lift,
    "left": _push,
    "right": _push,
    "open": _open,
    "close": _close,
    "press": _press,
}
