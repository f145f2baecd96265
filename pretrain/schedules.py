"""The learning rate as a pure function of the step: nothing to save, nothing to replay."""

from __future__ import annotations

import math


def learning_rate(step: int, *, steps: int, peak: float, warmup: int, final: float) -> float:
    """Linear warm-up to ``peak`` over ``warmup`` steps, then a half cosine to ``final`` at the last step.

    The first step already moves: step s of the warm-up runs at peak * (s + 1) / warmup.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
