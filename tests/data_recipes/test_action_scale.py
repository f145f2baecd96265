"""Actions become -1...1 by numbers that come from data and are checked before a policy acts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from robots import states_and_commands, write_bridge_raw

from interlace.data_recipes import DataError
from interlace.data_recipes.action_scale import (
    BRIDGE,
    CALVIN_CLIP,
    ActionScale,
    clip_scale,
    quantile_scale,
)
from interlace.data_recipes.bridge import BridgeRawReader, bridge_actions
from interlace.data_recipes.recipe import find_recipe


def test_calvin_is_cut_at_065_and_its_gripper_left_alone() -> None:
    scale = clip_scale(CALVIN_CLIP, 6)
    actions = np.array([[0.65, -0.65, 0.325, 0.9, -1.0, 0.0, 1.0], [0, 0, 0, 0, 0, 0.13, 0.0]], np.float32)
    expected = [[1, -1, 0.5, 1, -1, 0, 1], [0, 0, 0, 0, 0, 0.2, 0]]
    np.testing.assert_allclose(scale.normalise(actions), expected, atol=1e-6)
    cut = np.clip(actions, -0.65, 0.65)
    cut[:, 6] = actions[:, 6]
    np.testing.assert_allclose(scale.restore(scale.normalise(actions)), cut, atol=1e-6)


def test_bridge_is_stretched_between_quantiles_of_its_own_steps(tmp_path: Path) -> None:
    source = BridgeRawReader(write_bridge_raw(tmp_path, trajectories=(1, 2, 3, 5)), "bridge")
    scale = quantile_scale([source])
    steps = np.concatenate([bridge_actions(s[:5], c) for s, c in (states_and_commands(5, n) for n in (1, 2, 3, 5))])
    np.testing.assert_allclose(scale.low, np.quantile(steps[:, :6].astype(float), 0.01, 0), rtol=1e-6)
    np.testing.assert_allclose(scale.high, np.quantile(steps[:, :6].astype(float), 0.99, 0), rtol=1e-6)
    assert (scale.episodes, scale.steps, scale.size) == (4, 12, 7)
    inside = steps[(steps[:, :6] > scale.low).all(1) & (steps[:, :6] < scale.high).all(1)]
    assert 0 < len(inside) < 12
    np.testing.assert_allclose(scale.restore(scale.normalise(inside)), inside, atol=1e-6)
    assert np.abs(scale.normalise(steps)[:, :6]).max() == 1


def test_other_statistics_are_refused() -> None:
    scale = ActionScale("quantiles", (-0.1, -0.2), (0.2, 0.7))
    scale.demand_same(ActionScale("quantiles", (-0.1, -0.2), (0.2, 0.7), 9, 9), "the same, counted elsewhere")
    with pytest.raises(DataError, match=r"table_held_out: its actions are scaled otherwise .*high"):
        scale.demand_same(ActionScale("quantiles", (-0.1, -0.2), (0.2, 0.8)), "table_held_out")


def test_actions_of_another_width_are_refused() -> None:
    scale = clip_scale(1.0, 3)
    for use in (scale.normalise, scale.restore):
        with pytest.raises(DataError, match="4 numbers"):
            use(np.zeros((2, 7)))


@pytest.mark.parametrize(("low", "high"), [((0.0,), (0.0,)), ((0.0,), (np.nan,)), ((0.0, 1.0), (2.0,)), ((), ())])
def test_a_scale_that_scales_nothing_is_refused(low: tuple[float, ...], high: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="scale of actions"):
        ActionScale("quantiles", low, high)


def test_what_was_computed_anew_is_near_and_another_robots_is_not() -> None:
    anew = ActionScale("quantiles", tuple(1.4 * low for low in BRIDGE.low), tuple(1.4 * high for high in BRIDGE.high))
    anew.demand_near(BRIDGE, "x")
    wide = ActionScale("stated", BRIDGE.low, (*BRIDGE.high[:5], 0.7))
    for other, told in (
        (wide, "x: its actions are scaled otherwise than this policy's .axis 5"),
        (clip_scale(0.01, 6), "axis 0"),
        (clip_scale(0.65, 3), "x: its actions are 7 numbers, and this policy's 4"),
    ):
        with pytest.raises(DataError, match=told):
            other.demand_near(BRIDGE, "x")


def test_the_published_scale_is_the_recipes() -> None:
    options = yaml.safe_load(find_recipe("vla_bridge").read_text())["tasks"]["vla"]["options"]
    assert (tuple(options["low"]), tuple(options["high"])) == (BRIDGE.low, BRIDGE.high)
