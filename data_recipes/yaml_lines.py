"""YAML read safely, with the file and line of every value.

A recipe is YAML 1.2's core: mappings with text keys, lists, text, numbers, true/false and null. What YAML 1.1 reads
into plain words (``no`` = false, ``1:30`` = 90, dates) and what builds objects (tags) or shares them (aliases) is not
part of it: PyYAML's composer gives nodes, and nothing is ever constructed from them but the plain values here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from .errors import RecipeError

Scalar = str | int | float | bool | None


@dataclass
class Node:
    """A value of a recipe and where it stands. ``line`` is its key's line, where it has one.

    ``bad``: an error was reported for it already, so what follows from its value is not worth a line. ``quoted``: text
    that stays text, whatever :func:`fill` puts into it.
    """

    value: Scalar | dict[str, Node] | list[Node]
    file: str
    line: int
    bad: bool = False
    quoted: bool = False

    @property
    def entries(self) -> dict[str, Node]:
        """What a mapping holds; nothing for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> list[Node]:
        """What a list holds; nothing for anything else."""
        return self.value if isinstance(self.value, list) else []

    def child(self, part: str | int) -> Node | None:
        """The entry of that name or number, if there is one."""
        if isinstance(part, str):
            return self.entries.get(part)
        return self.items[part] if part < len(self.items) else None

    def called(self, index: int) -> str:
        """How an entry of a list is called in a key: by its name where it has one (sources), else by its number."""
        name = self.items[index].child("name")
        return f".{name.value}" if name and isinstance(name.value, str) else f"[{index}]"

    @property
    def plain(self) -> Any:
        """The value as ordinary dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain for child in self.value]
        return self.value


class _Loader(yaml.SafeLoader):
    """Composes nodes; resolves plain scalars as YAML 1.2's core schema does."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  PyYAML's own class attribute, replaced


class _Dumper(yaml.SafeDumper):
    """Writes what :class:`_Loader` reads back as the same values."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_SCALARS = {  # the first that matches wins
    "tag:yaml.org,2002:null": r"~|null|Null|NULL|",
    "tag:yaml.org,2002:bool": r"true|True|TRUE|false|False|FALSE",
    "tag:yaml.org,2002:int": r"[-+]?[0-9]{1,18}",
    "tag:yaml.org,2002:float": _FLOAT,
}
for _tag, _pattern in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), None)

_READ: dict[str, Callable[[str], Scalar]] = {
    "tag:yaml.org,2002:null": lambda text: None,
    "tag:yaml.org,2002:bool": lambda text: text.lower() == "true",
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
}


def dump(data: Mapping[str, Any]) -> str:
    """Plain data as YAML text that :func:`compose` reads back as the same values."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def compose(text: str, file: str, errors: list[RecipeError]) -> Node | None:
    """Read YAML text. What is wrong goes to ``errors``; None when nothing can be read, or nothing is there.

    ``${NAME}`` stays as it is until :func:`fill`.
    """
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else text[: getattr(error, "position", 0)].count("\n") + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", "characters YAML does not allow")
        errors.append(RecipeError(file, line, "recipe", f"text that is not YAML ({problem})"))
        return None
    except RecursionError:
        errors.append(RecipeError(file, 1, "recipe", "text that nests too deep"))
        return None
    except ValueError:  # PyYAML takes \U for any number, and only then finds that no character has it
        errors.append(RecipeError(file, 1, "recipe", r"text that is not YAML (\U with a number that no character has)"))
        return None
    return None if root is None else _Reader(text.splitlines(), file, errors).read(root, "")


_NAME = r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^${}]*))?\}"


def fill(node: Node, environment: Mapping[str, str], errors: list[RecipeError], key: str = "") -> None:
    """Replace ``${NAME}`` and ``${NAME:-default}`` in all text below ``node``, from ``environment``.

    Unquoted text is then read as if that had been written: ``${BATCH:-8}`` is a number.
    """
    for name, entry in node.entries.items():
        fill(entry, environment, errors, f"{key}.{name}" if key else name)
    for index, entry in enumerate(node.items):
        fill(entry, environment, errors, f"{key}{node.called(index)}")
    if not isinstance(node.value, str) or "${" not in node.value or node.bad:
        return
    text, before = node.value, len(errors)
    if "${" in re.sub(_NAME, "", text):
        errors.append(RecipeError(node.file, node.line, key, repr(text), "${NAME} or ${NAME:-default}"))
    for match in re.finditer(_NAME, text):
        if _look_up(match, environment) is None:
            problem = f"the environment variable {match['name']} is not set"
            errors.append(RecipeError(node.file, node.line, key, text, problem=problem))
    if len(errors) == before:
        filled = re.sub(_NAME, lambda match: _look_up(match, environment) or "", text)
        node.value = filled if node.quoted else _plain(filled)
        _finite(node, filled, key, errors)
    node.bad = node.bad or len(errors) > before


