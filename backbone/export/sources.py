"""The project's own source files in one flat folder, as transformers loads code that comes with a model."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

_PROJECT = __name__.partition(".")[0]
_IMPORT = re.compile(rf"^(\s*)from (\.+[\w.]*|{_PROJECT}\.[\w.]+) import", re.MULTILINE)


def flatten(entries: Sequence[str]) -> dict[str, str]:
    """File name -> text of the modules that ``entries`` (full names) need of this project, and of themselves.

    Text is that of the source, but for the lines that import from the project, which name files beside them, a first
    line that says where it comes from, and at the end of an entry the files that it needs through others. Raises
    ValueError for two modules of one name, and an import from a package, whose names could be anywhere.
    """
    needs: dict[str, list[str]] = {}
    waiting = list(entries)
    while waiting:
        module = waiting.pop()
        if module not in needs:
            needs[module] = _needs(module)
            waiting += needs[module]
    files = {_stem(module): module for module in needs}
    doubled = sorted(module for module in needs if files[_stem(module)] != module)
    if doubled:
        raise ValueError(f"export: {doubled[0]} and {files[_stem(doubled[0])]} would be one file")
    return {
        f"{_stem(module)}.py": _text(module, _through(module, needs) if module in entries else []) for module in needs
    }


def _needs(module: str) -> list[str]:
    """The project's modules that a module imports from."""
    found = []
    for match in _IMPORT.finditer(_path(module).read_text(encoding="utf-8")):
        name = importlib.util.resolve_name(match[2], module.rpartition(".")[0])
        if _path(name).name == "__init__.py":
            raise ValueError(f"export: {module} imports from {name}, a package; exported code names modules")
        found.append(name)
    return found


def _through(entry: str, needs: dict[str, list[str]]) -> list[str]:
    """Modules that an entry needs and does not import itself."""
    found: set[str] = set()
    waiting = [entry]
    while waiting:
        new = [name for name in needs[waiting.pop()] if name not in found]
        found |= set(new)
        waiting += new
    return sorted(found - set(needs[entry]) - {entry})


def _text(module: str, through: Sequence[str]) -> str:
    source = _path(module).read_text(encoding="utf-8")
    flat = _IMPORT.sub(lambda match: f"{match[1]}from .{_stem(match[2])} import", source)
    first = f"# {module} of Interlace {version(_PROJECT)}. SPDX-License-Identifier: Apache-2.0\n"
    # transformers 4 copies a local entry's direct imports only, which it finds by their text.
    named = "".join(f"    from .{_stem(name)} import *\n" for name in through)
    last = f"\n\nif False:  # names every file of this entry for transformers, which copies them\n{named}"
    return first + flat + (last if named else "")


def _stem(module: str) -> str:
    return module.rpartition(".")[2]


def _path(module: str) -> Path:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ValueError(f"export: no module {module}")
    return Path(found.origin)
