from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from interlace.tasks.frames import choose_frames, random_crop, resize


def test_frames_are_spread_over_the_clip() -> None:
    assert choose_frames(16, 4).tolist() == [2, 6, 10, 14]
    assert choose_frames(1, 3).tolist() == [0, 0, 0]
    assert choose_frames(3, 4).tolist() == [0, 1, 1, 2]
    for seed in range(50):
        chosen = choose_frames(16, 4, np.random.default_rng(seed))
        assert (chosen // 4).tolist() == [0, 1, 2, 3]


def test_every_frame_can_be_chosen() -> None:
    rng = np.random.default_rng(0)
    seen = np.concatenate([choose_frames(7, 2, rng) for _ in range(300)])
    assert set(seen.tolist()) == set(range(7))


def test_crops_lie_inside_and_have_the_asked_share() -> None:
    rng, shares = np.random.default_rng(0), []
    for _ in range(200):
        left, top, right, bottom = random_crop(96, 128, rng, area=(0.3, 0.6), aspect=(0.8, 1.25))
        assert 0 <= left < right <= 128
        assert 0 <= top < bottom <= 96
        assert 0.75 < (right - left) / (bottom - top) < 1.35
        shares.append((right - left) * (bottom - top) / (96 * 128))
    assert 0.28 < min(shares) < 0.35
    assert 0.55 < max(shares) < 0.62
    assert random_crop(4, 4, rng, area=(1.0, 1.0), aspect=(1.0, 1.0)) == (0, 0, 4, 4)


@pytest.mark.parametrize("flip", [False, True])
def test_resize_is_pillows(flip: bool) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    got = resize(frames, (16, 24), box=(5, 6, 50, 38), flip=flip)
    for one, frame in zip(got, frames, strict=True):
        cut = np.ascontiguousarray(frame[6:38, 5:50][:, :: -1 if flip else 1])
        want = np.asarray(Image.fromarray(cut).resize((24, 16), Image.Resampling.BILINEAR))
        assert np.abs(one.transpose(1, 2, 0).astype(int) - want).max() <= 1
    assert got.shape == (2, 3, 16, 24)
    assert got.dtype == np.uint8
