"""Hashes of weights: whether a module is, to the bit, the one that was loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class NotFrozen(ValueError):
    """Something that was to stay as it was has changed."""


def digest(module: nn.Module) -> str:
    """SHA-256 over every parameter and buffer, non-persistent ones too: name, dtype, shape, bytes."""
    return combined(tensor_digests(module))


def tensor_digests(module: nn.Module) -> dict[str, str]:
    """SHA-256 of each parameter and buffer by its name."""
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: tensor_digest(tensor) for name, tensor in named}


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of dtype, shape and bytes."""
    found = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode())
    found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def combined(digests: Mapping[str, str]) -> str:
    """One SHA-256 over named ones, in any order."""
    return hashlib.sha256("\n".join(f"{name} {digests[name]}" for name in sorted(digests)).encode()).hexdigest()
