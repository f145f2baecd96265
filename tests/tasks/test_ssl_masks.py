"""Masks: shares against V-JEPA 2's own generator, shapes, and what must never happen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from interlace.tasks.ssl import SslOptions
from interlace.tasks.ssl.batch import make_mask
from interlace.tasks.ssl.masks import multi_block_mask, random_mask
from interlace.tasks.ssl.options import Blocks

GOLDEN = Path(__file__).parents[1] / "golden" / "vjepa_mask_fraction.npz"


@pytest.mark.parametrize(("kind", "name"), [(0, "short"), (1, "long")])
def test_masked_share_is_v_jepas(kind: int, name: str) -> None:
    options = SslOptions()
    blocks, rng = options.video_masks[kind], np.random.default_rng(0)
    share = np.array(
        [
            multi_block_mask(14, 14, blocks.count, blocks.scale, options.video_mask_aspect, rng).mean()
            for _ in range(3000)
        ]
    )
    mean, deviation, low, high = np.load(GOLDEN)[name]
    # 1,500 draws there, 3,000 here: the standard error of the difference of the means
    assert abs(share.mean() - mean) < 4 * deviation * np.sqrt(1 / 1500 + 1 / 3000)
    assert abs(share.std() / deviation - 1) < 0.1
    assert np.abs(np.quantile(share, [0.05, 0.95]) - [low, high]).max() < 0.015


def test_one_block_is_one_rectangle_of_the_wanted_size() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        mask = multi_block_mask(16, 20, 1, 0.25, (0.5, 2.0), rng)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = len(rows), len(columns)
        assert mask.sum() == height * width
        assert (rows[-1] - rows[0], columns[-1] - columns[0]) == (height - 1, width - 1)
        assert abs(height * width - 80) <= (height + width) / 2 + 1  # both sides rounded
        assert 0.4 < height / width < 2.4


@pytest.mark.parametrize("side", [2, 3, 4])
def test_on_small_grids_something_is_masked_and_something_visible(side: int) -> None:
    rng = np.random.default_rng(2)
    for blocks in SslOptions().video_masks:
        for _ in range(300):
            mask = multi_block_mask(side, side, blocks.count, blocks.scale, (0.75, 1.5), rng)
            assert mask.any()
            assert not mask.all()


def test_blocks_that_always_cover_everything_are_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match=r"2 mask blocks of scale 0\.99 leave no visible patch on a 2 x 2 grid"):
        multi_block_mask(2, 2, 2, 0.99, (1.0, 1.0), np.random.default_rng(0))


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.35, 0.5, 1.0])
def test_random_mask_has_exactly_its_share(ratio: float) -> None:
    mask = random_mask(6, 10, ratio, np.random.default_rng(3))
    assert mask.shape == (6, 10)
    assert mask.sum() == max(1, round(60 * ratio))


def test_random_mask_is_uniform() -> None:
    rng = np.random.default_rng(4)
    often = np.mean([random_mask(4, 4, 0.25, rng) for _ in range(4000)], axis=0)
    assert np.abs(often - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 4000)


def test_a_clip_s_crops_have_one_kind_of_mask_each_and_an_image_s_a_random_share() -> None:
    """Many small blocks leave more to see than few large ones; of images half have a mask, of 10% to 50%."""
    options = SslOptions()
    few = SslOptions(video_masks=(Blocks(count=1, scale=0.04), Blocks(count=1, scale=0.64)), video_mask_aspect=(1, 1))
    rng = np.random.default_rng(5)
    assert [int(make_mask("clip", crop, (10, 10), few, rng).sum()) for crop in (0, 1)] == [4, 64]
    shares = np.array([make_mask("image", n % 2, (10, 10), options, rng).mean() for n in range(2000)])
    masked = shares[shares > 0]
    assert abs(len(masked) / 2000 - 0.5) < 4 * np.sqrt(0.25 / 2000)
    assert (masked.min(), masked.max()) == (0.1, 0.5)
    # uniform: its mean and its deviation
    assert abs(masked.mean() - 0.3) < 4 * 0.4 / np.sqrt(12 * len(masked))
    assert masked.std() == pytest.approx(0.4 / np.sqrt(12), rel=0.05)
