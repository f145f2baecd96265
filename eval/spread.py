"""A frozen backbone's work over several processes: each sees a part of the clips, or of the sequences, and all get all.

Heads are trained alike by every process. What protocols draw depends on seeds alone, so that every process asks for the
same clips in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather, gather_object
from torch import Tensor

from .frozen import NotFrozen
from .subjects import Subject, Tokens

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


def processes(device: str) -> PartialState | None:
    """The processes that ``accelerate launch`` or torchrun started, joined; None alone.

    ``device``: "cpu" joins them by gloo, "cuda" gives each its own GPU. Raises ValueError for one named GPU, which
    several processes would share.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) < 2:
        return None
    if device not in ("cpu", "cuda"):
        raise ValueError(
            f"--device {device}: with several processes it is cpu or cuda, each then takes a GPU of its own"
        )
    return PartialState(cpu=device == "cpu")


class Shared:
    """Items that are measured by one process of ``state`` each, in turns; all processes get what was found of all."""

    def __init__(self, state: PartialState) -> None:
        self.state = state

    def __call__(self, measure: Callable[[_Item], _Found], items: Sequence[_Item], /) -> list[_Found]:
        places = range(self.state.process_index, len(items), self.state.num_processes)
        found: list[tuple[int, _Found]] = gather_object([(place, measure(items[place])) for place in places])
        return [each for _, each in sorted(found, key=lambda pair: pair[0])]


class Spread:
    """A subject whose clips are divided among the processes of ``state``. Streams are not: :class:`Shared` is for them.

    If it changes in one process, no process gets a result.
    """

    def __init__(self, subject: Subject, state: PartialState) -> None:
        self.subject, self.state = subject, state
        self.name, self.digest, self.patch_size = subject.name, subject.digest, subject.patch_size

    def clips(self, frames: Tensor) -> Tokens:
        """As the subject's, of all clips [B, ...], in every process; ``features`` is None."""
        count, world = len(frames), self.state.num_processes
        each = -(-count // world)
        first = self.state.process_index * each
        # the last clip is repeated where there are not enough: parts that are gathered must be equally long
        mine = torch.arange(first, first + each).clamp_max(count - 1)
        tokens = self.subject.clips(frames[mine])
        patches, cls, camera = (self._all(part)[:count] for part in (tokens.patches, tokens.cls, tokens.camera))
        return Tokens(patches, cls, camera)

    def _all(self, part: Tensor) -> Tensor:
        found = gather(part.to(self.state.device).contiguous())
        assert isinstance(found, Tensor)
        return found.cpu()

    def stream(self, frames: Tensor, layers: Sequence[int] = ()) -> Iterator[Tokens]:
        return self.subject.stream(frames, layers)

    @contextmanager
    def held(self) -> Iterator[object]:
        with ExitStack() as stack:
            yield stack.enter_context(self.subject.held())
            changed: list[str] = []
            try:
                stack.close()
            except NotFrozen as error:
                changed = [f"{error} (process {self.state.process_index})"]
        told: list[str] = gather_object(changed)
        if told:
            raise NotFrozen(told[0])
