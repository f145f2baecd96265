"""Frozen means frozen: what is measured is hashed before and after, and a change refuses the result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from torch import nn

from interlace.backbone.digest import NotFrozen, combined, digest, tensor_digests

__all__ = ["DataHash", "NotFrozen", "digest", "frozen"]


@contextmanager
def frozen(module: nn.Module, name: str, expected: str | None = None) -> Iterator[str]:
    """Evaluation mode and no gradients inside the ``with`` block; gives the hash of parameters and buffers.

    ``expected``: the hash at loading. Raises :class:`NotFrozen`, naming the tensors, when anything was altered by the
    end of the block, or between loading and its beginning; then nothing measured inside may be reported.
    """
    modes = [(each, each.training) for each in module.modules()]
    wanted = [(each, each.requires_grad) for each in module.parameters()]
    before = tensor_digests(module)
    whole = combined(before)
    if expected is not None and whole != expected:
        raise NotFrozen(f"{name}: its weights are not those that were loaded; load it again and change nothing")
    module.eval().requires_grad_(False)
    try:
        yield whole
    finally:
        for each, training in modes:
            each.training = training
        for parameter, gradient in wanted:
            parameter.requires_grad_(gradient)
    after = tensor_digests(module)
    changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    if changed:
        raise NotFrozen(f"{name}: {', '.join(changed)} changed while it was measured; there is no result")


class DataHash:
    """SHA-256 of the arrays that were measured on, in any order of their names."""

    def __init__(self) -> None:
        self._parts: dict[str, str] = {}

    def add(self, name: str, *arrays: np.ndarray | None) -> None:
        """The arrays of one sample. Raises ValueError for a name that was added before."""
        if name in self._parts:
            raise ValueError(f"data: {name!r} is there twice; names of samples must differ")
        found = hashlib.sha256()
        for array in arrays:
            found.update(b"none" if array is None else f"{array.dtype} {array.shape} ".encode())
            found.update(b"" if array is None else np.ascontiguousarray(array).data)
        self._parts[name] = found.hexdigest()

    def join(self, other: DataHash) -> None:
        """What another one was given, too. Raises ValueError for a name that is in both."""
        both = sorted(self._parts.keys() & other._parts.keys())
        if both:
            raise ValueError(f"data: {both[0]!r} is there twice; names of samples must differ")
        self._parts |= other._parts

    def hexdigest(self) -> str:
        """Of all that was added so far."""
        return combined(self._parts)
