"""The order in which one source's samples are consumed: a pure function of how many were consumed before."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from .randomness import generator

#: Permutations kept: that of the shards for an epoch or two, those of the windows being read.
_KEPT = 4


class Order:
    """``index(n)``: the sample that is consumed n-th, for any n >= 0 and at any time.

    Every epoch (``len`` consecutive n, from a multiple of it) is a permutation of the source. The shards are permuted;
    then samples are shuffled among ``window`` consecutive shards, so that a reader touches few files at a time. It
    depends on ``(shard_sizes, seed, name, window)`` alone: not on ranks, workers or where a run was resumed.
    """

    def __init__(self, shard_sizes: Sequence[int] | np.ndarray, seed: int, name: str, window: int = 16) -> None:
        sizes = np.asarray(shard_sizes, np.int64)
        if not len(sizes) or sizes.min() < 0 or not sizes.sum():
            raise ValueError(f"source {name!r} has no samples")
        if window < 1:
            raise ValueError(f"source {name!r}: a shuffle window of {window} shards; it must be at least 1")
        self._sizes, self._seed, self._name, self._window = sizes, seed, name, window
        self._starts = np.cumsum(sizes) - sizes
        self._length = int(sizes.sum())
        self._shards: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._samples: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        """Samples an epoch."""
        return self._length

    @property
    def fingerprint(self) -> str:
        """A hash of the shards that it orders: another one is another order, of as many samples as it may be."""
        return hashlib.blake2b(self._sizes.astype("<i8").tobytes(), digest_size=8).hexdigest()

    def index(self, n: int) -> int:
        """The index within the source of the n-th consumed sample."""
        epoch, place = divmod(n, self._length)
        shards, ends = self._epoch(epoch)
        window = int(np.searchsorted(ends, place, side="right"))
        begin = int(ends[window - 1]) if window else 0
        return int(self._in_window(epoch, window, shards)[place - begin])

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's shards in their order, and the place at which each window ends."""
        if epoch not in self._shards:
            shards = generator(self._seed, self._name, "shards", epoch).permutation(len(self._sizes))
            ends = np.cumsum(self._sizes[shards])
            last = np.arange(self._window, len(shards) + self._window, self._window) - 1
            _keep(self._shards, epoch, (shards, ends[np.minimum(last, len(shards) - 1)]))
        return self._shards[epoch]

    def _in_window(self, epoch: int, window: int, shards: np.ndarray) -> np.ndarray:
        if (epoch, window) not in self._samples:
            among = shards[window * self._window : (window + 1) * self._window]
            samples = np.concatenate([self._starts[shard] + np.arange(self._sizes[shard]) for shard in among])
            rng = generator(self._seed, self._name, "window", epoch, window)
            _keep(self._samples, (epoch, window), rng.permutation(samples))
        return self._samples[epoch, window]


def _keep(cache: OrderedDict, key: object, value: object) -> None:
    cache[key] = value
    if len(cache) > _KEPT:
        cache.popitem(last=False)
