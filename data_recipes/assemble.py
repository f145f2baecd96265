"""One tree of values becomes a :class:`Recipe`, or a list of all that is wrong with it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, Field, create_model

from .errors import RecipeError, nearest
from .formats import FORMATS
from .media import DataError
from .schema import (
    BackboneRecipe,
    Engine,
    ExistingPath,
    HeldOut,
    Recipe,
    Sections,
    Source,
    Strict,
    TaskRecipe,
    TaskSpec,
    path_fields,
)
from .shards import ShardReader
from .validate import blame, describe, error_at, locate, one_of, show, told, validate
from .yaml_lines import Node

Model = TypeVar("Model", bound=BaseModel)
AnySource = TypeVar("AnySource", bound=HeldOut)

# The same keys, types and ranges as in the models they extend, with the parts that are read on their own left open.
_RecipeShape = create_model(
    "_RecipeShape",
    __base__=Recipe,
    extends=(str | None, None),
    backbone=(dict[str, Any], ...),
    engine=(dict[str, Any], ...),
    tasks=(dict[str, Any], ...),
)
_TaskShape = create_model(
    "_TaskShape",
    __base__=TaskRecipe,
    options=(dict[str, Any], {}),
    sources=(list[Any], Field(min_length=1)),
    held_out=(list[Any], []),
    pictured=(list[Any], []),
)


class Assembler:
    """Reads every part as far as it can be read, so that one wrong part hides nothing in the others.

    With ``look`` paths must exist and MDS folders are opened; without, the disk is left alone.
    """

    def __init__(self, sections: Sections, errors: list[RecipeError], *, look: bool) -> None:
        self.sections, self.errors, self.look = sections, errors, look
        self.trained: dict[str, str] = {}  # path -> the key of the source that trains on it
        self.measured: list[tuple[Node, str, str]] = []  # path's node, its key, path

    def recipe(self, root: Node) -> Recipe | None:
        """The recipe; None exactly when there are errors."""
        head = self.read(_RecipeShape, root, "")
        part = {key: root.entries[key] for key in ("backbone", "engine", "tasks") if key in root.entries}
        part = {key: node for key, node in part.items() if isinstance(node.value, dict) and not node.bad}
        backbone = self.backbone(part["backbone"]) if "backbone" in part else None
        engine = self.engine(part["engine"]) if "engine" in part else None
        config = backbone.config if backbone else None
        if backbone and backbone.frozen and engine and engine.cosine_every:
            self.wrong(part["engine"], "engine", ("cosine_every",), engine.cosine_every, "0: backbone.frozen is true")
        tasks = self.tasks(part["tasks"], config) if "tasks" in part else None
        for node, key, path in self.measured:
            if path in self.trained:
                self.errors.append(error_at(node, key, problem=f"{self.trained[path]} trains on it"))
        if head and backbone and head.start_from and backbone.init and not backbone.frozen:
            problem = "start_from brings its own backbone; set one of the two to null"
            self.errors.append(error_at(part["backbone"].entries["init"], "backbone.init", problem=problem))
        if self.errors or not (head and backbone and engine and tasks):
            return None
        parts = {"backbone": backbone, "engine": engine, "tasks": tasks}
        return Recipe.model_validate({**head.model_dump(include={"name", "seed", "start_from"}), **parts})

    def read(self, model: type[Model], node: Node, key: str) -> Model | None:
        """:func:`validate`, then paths made absolute and looked for."""
        found = validate(model, node, key, self.errors)
        if found is None:
            return None
        absolute: dict[str, str] = {}
        for field, mark in path_fields(model).items():
            path, entry = getattr(found, field), node.child(field)
            if not isinstance(path, str) or (entry and entry.bad):
                continue
            absolute[field] = mark.absolute(path)
            if self.look and not mark.there(absolute[field]):
                path_key, allowed = f"{key}.{field}" if key else field, str(mark)
                self.errors.append(error_at(entry or node, path_key, found=absolute[field], allowed=allowed))
        return found.model_copy(update=absolute)

    def backbone(self, node: Node) -> BackboneRecipe | None:
        config_class, presets = self.sections.backbone, self.sections.presets
        hints, fields = get_type_hints(config_class), dataclasses.fields(config_class)
        definitions: dict[str, Any] = {field.name: (hints[field.name], None) for field in fields}
        definitions |= {"preset": (str | None, None), "init": (ExistingPath | None, None), "frozen": (bool, False)}
        shape = create_model("_BackboneShape", __base__=Strict, **definitions)
        read: Any = self.read(shape, node, "backbone")
        if read is None:
            return None
        given = {name: getattr(read, name) for name in read.model_fields_set - set(BackboneRecipe.model_fields)}
        if read.frozen and read.init is None:
            problem = "a frozen backbone needs weights: set backbone.init"
            self.errors.append(error_at(node.entries["frozen"], "backbone.frozen", problem=problem))
        if read.preset is not None and read.preset not in presets:
            entry, near = node.entries["preset"], nearest(read.preset, presets)
            self.errors.append(error_at(entry, "backbone.preset", allowed=one_of(presets), near=near))
            return None
        needed = {field.name for field in fields if field.default is dataclasses.MISSING}
        if read.preset is None and (missing := sorted(needed - set(given))):
            for name in missing:
                allowed = f"{describe(hints[name])}, or a preset that has one"
                self.errors.append(error_at(node, f"backbone.{name}", found="nothing", allowed=allowed))
            return None
        config = self.config({} if read.preset is None else dataclasses.asdict(presets[read.preset]), given, node)
        return config and BackboneRecipe(preset=read.preset, init=read.init, frozen=read.frozen, config=config)

    def config(self, preset: dict[str, Any], given: dict[str, Any], node: Node) -> Any:
        """The backbone's configuration, or None with an error for each field that it refuses."""
        before = len(self.errors)
        while True:
            try:
                config = self.sections.backbone(**{**preset, **given})
            except ValueError as error:
                self.errors.append(blame(node, "backbone", str(error)))
                name = self.errors[-1].key.removeprefix("backbone.")
                if name not in given or name not in preset:
                    return None
                del given[name]  # to hear of the next one
            else:
                return config if len(self.errors) == before else None

    def engine(self, node: Node) -> Engine | None:
        engine = self.read(Engine, node, "engine")
        if engine is None:
            return None
        if engine.warmup > engine.steps:
            self.wrong(node, "engine", ("warmup",), engine.warmup, f"at most engine.steps = {engine.steps}")
        if engine.final_lr > engine.lr:
            self.wrong(node, "engine", ("final_lr",), engine.final_lr, f"at most engine.lr = {engine.lr:g}")
        if engine.zero.offload != "none" and engine.zero.stage == 0:
            self.wrong(node, "engine", ("zero", "offload"), engine.zero.offload, "none with engine.zero.stage 0")
        return engine

    def wrong(self, node: Node, key: str, parts: Sequence[str | int], value: Any, allowed: str) -> None:
        """An error at an entry, or at what holds it where the recipe leaves it out."""
        entry, key, rest = locate(node, key, parts)
        self.errors.append(error_at(entry, ".".join([key, *map(str, rest)]), found=show(value), allowed=allowed))

    def tasks(self, node: Node, config: Any) -> dict[str, TaskRecipe] | None:
        known = one_of(self.sections.tasks)
        entries = {
            name: entry
            for name, entry in node.entries.items()
            if entry.value is not None or entry.bad or name not in self.sections.tasks
        }
        if not entries:
            self.errors.append(error_at(node, "tasks", found="no task", allowed=f"one or more of {known}"))
            return None
        tasks: dict[str, TaskRecipe | None] = {}
        for name, entry in entries.items():
            if name in self.sections.tasks:
                tasks[name] = self.task(entry, f"tasks.{name}", self.sections.tasks[name], config)
            else:
                near = nearest(name, self.sections.tasks)
                error = error_at(entry, f"tasks.{name}", found="an unknown task", allowed=known, near=near)
                self.errors.append(error)
                tasks[name] = None
        weights = [entry.child("weight") for entry in entries.values()]
        if all(weight and weight.value == 0 for weight in weights):
            self.errors.append(error_at(node, "tasks", found="weights that sum to 0", allowed="a task with weight > 0"))
        read = {name: task for name, task in tasks.items() if task}
        return read if len(read) == len(tasks) else None

    def task(self, node: Node, key: str, spec: TaskSpec, config: Any) -> TaskRecipe | None:
        before = len(self.errors)
        shape: Any = self.read(_TaskShape, node, key)
        if not isinstance(node.value, dict):
            return None
        options = self.options(node, f"{key}.options", spec, config)
        sources = self.sources(Source, node, f"{key}.sources", spec.needs)
        held_out = self.sources(HeldOut, node, f"{key}.held_out", spec.needs)
        pictured = self.sources(HeldOut, node, f"{key}.pictured", spec.draws_from)
        for part in shape.rates if shape else ():
            if part not in spec.parts:
                allowed = one_of(spec.parts) or "nothing: no part of this task has a rate of its own"
                entry, near = node.entries["rates"].entries[part], nearest(part, spec.parts)
                found = "an unknown part"
                self.errors.append(error_at(entry, f"{key}.rates.{part}", found=found, allowed=allowed, near=near))
        if len(self.errors) > before or shape is None or options is None:
            return None
        lengths = (len(sources), len(held_out), len(pictured))
        if lengths != (len(shape.sources), len(shape.held_out), len(shape.pictured)):
            return None  # one that was told when the text was read
        numbers = {name: getattr(shape, name) for name in ("weight", "batch", "micro_batches", "rates")}
        return TaskRecipe(
            **numbers, options=options, sources=tuple(sources), held_out=tuple(held_out), pictured=tuple(pictured)
        )

    def options(self, task: Node, key: str, spec: TaskSpec, config: Any) -> BaseModel | None:
        node = task.child("options") or Node({}, task.file, task.line, task.bad)
        if not isinstance(node.value, dict):
            return None  # told by the task's shape
        before = len(self.errors)
        options = self.read(spec.options, node, key)
        if options is None or config is None:
            return options
        known = {error.key for error in self.errors[before:]}
        for name, message in spec.check(options, config):
            parts = [int(part) if part.isdigit() else part for part in name.split(".")] if name else []
            entry, entry_key, rest = locate(node, key, parts)
            entry_key = ".".join([entry_key, *map(str, rest)])
            value: Any = options
            for part in parts:
                value = value[part] if isinstance(part, int) else getattr(value, part)
            # Without looking at the disk, a path is never wrong.
            if not (entry.bad or entry_key in known or (name in path_fields(spec.options) and not self.look)):
                found = show(value.model_dump() if isinstance(value, BaseModel) else value)
                self.errors.append(told(entry, entry_key, message, found))
        return options

    def sources(self, model: type[AnySource], task: Node, key: str, needs: frozenset[str]) -> list[AnySource]:
        node = task.child(key.rpartition(".")[2]) or Node([], task.file, task.line)
        found: list[AnySource] = []
        lines: dict[str, int] = {}
        for index, entry in enumerate(node.items):
            entry_key = f"{key}{node.called(index)}"
            source = self.read(model, entry, entry_key)
            name = entry.child("name")
            if name and isinstance(name.value, str) and not name.bad:
                if name.value in lines:
                    problem = f"the name of the source on line {lines[name.value]} already"
                    self.errors.append(error_at(name, f"{entry_key}.name", problem=problem))
                lines.setdefault(name.value, name.line)
            if source is None:
                continue
            found.append(source)
            self.offers(source, entry, entry_key, needs)
            path = entry.child("path") or entry
            if path.bad:
                continue
            if isinstance(source, Source):
                self.trained.setdefault(source.path, entry_key)
            else:
                self.measured.append((path, f"{entry_key}.path", source.path))
        weights = [source.weight for source in found if isinstance(source, Source)]
        if weights and len(weights) == len(node.items) and not any(weights):
            wrong = error_at(node, key, found="weights that sum to 0", allowed="a source with weight > 0")
            self.errors.append(wrong)
        return found

    def offers(self, source: HeldOut, node: Node, key: str, needs: frozenset[str]) -> None:
        """Whether a source has what is needed, as far as its format or, for MDS shards, its manifest tells."""
        format_node, path_node = node.child("format") or node, node.child("path") or node
        if format_node.bad:
            return
        if source.format not in FORMATS:
            near = nearest(source.format, FORMATS)
            self.errors.append(error_at(format_node, f"{key}.format", allowed=one_of(FORMATS), near=near))
            return
        offered, where, name = FORMATS[source.format].fields, format_node, "format"
        if source.format == "mds" and self.look and not path_node.bad and os.path.exists(source.path):
            try:
                offered, where, name = ShardReader(source.path).fields, path_node, "path"
            except DataError as error:
                self.errors.append(error_at(path_node, f"{key}.path", problem=str(error)))
                return
        if needs - offered:
            found = f"{show(where.plain)}, which offers {', '.join(sorted(offered))}"
            allowed = f"a source with {', '.join(sorted(needs))}"
            self.errors.append(error_at(where, f"{key}.{name}", found=found, allowed=allowed))
