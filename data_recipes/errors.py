"""What is wrong with a recipe: one readable line each, all of them at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RecipeError:
    """One thing wrong in a recipe. As text: ``FILE:LINE: key.path: found X; allowed Y; did you mean Z?``.

    ``file`` is "command line" for overrides, and ``line`` then their number, from 1. What is wrong with X between
    values that are each allowed is told by ``problem``, in place of Y. What is empty is left out.
    """

    file: str
    line: int
    key: str
    found: str
    allowed: str = ""
    nearest: str = ""
    problem: str = ""

    def __str__(self) -> str:
        parts = [f"found {self.found}"]
        if self.problem:
            parts.append(self.problem)
        if self.allowed:
            parts.append(f"allowed {self.allowed}")
        if self.nearest:
            parts.append(f"did you mean {self.nearest}?")
        return f"{self.file}:{self.line}: {self.key}: {'; '.join(parts)}"


class RecipeErrors(ValueError):
    """A recipe that cannot be used. ``errors`` holds everything that is wrong with it, in reading order."""

    def __init__(self, errors: Sequence[RecipeError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that ``name`` was most likely meant to be; empty when none is near."""
    by_lower = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else ""
