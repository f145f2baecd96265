"""How a robot's actions become -1...1 and come back: computed from data, checked at use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from .media import DataError
from .sample import Sample

#: Where CALVIN's relative actions are cut (VLM4VLA's norm_action).
CALVIN_CLIP = 0.65
#: Which shares of the steps BridgeData V2's actions are stretched between.
QUANTILES = (0.01, 0.99)


class Episodes(Protocol):
    """A source that offers episodes."""

    def __len__(self) -> int: ...

    def read(self, index: int, fields: frozenset[str]) -> Sample: ...


@dataclass(frozen=True)
class ActionScale:
    """``low`` and ``high`` [A - 1]: what becomes -1 and 1, along each of the arm's axes; beyond them is cut.

    The gripper, the last of an action's A numbers, is 0 or 1 and stays as it is. ``kind``: how the two were found.
    ``episodes`` and ``steps``: in how much data, 0 where it was stated instead.
    """

    kind: Literal["clip", "quantiles", "stated"]
    low: tuple[float, ...]
    high: tuple[float, ...]
    episodes: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or not self.low:
            raise DataError(f"scale of actions: {len(self.low)} lowest and {len(self.high)} highest values")
        for axis, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if not (np.isfinite([low, high]).all() and low < high):
                raise DataError(f"scale of actions: axis {axis} goes from {low} to {high}, no range")

    @property
    def size(self) -> int:
        """A: numbers of an action, the gripper among them."""
        return len(self.low) + 1

    def normalise(self, actions: np.ndarray) -> np.ndarray:
        """[..., A] -> [..., A] float32, the arm in -1...1. DataError for another width."""
        self._check(actions)
        low, high = np.array(self.low), np.array(self.high)
        arm = np.clip((actions[..., :-1] - low) / (high - low) * 2 - 1, -1, 1)
        return np.concatenate([arm, actions[..., -1:]], -1).astype(np.float32)

    def restore(self, actions: np.ndarray) -> np.ndarray:
        """The other way: [..., A] in -1...1 -> what the robot is told. What was cut stays cut."""
        self._check(actions)
        low, high = np.array(self.low), np.array(self.high)
        arm = (np.clip(actions[..., :-1], -1, 1) + 1) / 2 * (high - low) + low
        return np.concatenate([arm, actions[..., -1:]], -1).astype(np.float32)

    def demand_same(self, other: ActionScale, name: str) -> None:
        """DataError naming the first difference: a policy is not used with another's scale. ``name``: the other's."""
        for field in ("low", "high"):
            own, found = getattr(self, field), getattr(other, field)
            if own != found:
                raise DataError(
                    f"{name}: its actions are scaled otherwise than this policy's ({field} {found}, not {own}); "
                    "use the policy with the data that it was trained on"
                )

    def demand_near(self, other: ActionScale, name: str) -> None:
        """DataError for an axis whose range is more than twice ``other``'s or less than half of it: another robot's
        numbers, or in other units. For where a scale is computed from data, and differs from release to release."""
        if self.size != other.size:
            raise DataError(f"{name}: its actions are {other.size} numbers, and this policy's {self.size}")
        for axis, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if not 0.5 <= (high - low) / (other.high[axis] - other.low[axis]) <= 2:
                raise DataError(
                    f"{name}: its actions are scaled otherwise than this policy's (axis {axis} goes from "
                    f"{other.low[axis]} to {other.high[axis]}, not {low} to {high}); use the policy with the robot "
                    "that it was trained on"
                )

    def _check(self, actions: np.ndarray) -> None:
        if actions.shape[-1:] != (self.size,):
            raise DataError(f"actions {actions.shape} where each has {self.size} numbers in this policy's scale")


#: The 1% and 99% quantiles that are published with BridgeData V2: metres and radians a step.
BRIDGE = ActionScale(
    "quantiles",
    (-0.0287, -0.0417, -0.0261, -0.0809, -0.0929, -0.2072),
    (0.0283, 0.0409, 0.0402, 0.0819, 0.0779, 0.2038),
)


def clip_scale(limit: float, axes: int) -> ActionScale:
    """-limit...limit on each of the arm's axes."""
    return ActionScale("clip", (-limit,) * axes, (limit,) * axes)


def quantile_scale(sources: list[Episodes], quantiles: tuple[float, float] = QUANTILES) -> ActionScale:
    """Between two quantiles of all steps of all episodes, axis by axis. No picture is decoded.

    DataError for an axis that does not vary, and for episodes whose actions differ in width.
    """
    found = list(_actions(sources))
    if not found:
        raise DataError("scale of actions: no episode to compute it from")
    widths = sorted({actions.shape[1] for actions in found})
    if len(widths) > 1:
        raise DataError(f"scale of actions: episodes have actions of {' and '.join(map(str, widths))} numbers")
    steps = np.concatenate(found)[:, :-1].astype(np.float64)
    low, high = np.quantile(steps, quantiles, axis=0)
    return ActionScale("quantiles", tuple(low.tolist()), tuple(high.tolist()), len(found), len(steps))


def _actions(sources: list[Episodes]) -> Iterator[np.ndarray]:
    for source in sources:
        for index in range(len(source)):
            episode = source.read(index, frozenset({"episode"})).episode
            assert episode is not None
            yield episode.actions
