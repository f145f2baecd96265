"""``key.path=value`` from the command line, put over a recipe's tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .errors import RecipeError, nearest
from .validate import one_of, show
from .yaml_lines import Node, compose

COMMAND_LINE = "command line"


def override(root: Node, text: str, number: int, errors: list[RecipeError]) -> None:
    """Put the ``number``-th override over ``root``; what is wrong with it goes to ``errors``.

    The value is YAML. An entry of a list is called by its ``name``; null for one takes it out of the list.
    """
    key, _, value = text.partition("=")
    parts = key.split(".")
    if not value.strip() or not all(parts):
        errors.append(RecipeError(COMMAND_LINE, number, key or "override", repr(text), "key.path=value"))
        return
    wrong: list[RecipeError] = []
    node = compose(value, COMMAND_LINE, wrong) or Node(None, COMMAND_LINE, number, bad=True)
    for error in wrong:
        errors.append(replace(error, line=number, key=key if error.key == "recipe" else f"{key}.{error.key}"))
    _at_line(node, number)
    holder = _descend(root, parts, number, errors)
    if holder is None:
        return
    if isinstance(holder.value, list):
        index = _named(holder.value)[parts[-1]]
        holder.value[index : index + 1] = [] if node.value is None and not node.bad else [node]
    else:
        holder.entries[parts[-1]] = node


def _descend(root: Node, parts: Sequence[str], number: int, errors: list[RecipeError]) -> Node | None:
    """What holds the last of ``parts``; mappings on the way there are made. None if there is no such place."""
    holder = root
    for done, part in enumerate(parts, 1):
        if holder.bad:
            return None
        here = ".".join(parts[:done])
        if isinstance(holder.value, list):
            names = _named(holder.value)
            if part not in names:
                found, near = "no entry of that name", nearest(part, names)
                errors.append(RecipeError(COMMAND_LINE, number, here, found, one_of(names), near))
                return None
        elif not isinstance(holder.value, dict):
            found, allowed = f"a key inside {show(holder.value)}", f"{'.'.join(parts[: done - 1])}=value"
            errors.append(RecipeError(COMMAND_LINE, number, here, found, allowed))
            return None
        if done == len(parts):
            break
        holder = _entry(holder, part, number)
    return holder


def _entry(holder: Node, part: str, number: int) -> Node:
    if holder.items:
        return holder.items[_named(holder.items)[part]]
    entry = holder.entries.get(part)
    if entry is None or (entry.value is None and not entry.bad):
        entry = holder.entries[part] = Node({}, COMMAND_LINE, number)
    return entry


def _named(items: Sequence[Node]) -> dict[str, int]:
    names = ((item.child("name"), index) for index, item in enumerate(items))
    return {name.value: index for name, index in names if name and isinstance(name.value, str)}


def _at_line(node: Node, line: int) -> None:
    node.line = line
    for entry in (*node.entries.values(), *node.items):
        _at_line(entry, line)
