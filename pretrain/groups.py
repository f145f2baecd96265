"""Which parameters learn at which rate."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


def parameter_groups(
    parameters: Mapping[str, nn.Parameter], rates: Mapping[str, float]
) -> list[tuple[float, list[nn.Parameter]]]:
    """Trained parameters with the multiple of the learning rate that they are stepped at: first those at 1.

    ``rates``: the multiples of parts. A part is a parameter, or a module with all its parameters, by its dotted name.
    No group is empty. ValueError for a part in which nothing is trained, or only what another part has.
    """
    rest = {name: p for name, p in parameters.items() if p.requires_grad}
    groups = []
    for part, rate in rates.items():
        own = [name for name in rest if f"{name}.".startswith(f"{part}.")]
        if not own:
            raise ValueError(f"{part} cannot have a learning rate of its own: nothing in it is trained")
        groups.append((rate, [rest.pop(name) for name in own]))
    return [(1.0, list(rest.values())), *groups] if rest else groups
