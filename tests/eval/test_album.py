"""Which samples a picture shows, and what of them."""

from __future__ import annotations

import numpy as np
import pytest

from interlace.eval.album import CANDIDATES, Album, Shown, candidates, seen_from_first, small, spread


def album(better: str, scores: list[float]) -> Album:
    nothing = np.zeros(0)
    shown = [Shown(f"{score}", score, nothing, nothing, nothing) for score in scores]
    return Album("depth", "depth", "abs_rel", better, shown=shown)  # type: ignore[arg-type]


def test_the_best_the_middle_and_the_worst_are_chosen() -> None:
    scores = [0.3, 0.1, 0.9, 0.5, 0.2]
    assert album("lower", scores).chosen() == [("best", 1), ("middle", 0), ("worst", 2)]
    assert album("higher", scores).chosen() == [("best", 2), ("middle", 0), ("worst", 1)]
    assert album("higher", [0.1, 0.2]).chosen() == [("best", 1), ("worst", 0)]
    assert album("lower", [0.1]).chosen() == [("only", 0)]


@pytest.mark.parametrize("shape", [(3, 300, 600, 3), (300, 600), (2, 5, 300, 600), (1, 40, 30, 3), (40, 30)])
def test_what_is_kept_is_small(shape: tuple[int, ...]) -> None:
    kept = small(np.zeros(shape))
    sides = kept.shape[-3:-1] if shape[-1] == 3 else kept.shape[-2:]
    assert max(sides) <= 256
    assert sides == ((100, 200) if 600 in shape else (40, 30))
    assert kept.ndim == len(shape)


def test_frames_are_spread_from_the_first_to_the_last() -> None:
    assert spread(16).tolist() == [0, 4, 8, 11, 15]
    assert spread(3).tolist() == [0, 1, 2]


def test_candidates_come_from_all_over_a_large_set() -> None:
    chosen = sorted(candidates(50_000))
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 49_999, CANDIDATES)
    assert np.ptp(np.diff(chosen)) <= 1
    assert candidates(3) == {0, 1, 2}


def test_a_path_begins_where_the_first_camera_is() -> None:
    turned = np.eye(4)
    turned[:3, :3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]  # it looks along the world's x
    turned[:3, 3] = (5, 0, 0)
    ahead = turned.copy()
    ahead[:3, 3] = (7, 0, 0)
    np.testing.assert_allclose(seen_from_first(np.stack((turned, ahead)), turned), [[0, 0, 0], [0, 0, 2]])
