"""What weights say of the shape they were made with, to hold a config against."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .config import BackboneConfig

_BLOCK = re.compile(r"blocks\.(\d+)\.")


def fields_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Fields of :class:`BackboneConfig` that the names and shapes of a backbone's weights tell, where they tell them.

    ``heads`` and how positions are computed leave no trace in any weight.
    """
    first = "blocks.0."
    found: dict[str, Any] = {"camera_token": "embedding.camera_token" in shapes}
    blocks = [int(match[1]) for match in map(_BLOCK.match, shapes) if match]
    if blocks:
        found["depth"] = max(blocks) + 1
        found["gated_mlp"] = first + "mlp.gate.weight" in shapes
        found["query_value_bias"] = first + "attention.query.bias" in shapes
    sizes = (
        ("hidden_size", "norm.weight", 1, 0),
        ("mlp_size", first + "mlp.up.weight", 2, 0),
        ("patch_size", "embedding.patch.weight", 4, 3),
        ("registers", "embedding.register_tokens", 3, 1),
    )
    for field, name, rank, axis in sizes:
        if len(shapes.get(name, ())) == rank:
            found[field] = shapes[name][axis]
    slots = shapes.get("embedding.register_tokens", ())
    if len(slots) == 3:
        found["attention"] = "causal" if slots[0] == 2 else "bidirectional"
    return found


def raise_on_disagreement(config: BackboneConfig, state: Mapping[str, Tensor], where: str, *, made: bool) -> None:
    """Raise ValueError, with both values, for every field in which the config and the weights differ.

    ``made``: whether the camera token and the registers' slots are made from an image model's weights, which have
    neither.
    """
    found = fields_of({name: tuple(tensor.shape) for name, tensor in state.items()})
    for field in ("camera_token", "attention") if made else ():
        found.pop(field, None)
    differ = [
        f"{field} is {getattr(config, field)!r} in the config and {value!r} in the weights"
        for field, value in found.items()
        if getattr(config, field) != value
    ]
    if differ:
        raise ValueError(f"{where}: the config disagrees with its weights: {'; '.join(differ)}")
