"""What a run begins with: a backbone's weights, or another run's; and whether they fit, before it begins."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from interlace import backbone as backbones
from interlace.backbone import Backbone, FrozenBackbone
from interlace.backbone.digest import digest
from interlace.data_recipes.schema import Recipe
from interlace.tasks.interface import Task

from .checkpoint import BadCheckpoint, Reader, newest
from .partitions import MOMENTS, WEIGHT
from .run_folder import RunFolder
from .save import CENTRES, STUDENT, TEACHERS, require_its_backbone
from .step import Parts
from .student import Student

Content = TypeVar("Content")


def initial_backbone(recipe: Recipe) -> Backbone | None:
    """The backbone of ``recipe.backbone.init``, frozen where the recipe says so; None without it.

    Raises ValueError for weights that are not there, or that the recipe's fields of ``backbone`` do not fit.
    """
    if recipe.backbone.init is None:
        return None
    backbone = backbones.load(recipe.backbone.init, **asdict(recipe.backbone.config))
    return FrozenBackbone.of(backbone) if recipe.backbone.frozen else backbone


def check_beginning(recipe: Recipe, student: Student, teachers: Mapping[str, nn.Module | None]) -> None:
    """Raise ValueError, a line each, with what keeps ``recipe`` from beginning with ``init`` or ``start_from``.

    ``student`` and ``teachers`` have the recipe's shapes; their content is not looked at. Reads the backbone of
    ``init`` and, of ``start_from``'s checkpoint, everything once, to see whether it is whole.
    """
    wrong, frozen = [], None
    try:
        backbone = initial_backbone(recipe)
        frozen = digest(backbone) if isinstance(backbone, FrozenBackbone) else None
    except ValueError as error:
        wrong.append(f"backbone.init: {error}")
    if recipe.start_from is not None and not wrong:
        try:
            start = Start.of(Path(recipe.start_from), frozen, cast(dict[str, Task], dict(student.tasks)))
            wrong += [f"start_from: {start.reader.folder} {each}" for each in start.differences(student, teachers)]
        except BadCheckpoint as error:
            wrong.append(f"start_from: {error}")
    if wrong:
        raise ValueError("\n".join(wrong))


def begin_from(run: Path, parts: Parts, tasks: Mapping[str, Task]) -> None:
    """Begin with backbone, heads, teachers and centres of ``run``, as its newest checkpoint has them; Adam begins anew.

    Of two runs on a frozen backbone, which must be the same, one may train what the other leaves as it is. A task that
    ``run`` has not begins with parts of one that it has, where :attr:`Task.begins_with` says so, and its other parts
    stay as they were drawn. BadCheckpoint for another frozen backbone, and for weights that mean something else there.
    """
    start = Start.of(run, parts.frozen.sha256 if parts.frozen else None, tasks)
    weights = ((start.name_here(name), tensor) for name, tensor in _weights(start.reader.tensors(STUDENT)))
    parts.engine.load_state(_with_moments(weights, parts.engine.trained), 0, begun=start.own)
    parts.teachers.load_state(start.reader.tensors(TEACHERS))
    parts.centres.load_state(_fresh_moments(start.reader.tensors(CENTRES)), 0)


@dataclass(frozen=True)
class Start:
    """A checkpoint to begin from. ``renamed``: the parts there that are another task's here, by name. ``own``: the
    student's parameters that it says nothing of."""

    reader: Reader
    renamed: Mapping[str, str]
    own: Collection[str]

    @classmethod
    def of(cls, run: Path, frozen: str | None, tasks: Mapping[str, Task]) -> Start:
        """The newest checkpoint of ``run``, whose weights mean here what they mean there, or BadCheckpoint.

        ``frozen``: the hash of a backbone that is not trained here.
        """
        path = newest(RunFolder(run).checkpoints)
        if path is None:
            raise BadCheckpoint(f"{run} holds no checkpoint to start from")
        reader = Reader(path)
        require_its_backbone(reader, frozen)
        theirs: Mapping[str, Mapping[str, str]] = reader.state.get("tasks", {})  # older ones do not say
        renamed: dict[str, str] = {}
        own: set[str] = set()
        for name, task in tasks.items():
            giver = name if name in theirs else next((each for each in task.begins_with if each in theirs), None)
            if giver is None:
                continue
            _require_its_meaning(path, giver, theirs[giver], name, task.fingerprints())
            if giver != name:
                taken = task.begins_with[giver]
                renamed |= {f"tasks.{giver}.{part}": f"tasks.{name}.{part}" for part in taken}
                others = [each for each, _ in task.named_parameters() if each.split(".")[0] not in taken]
                own |= {f"tasks.{name}.{each}" for each in others}
        return cls(reader, renamed, own)

    def name_here(self, name: str) -> str:
        """What a parameter of that name there is called here."""
        part = next((part for part in self.renamed if f"{name}.".startswith(f"{part}.")), "")
        return self.renamed.get(part, "") + name.removeprefix(part)

    def differences(self, student: Student, teachers: Mapping[str, nn.Module | None]) -> list[str]:
        """What the checkpoint holds and lacks of these shapes, in words."""
        there = {
            **{f"student's {self.name_here(name)}": shape for name, shape in _weights(self.reader.shapes(STUDENT))},
            **{f"teacher's {name}": shape for name, shape in self.reader.shapes(TEACHERS)},
            **{f"centres {name}": shape for name, shape in _weights(self.reader.shapes(CENTRES))},
        }
        here = {f"student's {name}": [*p.shape] for name, p in student.named_parameters() if name not in self.own}
        for task, teacher in teachers.items():
            held = () if teacher is None else teacher.named_parameters()
            here |= {f"teacher's {task}/{name}": [*p.shape] for name, p in held}
        for task, module in student.tasks.items():
            sharded = cast(Task, module).sharded()
            here |= {f"centres {task}.{each.name}": [each.rows, each.local.shape[1]] for each in sharded}
        unlike = [name for name in there.keys() & here.keys() if there[name] != here[name]]
        return [
            *_some("holds what this recipe has not", there.keys() - here.keys()),
            *_some("lacks", here.keys() - there.keys()),
            *_some("differs in shape", (f"{name} ({there[name]}, here {here[name]})" for name in unlike)),
        ]


def _some(what: str, names: Iterable[str]) -> list[str]:
    """The first of ``names`` and how many more, as a line; none where there are no names."""
    found = sorted(names)
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return [f"{what}: {', '.join(found[:3])}{more}"] if found else []


def _require_its_meaning(path: Path, giver: str, theirs: Mapping[str, str], name: str, ours: Mapping[str, str]) -> None:
    for what, sha256 in ours.items():
        if theirs.get(what) != sha256:
            raise BadCheckpoint(
                f"{path}: its {giver} was trained with another {what} than {name} has here (hashes differ); "
                f"name that {what} in the recipe"
            )


def _weights(state: Iterable[tuple[str, Content]]) -> Iterator[tuple[str, Content]]:
    """Names and what belongs to them, of a state's weights alone."""
    for label, content in state:
        kind, _, name = label.partition("/")
        if kind == WEIGHT:
            yield name, content


def _with_moments(weights: Iterable[tuple[str, Tensor]], trained: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """A state of these weights, with zeros as the moments of those that are trained from here on."""
    for name, tensor in weights:
        yield f"{WEIGHT}/{name}", tensor
        if name in trained:
            for moment in MOMENTS:
                yield f"{moment}/{name}", torch.zeros_like(tensor)


def _fresh_moments(stream: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    for label, tensor in stream:
        yield label, tensor if label.startswith(f"{WEIGHT}/") else torch.zeros_like(tensor)
