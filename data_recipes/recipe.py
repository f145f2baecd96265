"""Recipes: YAML files that say what is trained, on what, for what and how. Strict, and read whole or not at all.

    recipe = read_recipe("demo", ["engine.steps=100", "tasks.ssl.sources.rooms.weight=2"], sections)

The way of a recipe: its text and that of what it ``extends`` become one tree of values that know their line
(:mod:`.yaml_lines`), overrides are put over it, and :mod:`.assemble` reads the tree into a :class:`Recipe`
(:mod:`.schema`). All that is wrong is told at once, in :class:`RecipeErrors`; nothing is created.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .assemble import Assembler
from .errors import RecipeError, RecipeErrors, nearest
from .overrides import COMMAND_LINE, override
from .schema import ExistingFolder, ExistingPath, Recipe, Sections, TaskSpec
from .validate import error_at, one_of, show
from .yaml_lines import Node, compose, fill

__all__ = [
    "ExistingFolder",
    "ExistingPath",
    "Recipe",
    "RecipeErrors",
    "Sections",
    "TaskSpec",
    "find_recipe",
    "read_recipe",
    "resolve",
    "shipped",
]


def shipped() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.yaml"))


def find_recipe(name: str | Path, beside: Path | None = None) -> Path:
    """The file of a recipe: a path (``beside`` a folder, where one is given), or the name of a shipped one.

    Raises FileNotFoundError when it is neither.
    """
    candidates = [(beside or Path()) / name, Path(__file__).parent / f"{str(name).removesuffix('.yaml')}.yaml"]
    for file in candidates:
        if file.is_file():
            return file
    raise FileNotFoundError(str(name))


def read_recipe(
    path: str | Path,
    overrides: Sequence[str],
    sections: Sections,
    environment: Mapping[str, str] | None = None,
) -> Recipe:
    """Read the recipe at ``path``, or the shipped one of that name, with ``key.path=value`` overrides put over it.

    ``sections``: what the rooms above allow in it. ``environment``: where ``${NAME}`` comes from; the process's own by
    default. Raises :class:`RecipeErrors`.
    """
    return _Reading(sections, environment, look=True).file(path, overrides)


def resolve(
    text: str,
    sections: Sections,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    file: str = "recipe.yaml",
) -> Recipe:
    """Read a recipe's text without looking for the data and weights that it names. Raises :class:`RecipeErrors`."""
    return _Reading(sections, environment, look=False).text(text, file, overrides)


class _Reading:
    """One reading of one recipe: the files it took, and what was found wrong."""

    def __init__(self, sections: Sections, environment: Mapping[str, str] | None, *, look: bool) -> None:
        self.sections, self.look = sections, look
        self.environment = os.environ if environment is None else environment
        self.files: list[str] = []
        self.errors: list[RecipeError] = []

    def file(self, path: str | Path, overrides: Sequence[str]) -> Recipe:
        try:
            file = find_recipe(path)
        except FileNotFoundError:
            inside = Path(path) / "recipe.yaml"  # of a run's folder
            near = str(inside) if inside.is_file() else nearest(str(path), shipped())
            found = "a folder" if Path(path).is_dir() else "no such file"
            allowed = f"a recipe's file, or one of {one_of(shipped())}"
            raise RecipeErrors([RecipeError(str(path), 1, "recipe", found, allowed, near)]) from None
        return self.finish(self.load(file, []), overrides)

    def text(self, text: str, file: str, overrides: Sequence[str]) -> Recipe:
        return self.finish(self.tree(text, Path(file), []), overrides)

    def finish(self, root: Node | None, overrides: Sequence[str]) -> Recipe:
        self.files.append(COMMAND_LINE)
        recipe = None
        if root is not None:
            for number, text in enumerate(overrides, 1):
                override(root, text, number, self.errors)
            fill(root, self.environment, self.errors)
            recipe = Assembler(self.sections, self.errors, look=self.look).recipe(root)
        if recipe is None or self.errors:
            raise RecipeErrors(sorted(self.errors, key=lambda error: (self.files.index(error.file), error.line)))
        return recipe

    def load(self, file: Path, chain: list[Path]) -> Node | None:
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            self.files.append(str(file))
            self.errors.append(RecipeError(str(file), 1, "recipe", "bytes that are not UTF-8", "a text file"))
            return None
        return self.tree(text, file, chain)

    def tree(self, text: str, file: Path, chain: list[Path]) -> Node | None:
        """The values of a recipe's text, over those of the recipe it extends."""
        self.files.append(str(file))
        before = len(self.errors)
        node = compose(text, str(file), self.errors)
        if node is None or not isinstance(node.value, dict):
            if len(self.errors) == before:
                found = "an empty file" if node is None else show(node.plain)
                allowed = f"a mapping of extends, {one_of(Recipe.model_fields)}"
                self.errors.append(RecipeError(str(file), 1, "recipe", found, allowed))
            return None
        extends = node.value.pop("extends", None)
        if extends is None:
            return node
        fill(extends, self.environment, self.errors, "extends")
        if extends.bad:
            return None
        base = self.base(extends, file, [*chain, file.resolve()])
        return _over(base, node) if base else None

    def base(self, extends: Node, file: Path, chain: list[Path]) -> Node | None:
        try:
            if not isinstance(extends.value, str):
                raise FileNotFoundError
            target = find_recipe(extends.value, beside=file.parent)
        except FileNotFoundError:
            known = [*shipped(), *(other.name for other in file.parent.glob("*.yaml") if other != file)]
            near = nearest(str(extends.value), known)
            allowed = f"a recipe's file, or one of {one_of(shipped())}"
            self.errors.append(error_at(extends, "extends", allowed=allowed, near=near))
            return None
        if target.resolve() in chain:
            links = " -> ".join(link.name for link in [*chain[chain.index(target.resolve()) :], target])
            self.errors.append(error_at(extends, "extends", problem=f"recipes extend each other: {links}"))
            return None
        return self.load(target, chain)


def _over(base: Node, node: Node) -> Node:
    """``node`` put over ``base``: mappings merge, everything else replaces."""
    if not isinstance(base.value, dict) or not isinstance(node.value, dict) or node.bad:
        return node
    merged = dict(base.value)
    for key, entry in node.value.items():
        merged[key] = _over(merged[key], entry) if key in merged else entry
    return Node(merged, node.file, node.line)