def _finite(node: Node, text: str, key: str, errors: list[RecipeError]) -> None:
    """Infinities and what is no number are never meant."""
    if isinstance(node.value, float) and not math.isfinite(node.value):
        errors.append(RecipeError(node.file, node.line, key, text, "a finite number"))
        node.value, node.bad = None, True


def _look_up(match: re.Match[str], environment: Mapping[str, str]) -> str | None:
    # Set but empty is not set, as the shell's ${NAME:-default} has it.
    return environment.get(match["name"]) or match["default"]


def _plain(text: str) -> Scalar:
    """An unquoted scalar's value."""
    tag = next((tag for tag, pattern in _SCALARS.items() if re.fullmatch(pattern, text)), "")
    return _READ[tag](text) if tag else text


class _Reader:
    """Turns PyYAML's nodes into ours, and reports what a recipe may not contain."""

    def __init__(self, lines: list[str], file: str, errors: list[RecipeError]) -> None:
        self.lines, self.file, self.errors = lines, file, errors
        self.seen: set[int] = set()

    def report(self, line: int, key: str, found: str, allowed: str) -> None:
        self.errors.append(RecipeError(self.file, line, key or "recipe", found, allowed))

    def read(self, node: yaml.Node, key: str, line: int | None = None) -> Node:
        line = node.start_mark.line + 1 if line is None else line
        bad = self.refuse(node, key, line)
        if bad:
            return Node(None, self.file, line, bad=True)
        if isinstance(node, yaml.MappingNode):
            return Node(self.mapping(node, key), self.file, line)
        if isinstance(node, yaml.SequenceNode):
            items = [self.read(child, f"{key}{_called(child, i)}") for i, child in enumerate(node.value)]
            return Node(items, self.file, line)
        assert isinstance(node, yaml.ScalarNode)  # the only other kind that a composer makes
        return self.scalar(node, key, line)

    def refuse(self, node: yaml.Node, key: str, line: int) -> bool:
        """Report aliases (a node met twice) and tags."""
        if id(node) in self.seen:
            self.report(line, key, "an alias (*)", "values written out; `extends:` shares them between files")
            return True
        self.seen.add(id(node))
        row, column = node.start_mark.line, node.start_mark.column
        # A node with an anchor or a tag starts at it; PyYAML keeps no other trace that a tag was written out.
        tagged = re.match(r"(?:&\S+\s+)?(!\S*)", self.lines[row][column:]) if row < len(self.lines) else None
        if tagged:
            self.report(line, key, f"the tag {tagged[1]}", "plain YAML, which builds no objects")
        return tagged is not None

    def mapping(self, node: yaml.MappingNode, key: str) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for name_node, child in node.value:
            line = name_node.start_mark.line + 1
            if name_node.tag != "tag:yaml.org,2002:str":
                self.report(line, key, f"the key {name_node.value!r}", "keys that are text")
                continue
            name = str(name_node.value)
            path = f"{key}.{name}" if key else name
            value = self.read(child, path, line)
            if name in entries:
                self.report(line, path, f"the key again, after line {entries[name].line}", "once")
            else:
                entries[name] = value
        return entries

    def scalar(self, node: yaml.ScalarNode, key: str, line: int) -> Node:
        text, quoted = str(node.value), node.style is not None
        found = Node(text if quoted else _plain(text), self.file, line, quoted=quoted)
        _finite(found, text, key, self.errors)
        return found


def _called(node: yaml.Node, index: int) -> str:
    """How an entry of a list is called in a key: by its name where it has one (sources), else by its number."""
    entries = node.value if isinstance(node, yaml.MappingNode) else ()
    names = (value.value for name, value in entries if name.value == "name" and isinstance(value, yaml.ScalarNode))
    name = next(names, None)
    return f"[{index}]" if name is None else f".{name}"
