"""Predicted actions held against what was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interlace.data_recipes import Episode
from interlace.data_recipes.action_scale import ActionScale

from ..interface import Measure

#: Steps of an episode that are measured, at most.
MEASURED = 4

#: What the measures are, for a reader.
MEANINGS = {
    "arm_error": "difference of predicted and done movement, mean over steps and axes; an axis goes from -1 to 1",
    "gripper_accuracy": "share of steps, 0 to 1, at which the gripper is opened or closed as was done",
}


def spread(length: int, count: int = MEASURED) -> np.ndarray:
    """At most ``count`` steps of ``length``, the first of each equal part; ``count`` of them where there are fewer."""
    return np.arange(count) * length // count if length >= count else np.arange(count) % length


@dataclass(frozen=True)
class Blind:
    """Mean normalised actions [A] of training: of an instruction, and of all."""

    of: dict[str, np.ndarray]
    all: np.ndarray

    def action(self, instruction: str) -> np.ndarray:
        """[A] the guess of who sees nothing."""
        return self.of.get(instruction, self.all)


def mean_actions(episodes: Sequence[Episode], scale: ActionScale) -> Blind:
    """Over all steps of these episodes."""
    told: dict[str, list[np.ndarray]] = {}
    for episode in episodes:
        told.setdefault(episode.instruction, []).append(scale.normalise(episode.actions))
    means = {instruction: np.concatenate(found).mean(0) for instruction, found in told.items()}
    return Blind(means, np.concatenate([each for found in told.values() for each in found]).mean(0))


def action_measures(
    truth: Sequence[tuple[np.ndarray, np.ndarray]],
    own: Sequence[np.ndarray],
    fixed: Sequence[np.ndarray],
    swapped: Sequence[np.ndarray],
) -> list[Measure]:
    """``truth``: actions [n, chunk, A] with their mask [n, chunk]; the others: what was predicted instead."""

    def arm(guesses: Sequence[np.ndarray]) -> np.ndarray:
        errors = [
            np.abs(guess[mask] - actions[mask])[:, :-1].mean()
            for guess, (actions, mask) in zip(guesses, truth, strict=True)
        ]
        return np.array(errors, np.float64)

    def gripper(guesses: Sequence[np.ndarray]) -> np.ndarray:
        right = []
        for guess, (actions, mask) in zip(guesses, truth, strict=True):
            said, done = guess[mask][:, -1], actions[mask][:, -1]
            right.append(np.nan if np.isnan(said).any() else ((said > 0.5) == (done > 0.5)).mean())
        return np.array(right, np.float64)

    return [
        Measure(name="arm_error", better="lower", values=arm(own), fixed=arm(fixed), swapped=arm(swapped)),
        Measure(
            name="gripper_accuracy",
            better="higher",
            values=gripper(own),
            fixed=gripper(fixed),
            swapped=gripper(swapped),
        ),
    ]
