"""The order of a source: every epoch everything once, the same from anywhere, few shards at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace.data_recipes.order import Order

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 99), window=st.integers(1, 14))
def test_each_epoch_is_a_permutation(sizes: list[int], seed: int, window: int) -> None:
    order = Order(sizes, seed, "rooms", window)
    epochs = np.array([order.index(n) for n in range(3 * sum(sizes))]).reshape(3, -1)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(sum(sizes)), (3, 1)))


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, window=st.integers(1, 14), data=st.data())
def test_any_access_equals_counting_from_zero(sizes: list[int], window: int, data: st.DataObject) -> None:
    total = 4 * sum(sizes)
    order = Order(sizes, 7, "rooms", window)
    sequential = [order.index(n) for n in range(total)]
    asked = data.draw(st.lists(st.integers(0, total - 1), max_size=30))
    wandering = Order(sizes, 7, "rooms", window)
    assert [wandering.index(n) for n in asked] == [sequential[n] for n in asked]


def test_seed_name_and_epoch_change_the_order() -> None:
    def first(seed: int, name: str, epoch: int = 0) -> list[int]:
        order = Order([50] * 4, seed, name)
        return [order.index(epoch * 200 + n) for n in range(200)]

    orders = [first(0, "a"), first(1, "a"), first(0, "b"), first(0, "a", 1)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert np.mean(np.equal(one, other)) < 0.05


def test_a_window_touches_few_shards() -> None:
    sizes, window = [100] * 40, 4
    order = Order(sizes, 0, "rooms", window)
    shards = np.array([order.index(n) for n in range(sum(sizes))]) // 100
    for begin in range(0, len(shards), 400):
        assert len(set(shards[begin : begin + 400])) == window
    # and within a window the shards are mixed, not one after another
    assert len(set(shards[:40])) == window


def test_far_into_training_costs_no_more() -> None:
    order = Order([10_000] * 3000, 0, "web", 16)  # 30 million samples; an epoch's permutation would be 240 MB
    assert len({order.index(10**12 + n) for n in range(1000)}) == 1000
    assert sum(samples.size for samples in order._samples.values()) <= 4 * 16 * 10_000


def test_pinned() -> None:
    # A change here changes what every resumed run reads next: it must be meant.
    assert [Order([3, 2, 4], 5, "rooms", 2).index(n) for n in range(12)] == [3, 8, 4, 5, 7, 6, 1, 2, 0, 0, 7, 1]


@pytest.mark.parametrize("sizes", [[], [0], [0, 0], [3, -1]])
def test_no_samples(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="source 'rooms' has no samples"):
        Order(sizes, 0, "rooms")


def test_no_window() -> None:
    with pytest.raises(ValueError, match="a shuffle window of 0 shards"):
        Order([1], 0, "rooms", 0)
