"""What is done about numbers that are not finite: stop before the step, say where, leave a file to replay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


class NonFinite(RuntimeError):
    """A loss or the gradient norm of some rank was NaN or infinite. Raised on every rank; no weight has changed.

    ``losses`` are the terms summed over ranks, ``gradient_norm`` the global one.
    """

    def __init__(self, losses: Mapping[str, float], gradient_norm: float) -> None:
        self.losses = dict(losses)
        self.gradient_norm = gradient_norm
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        what = ", ".join(f"{name} = {losses[name]}" for name in bad) or f"gradient norm = {gradient_norm}"
        super().__init__(what)

    @property
    def tasks(self) -> list[str]:
        """The tasks whose losses are not finite; empty when only a gradient is not."""
        bad = [name.split("/")[0] for name, value in self.losses.items() if not math.isfinite(value)]
        return list(dict.fromkeys(bad))


def account(error: NonFinite, step: int, keys: Mapping[str, Sequence[str]], replay: str) -> str:
    """The one message of a stopped run: what, at which step, in which samples, and how to see it again.

    ``keys``: task -> the sample keys of its micro-batches in this step, over all ranks.
    """
    tasks = error.tasks or list(keys)
    samples = "; ".join(f"{task}: {', '.join(keys[task])}" for task in tasks)
    return (
        f"step {step} stopped before the update: {error} (weights unchanged on every rank). Samples: {samples}. "
        f"To see it again in one process: interlace pretrain --replay {replay}"
    )
