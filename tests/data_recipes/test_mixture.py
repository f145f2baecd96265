"""A task's mixture: exact shares block by block, any draw at any time, cursors in closed form."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace.data_recipes.mixture import _BITS, Mixture, _count_from, _reversed

WEIGHTS = st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), min_size=1, max_size=6).filter(any)


def named(weights: list[float]) -> dict[str, float]:
    return {f"s{at}": weight for at, weight in enumerate(weights)}


@settings(max_examples=40, deadline=None)
@given(weights=WEIGHTS, seed=st.integers(0, 9))
def test_numbers_count_each_sources_draws(weights: list[float], seed: int) -> None:
    mixture = Mixture(named(weights), seed, "ssl")
    counted = dict.fromkeys(mixture.sources, 0)
    for n in range(300):
        assert mixture.counts(n) == counted
        source, number = mixture.source_and_number(n)
        assert number == counted[source]
        counted[source] += 1


@settings(max_examples=40, deadline=None)
@given(weights=WEIGHTS, block=st.integers(0, 2000))
def test_shares_of_every_block_are_exact(weights: list[float], block: int) -> None:
    mixture = Mixture(named(weights), 0, "ssl", block=64)
    before, after = mixture.counts(64 * block), mixture.counts(64 * block + 64)
    assert sum(after.values()) == 64 * block + 64
    for name, weight in named(weights).items():
        share = 64 * weight / sum(weights)
        assert share - 1 - 1e-6 < after[name] - before[name] < share + 1 + 1e-6
        assert weight > 0 or after[name] == 0


@settings(max_examples=60, deadline=None)
@given(weights=WEIGHTS, power=st.integers(0, 16))
def test_shares_of_a_power_of_two_of_blocks_are_within_one(weights: list[float], power: int) -> None:
    draws = 64 << power
    for name, count in Mixture(named(weights), 0, "ssl", block=64).counts(draws).items():
        assert abs(count - draws * named(weights)[name] / sum(weights)) <= 1.001


def test_extreme_weights() -> None:
    mixture = Mixture({"web": 1.0, "never": 0.0, "rare": 1e-6, "last": 0.0}, 0, "ssl")
    counts = mixture.counts(2**30)
    assert abs(counts["rare"] - 2**30 * 1e-6) < 2
    assert counts["never"] == counts["last"] == 0
    assert Mixture({"only": 1e-300}, 0, "ssl").source_and_number(12345) == ("only", 12345)


def test_a_block_is_shuffled_anew() -> None:
    mixture = Mixture({"a": 1, "b": 1}, 0, "ssl")
    blocks = [[mixture.source_and_number(64 * block + n)[0] for n in range(64)] for block in range(3)]
    assert blocks[0] != blocks[1] != blocks[2]
    other = Mixture({"a": 1, "b": 1}, 1, "ssl")
    assert [other.source_and_number(n)[0] for n in range(64)] != blocks[0]
    # without the shuffle a rank that takes every batch's first half would see one source
    assert {"a", "b"} == set(blocks[0][:8]) == set(blocks[0][-8:])


def test_any_access_equals_counting_from_zero() -> None:
    weights = {"a": 3.0, "b": 2.0, "c": 0.4}
    mixture = Mixture(weights, 3, "ssl")
    sequential = [mixture.source_and_number(n) for n in range(2000)]
    wandering = Mixture(weights, 3, "ssl")
    for n in np.random.default_rng(0).permutation(2000):
        assert wandering.source_and_number(int(n)) == sequential[n]


@settings(max_examples=200, deadline=None)
@given(blocks=st.integers(0, 400), bound=st.integers(1, 1 << _BITS), on_a_point=st.booleans())
def test_counting_in_closed_form(blocks: int, bound: int, on_a_point: bool) -> None:
    bound = max(_reversed(bound % 512), 1) if on_a_point else bound
    assert _count_from(bound, blocks) == sum(_reversed(number) >= bound for number in range(blocks))


def test_van_der_corput() -> None:
    points = [Fraction(_reversed(number), 1 << _BITS) for number in range(8)]
    assert points == [Fraction(eighths, 8) for eighths in (0, 4, 2, 6, 1, 5, 3, 7)]


def test_pinned() -> None:
    # A change here changes what every resumed run reads next: it must be meant.
    mixture = Mixture({"a": 0.5, "b": 0.3, "c": 0.2}, 5, "ssl", block=8)
    assert "".join(mixture.source_and_number(n)[0] for n in range(24)) == "babaaaccbaabacacbcbacaaa"


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": float("nan")}, {"a": float("inf")}])
def test_impossible_weights(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="task 'ssl': source weights"):
        Mixture(weights, 0, "ssl")


def test_weight_too_small_to_count() -> None:
    with pytest.raises(ValueError, match="weight 1e-20 of source 'b' is too small"):
        Mixture({"a": 1, "b": 1e-20}, 0, "ssl")
