"""Footage is shown in whole patches, and has a rate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace.backbone.preprocess import whole_patches
from interlace.launchers.footage import frame_rate


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 32), st.integers(1, 20))
def test_sizes(height: int, width: int, patch: int, patches: int) -> None:
    """The short side is as asked, both sides are whole patches, and the shape is kept to half a patch."""
    rows, columns = whole_patches((height, width), patch * patches, patch)
    assert min(rows, columns) == patch * patches
    assert rows % patch == columns % patch == 0
    exact = patch * patches * max(height, width) / min(height, width)
    assert abs(max(rows, columns) - exact) <= patch / 2 + 1e-6


def test_a_frame_rate_is_the_median_and_never_zero() -> None:
    assert frame_rate(np.array([0.0, 0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]), "clip") == pytest.approx(10)
    assert frame_rate(np.zeros(1), "clip") == 1
    with pytest.raises(ValueError, match=r"^clip: 0 frames a second"):
        frame_rate(np.zeros(5), "clip")
