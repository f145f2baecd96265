"""Which source a task's n-th sample comes from: a pure function of n, with shares that are exact block by block."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np

from .randomness import generator

#: Shares are rounded to multiples of 2 ** -_BITS of a block, so that all counting is in integers.
_BITS = 32


class Mixture:
    """``source_and_number(n)``: the source of the n-th draw, and how many draws of that source came before it.

    Draws come in blocks of ``block``, shuffled within. A source of share s gets floor or ceil of ``s * block`` draws
    of a block, by systematic sampling: the sources' shares are laid end to end on a line of length ``block``, and
    block b takes the source at each point k + u_b (k = 0, 1, ...). u_b is van der Corput's sequence, which fills
    [0, 1) evenly, so that after any 2 ** m blocks a source's count is within 1 of its share, however small that is.
    Raises ValueError for weights that are negative, not finite, or sum to nothing, and for shares below 2 ** -32 of a
    block. A weight of 0 is never drawn.
    """

    def __init__(self, weights: Mapping[str, float], seed: int, task: str, block: int = 64) -> None:
        values = np.array(list(weights.values()), np.float64)
        if not len(values) or not np.isfinite(values).all() or (values < 0).any() or not values.any():
            raise ValueError(f"task {task!r}: source weights {dict(weights)} must be 0 or more, and not all 0")
        self.sources = tuple(weights)
        self._seed, self._task, self._block = seed, task, block
        # Where each source's part of the line ends, in units of 2 ** -_BITS; the last is the whole block, exactly.
        whole = block << _BITS
        ends = [round(math.fsum(values[: at + 1]) / math.fsum(values) * whole) for at in range(len(values) - 1)]
        self._cuts = [0, *ends, whole]
        for at, (name, weight) in enumerate(weights.items()):
            if weight > 0 and self._cuts[at] == self._cuts[at + 1]:
                raise ValueError(f"task {task!r}: weight {weight} of source {name!r} is too small beside the others")
        self._blocks: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def source_and_number(self, n: int) -> tuple[str, int]:
        """The n-th draw: the source's name, and which draw of this source it is, from 0."""
        block, place = divmod(n, self._block)
        draws, before = self._drawn(block)
        source = int(draws[place])
        return self.sources[source], int(before[source]) + int(np.count_nonzero(draws[:place] == source))

    def counts(self, n: int) -> dict[str, int]:
        """How many of the first n draws were each source's: the cursor of every source."""
        block, place = divmod(n, self._block)
        draws, before = self._drawn(block)
        partial = np.bincount(draws[:place], minlength=len(self.sources))
        return {name: int(count) for name, count in zip(self.sources, before + partial, strict=True)}

    def _drawn(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The sources of a block's draws in order, [block] int, and every source's count before the block."""
        if block not in self._blocks:
            before = np.diff([self._points_before(cut, block) for cut in self._cuts])
            after = np.diff([self._points_before(cut, block + 1) for cut in self._cuts])
            draws = np.repeat(np.arange(len(self.sources)), after - before)
            self._blocks[block] = generator(self._seed, self._task, "mixture", block).permutation(draws), before
            if len(self._blocks) > 4:
                self._blocks.popitem(last=False)
        return self._blocks[block]

    @staticmethod
    def _points_before(cut: int, blocks: int) -> int:
        """Sum over b < ``blocks`` of floor(cut + u_b): how many draws of those blocks lie before this cut."""
        whole, part = cut >> _BITS, cut & ((1 << _BITS) - 1)
        return blocks * whole + _count_from((1 << _BITS) - part, blocks)


def _count_from(bound: int, blocks: int) -> int:
    """How many of u_0 .. u_(blocks - 1), in units of 2 ** -_BITS, are >= ``bound`` (0 < bound <= 2 ** _BITS).

    The range is taken apart into one aligned run of 2 ** i numbers for every bit i of ``blocks``: the run's u are
    evenly spaced, 2 ** (_BITS - i) apart, and begin at the u of its first number.
    """
    if blocks >> _BITS:
        raise ValueError(f"more than 2 ** {_BITS} blocks of draws")
    found, first = 0, 0
    for bit in range(blocks.bit_length() - 1, -1, -1):
        if blocks >> bit & 1:
            spacing = 1 << (_BITS - bit)
            below = -((_reversed(first) - bound) // spacing)  # ceil((bound - u_first) / spacing)
            found += (1 << bit) - min(max(below, 0), 1 << bit)
            first += 1 << bit
    return found


def _reversed(number: int) -> int:
    """u_number: the number's bits mirrored at the point."""
    return int(f"{number:0{_BITS}b}"[::-1], 2)
