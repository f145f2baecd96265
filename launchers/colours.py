"""Features and depth as pictures whose colours mean the same from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from .watching import Seen, as_map

#: Frames that decide the colours of all that follow.
BASIS_FRAMES = 8
#: Quantiles that become the ends of the colour scale.
ENDS = (0.02, 0.98)


class Colours:
    """The three directions in which the patches of the first frames differ most, as red, green and blue; and a scale
    of depth. Both stay fixed, so that a thing keeps its colour and nothing flickers."""

    def __init__(self, first: Sequence[Seen]) -> None:
        """Learn from these frames, at least one."""
        patches = np.concatenate(
            [as_map(seen.features.patches).reshape(-1, as_map(seen.features.patches).shape[-1]) for seen in first]
        )
        self._mean = patches.mean(0)
        _, _, directions = np.linalg.svd(patches - self._mean, full_matrices=False)
        directions = directions[:3]
        # A direction and its opposite are as good: the larger entry points up, so that runs agree.
        strongest = np.abs(directions).argmax(1)
        self._directions = directions * np.sign(directions[range(len(directions)), strongest])[:, None]
        self._low, self._high = np.quantile((patches - self._mean) @ self._directions.T, ENDS, axis=0)
        self._depth: tuple[float, float] | None = None
        if first[0].geometry is not None:
            depths = np.concatenate([depth_of(seen).ravel() for seen in first])
            low, high = (float(end) for end in np.quantile(depths, ENDS))
            self._depth = (low, high)

    def panels(self, seen: Seen) -> list[np.ndarray]:
        """Pictures [H, W, 3] uint8 of the frame's size: the frame, its features, and its depth where heads see it."""
        height, width = seen.image.shape[:2]
        small = self.features(as_map(seen.features.patches))
        panels = [seen.image, np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST))]
        return [*panels, self.depth(depth_of(seen))] if self._depth is not None else panels

    def features(self, patches: np.ndarray) -> np.ndarray:
        """[h, w, D] -> [h, w, 3] uint8."""
        colours = (patches - self._mean) @ self._directions.T
        share = (colours - self._low) / np.maximum(self._high - self._low, 1e-12)
        found = np.zeros((*patches.shape[:2], 3), np.uint8)
        found[..., : share.shape[-1]] = np.clip(share * 255, 0, 255)
        return found

    def depth(self, depth: np.ndarray) -> np.ndarray:
        """[H, W] -> [H, W, 3] uint8, near is blue and far is red."""
        from matplotlib import colormaps

        assert self._depth is not None
        low, high = self._depth
        share = np.clip((depth - low) / max(high - low, 1e-12), 0, 1)
        painted: np.ndarray = colormaps["turbo"](share)[..., :3]
        return (painted * 255).astype(np.uint8)


def depth_of(seen: Seen) -> np.ndarray:
    """[H, W] float32 in the clip's units."""
    assert seen.geometry is not None
    return seen.geometry.depth[0, 0].float().cpu().numpy()
