"""A part of a recipe read into its pydantic model, and what is wrong in it told in a recipe's own words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

from .errors import RecipeError, nearest
from .schema import OnDisk
from .yaml_lines import Node

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], node: Node, key: str, errors: list[RecipeError]) -> Model | None:
    """Read ``node`` into ``model``; None, and lines in ``errors``, where it does not fit.

    The values are read as JSON is: a list may become a tuple, but no text a number and no number text.
    """
    if node.bad:
        return None
    if not isinstance(node.value, dict):
        errors.append(error_at(node, key, allowed=describe(model)))
        return None
    try:
        return model.model_validate_json(json.dumps(node.plain))
    except ValidationError as problems:
        wrong: dict[str, RecipeError] = {}
        for problem in problems.errors(include_url=False):
            error = _translate(model, node, key, problem)
            if error is not None:
                wrong.setdefault(error.key, error)
        # A union reports every member that the value is not; where one of them says what is wrong inside, that is it.
        errors += [error for name, error in wrong.items() if not any(other.startswith(f"{name}.") for other in wrong)]
        return None


def error_at(
    node: Node, key: str, *, allowed: str = "", near: str = "", problem: str = "", found: str = ""
) -> RecipeError:
    """The error that ``node``'s value is not what it must be; ``found`` says it where the value does not."""
    return RecipeError(node.file, node.line, key, found or show(node.plain), allowed, near, problem)


def show(value: Any) -> str:
    """A value as an error shows it: scalars as they are written, the rest by what it is."""
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    return repr(value) if isinstance(value, str) else json.dumps(value)


def one_of(names: Iterable[str]) -> str:
    """Names to choose from; the first ten, where they are many."""
    names = list(names)
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:10])} and {len(names) - 10} more"


def locate(node: Node, key: str, parts: Sequence[str | int]) -> tuple[Node, str, Sequence[str | int]]:
    """Follow ``parts`` as far as the recipe has them: the node there, its key, and the parts left over."""
    for done, part in enumerate(parts):
        if node.bad:
            return node, key, ()
        entry = node.child(part)
        if entry is None:
            return node, key, parts[done:]
        key += node.called(part) if isinstance(part, int) else f".{part}" if key else part
        node = entry
    return node, key, ()


def _translate(model: type[BaseModel], root: Node, root_key: str, problem: Any) -> RecipeError | None:
    parts, where = _without_labels(root, problem["loc"])
    node, key, _ = locate(root, root_key, parts)
    kind, last = problem["type"], problem["loc"][-1] if problem["loc"] else ""
    if node.bad:
        return None
    if kind == "missing" and isinstance(last, str):
        allowed = describe(*_annotation(model, problem["loc"]))
        return RecipeError(node.file, node.line, f"{key}.{last}" if key else last, "nothing", allowed)
    if kind == "extra_forbidden":
        keys = _keys(_annotation(model, where[:-1])[0])
        return error_at(node, key, found="an unknown key", allowed=one_of(keys), near=nearest(str(last), keys))
    if kind in ("value_error", "assertion_error"):
        return blame(node, key, str(problem["ctx"]["error"]))
    annotation, metadata = _annotation(model, where)
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _wrong_kind(annotation, node, key, problem["ctx"]["discriminator"].strip("'"))
    near = ""
    if kind == "literal_error" and isinstance(node.value, str):
        near = nearest(node.value, [str(name) for name in get_args(_literal(annotation))])
    return error_at(node, key, allowed=describe(annotation, metadata), near=near)


def _without_labels(root: Node, location: Sequence[str | int]) -> tuple[list[str | int], Sequence[str | int]]:
    """How far the recipe has pydantic's location: as the recipe's keys alone, and as the location has it.

    Between keys pydantic puts labels, which say the member of a union that it tried.
    """
    parts: list[str | int] = []
    node, reached = root, 0
    for done, part in enumerate(location, 1):
        entry = node.child(part)
        if entry is not None:
            parts.append(part)
            node, reached = entry, done
    return parts, location[:reached]


def _wrong_kind(union: Any, node: Node, key: str, name: str) -> RecipeError:
    """The error that a mapping's entry ``name``, which says what the others are, is missing or unknown."""
    tags = [str(tag) for member in get_args(union) for tag in get_args(member.model_fields[name].annotation)]
    entry = node.child(name)
    if entry is None:
        return error_at(node, f"{key}.{name}", found="nothing", allowed=one_of(tags))
    return error_at(entry, f"{key}.{name}", allowed=one_of(tags), near=nearest(str(entry.value), tags))


def blame(node: Node, key: str, message: str) -> RecipeError:
    """A message of a model about itself, put at the first entry that it names, if it names one."""
    named = next((word for word in re.findall(r"\w+", message) if word in node.entries), None)
    if named is not None:
        node, key = node.entries[named], f"{key}.{named}"
    return told(node, key, message.removeprefix(f"{named}: "), show(node.plain))


def told(node: Node, key: str, message: str, value: str) -> RecipeError:
    """The error that a model's or a task's own message tells; where it says what it found, that is not said twice."""
    if message.startswith("found "):
        value, _, message = message.removeprefix("found ").partition(", ")
    if message.startswith("allowed is "):
        return error_at(node, key, found=value, allowed=message.removeprefix("allowed is "))
    return error_at(node, key, found=value, problem=message)


def _annotation(model: type[BaseModel], parts: Sequence[str | int]) -> tuple[Any, Sequence[Any]]:
    """The type of the value at ``parts`` (pydantic's location) of a model, and the constraints on it."""
    annotation: Any = model
    metadata: Sequence[Any] = ()
    for part in parts:
        annotation, metadata = _step(annotation, part)
    return annotation, metadata


def _step(annotation: Any, part: str | int) -> tuple[Any, Sequence[Any]]:
    origin, args = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        info = annotation.model_fields.get(str(part))
        return (info.annotation, info.metadata) if info else (Any, ())
    if origin is Annotated:
        return _step(args[0], part)
    if origin in (Union, UnionType):
        for member, metadata in map(_split, args):
            if part in _labels(member, metadata):
                return member, metadata
        return next((_step(member, part) for member in args if _holds(member, part)), (annotation, ()))
    if origin in (tuple, list) and isinstance(part, int):
        inner = args[0] if origin is list or args[-1] is Ellipsis else args[min(part, len(args) - 1)]
        return _split(inner)
    return _split(args[1]) if origin is dict else (Any, ())


def _labels(member: Any, metadata: Sequence[Any]) -> set[Any]:
    """What pydantic may call this member of a union in a location: its class, its tag, or the kind it states."""
    tags = {mark.tag for mark in metadata if isinstance(mark, Tag)}
    if not (isinstance(member, type) and issubclass(member, BaseModel)):
        return tags
    stated = [info.annotation for info in member.model_fields.values() if get_origin(info.annotation) is Literal]
    return tags | {member.__name__} | {value for annotation in stated for value in get_args(annotation)}


def _split(annotation: Any) -> tuple[Any, Sequence[Any]]:
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        return inner, metadata
    return annotation, ()


def _holds(annotation: Any, part: str | int) -> bool:
    """Whether a value of this type may have an entry of that name or number."""
    annotation, _ = _split(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return part in annotation.model_fields
    return get_origin(annotation) in ((tuple, list) if isinstance(part, int) else (dict,))


def _keys(annotation: Any) -> list[str]:
    members = [member for member in (annotation, *get_args(annotation)) if hasattr(member, "model_fields")]
    return [name for member in members for name in member.model_fields]


def _literal(annotation: Any) -> Any:
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next((member for member in members if get_origin(member) is Literal), None)


_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}


def describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What a value of this type and constraints may be, in words."""
    marks = [mark for info in metadata for mark in (info, *getattr(info, "metadata", ()))]
    words = next((str(mark) for mark in marks if isinstance(mark, OnDisk)), None) or _words(annotation)
    if any(getattr(mark, "pattern", None) for mark in marks):
        words = "a name of letters, digits, - and _"
    limits = [
        f"{sign} {getattr(mark, name):g}" for name, sign in _BOUNDS.items() for mark in marks if hasattr(mark, name)
    ]
    lengths = [f"{mark.min_length} or more" for mark in marks if getattr(mark, "min_length", None)]
    return " ".join([words, *(["of", *lengths] if lengths else []), " and ".join(limits)]).strip()


def _words(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a mapping of {one_of(annotation.model_fields)}"
    if origin is Annotated:
        return describe(args[0], args[1:])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(describe(member) for member in args))
    if origin is Literal:
        return one_of(str(value) for value in args)
    if origin in (tuple, list):
        many = origin is list or args[-1] is Ellipsis
        inner = dict.fromkeys(describe(arg) for arg in args if arg is not Ellipsis)
        return f"a list{'' if many else f' of {len(args)}'}" + (f": each {' or '.join(inner)}" if any(inner) else "")
    return "a mapping" if annotation is dict or origin is dict else ""
