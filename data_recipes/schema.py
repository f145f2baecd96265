"""What a recipe may say: every key, its type, its range and what it is when left out.

A task's ``options`` are the task's own model, and ``backbone`` takes the fields of the backbone's configuration; both
come in through :class:`Sections`, so this room knows neither.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from .yaml_lines import dump


@dataclass(frozen=True)
class OnDisk:
    """Marks a text field as a path. It is made absolute, and must exist when the recipe is read.

    Relative paths start from the current directory, ``~`` is the home. ``hub``: where there is no such path,
    ``owner/name`` or ``owner/name@revision`` is the model of that name in the Hugging Face hub's cache. Nothing is
    downloaded: every process of a run must find the same.
    """

    folder: bool = False
    hub: bool = False

    def __str__(self) -> str:
        kind = "an existing folder" if self.folder else "an existing file or folder"
        return f"{kind}, or owner/name that `hf download owner/name` has fetched" if self.hub else kind

    def absolute(self, path: str) -> str:
        found = os.path.abspath(os.path.expanduser(path))
        return (_in_cache(path) if self.hub and not os.path.exists(found) else None) or found

    def there(self, path: str) -> bool:
        return os.path.isdir(path) if self.folder else os.path.exists(path)


_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def _in_cache(name: str) -> str | None:
    """The folder of a model of the hub that was downloaded; None for another name, or one that was not."""
    if not (found := _HUB_ID.fullmatch(name)):
        return None
    from huggingface_hub import errors, snapshot_download

    try:
        return str(snapshot_download(found[1], revision=found[2], local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return None


#: For any model of a recipe, a task's options among them: a path that must exist.
ExistingPath = Annotated[str, OnDisk()]
ExistingFolder = Annotated[str, OnDisk(folder=True)]
#: A folder of ``transformers``, or a model of the hub by its name.
ExistingModel = Annotated[str, OnDisk(folder=True, hub=True)]

#: No dots, as overrides address sources by name: ``tasks.ssl.sources.rooms.weight=2``.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Strict(BaseModel):
    """Unknown keys and inexact types are errors; values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class HeldOut(Strict):
    """A source that is never trained on: one to measure on, or one to draw pictures of."""

    name: Name
    format: str  # one of FORMATS
    path: ExistingPath


class Source(HeldOut):
    """A source that is trained on. ``weight``: its share of the task's samples, among the weights of its task."""

    weight: float = Field(1.0, ge=0, allow_inf_nan=False)


class Zero(Strict):
    """DeepSpeed's ZeRO: ``stage`` 0 to 3 shards nothing, optimizer state, gradients, parameters."""

    stage: Literal[0, 1, 2, 3] = 0
    offload: Literal["none", "cpu"] = "none"  # where the optimizer's state and update live


class Engine(Strict):
    """How the tasks' gradients become steps."""

    steps: int = Field(ge=1)
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: float = Field(1e-4, gt=0)  # the peak
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup: int = Field(0, ge=0)  # steps of linear warm-up
    final_lr: float = Field(0.0, ge=0)  # where the cosine ends
    clip: float = Field(1.0, gt=0)  # largest global gradient norm
    precision: Literal["fp32", "bf16"] = "fp32"
    zero: Zero = Zero()
    checkpoint_every: int = Field(1000, ge=1)
    keep: int = Field(2, ge=1)  # newest checkpoints that stay on disk
    log_every: int = Field(10, ge=1)
    evaluate_every: int = Field(1000, ge=1)
    blind_samples: int = Field(256, ge=1)  # training samples that a task's blind guesses are fitted on
    cosine_every: int = Field(0, ge=0)  # steps between measured gradient cosines of tasks; 0 = never
    max_broken: float = Field(0.05, ge=0, le=1)  # largest share of a source's samples that may be broken
    workers: int = Field(2, ge=0)  # loader processes a rank; 0 = load in the training process


class TaskRecipe(Strict):
    """One objective: how much it counts, how many samples a step, and from where."""

    weight: float = Field(1.0, ge=0)
    batch: int = Field(ge=1)  # samples of a micro-batch, over all ranks
    micro_batches: int = Field(1, ge=1)  # a step
    options: SerializeAsAny[BaseModel]
    rates: dict[str, Annotated[float, Field(gt=0)]] = {}  # peaks of parts of the task, in place of the engine's lr
    sources: tuple[Source, ...] = Field(min_length=1)
    held_out: tuple[HeldOut, ...] = ()
    pictured: tuple[HeldOut, ...] = ()  # drawn beside held_out, and never measured on


class BackboneRecipe(Strict):
    """``config`` is the preset's, or one given in full, with the recipe's own fields put over it."""

    preset: str | None = None
    init: ExistingPath | None = None  # weights to start from; None draws them from the recipe's seed
    frozen: bool = False  # used as it is: no gradient, no noise, hashed before and after
    config: Any


class Recipe(Strict):
    """A recipe in which everything is known and in range. Made by :mod:`interlace.data_recipes.recipe` alone."""

    name: Name
    seed: int = Field(0, ge=0)
    backbone: BackboneRecipe
    engine: Engine
    tasks: dict[str, TaskRecipe]
    start_from: ExistingFolder | None = None  # a run whose backbone, heads, teachers and centres to go on from

    def resolved(self) -> dict[str, Any]:
        """Plain data in a recipe's own form with everything written out; reading it back gives an equal recipe."""
        data = self.model_dump(mode="json", exclude={"backbone"})
        own = {name: getattr(self.backbone, name) for name in ("preset", "init", "frozen")}
        backbone = {**own, **asdict(self.backbone.config)}
        head = {key: data.pop(key) for key in ("name", "seed", "start_from")}
        return {**head, "backbone": backbone, **data}

    def to_yaml(self) -> str:
        """:meth:`resolved` as YAML text."""
        return dump(self.resolved())

    def digest(self) -> str:
        """sha256 of what decides the trained weights.

        Left out: the name; every path (of sources, initial weights, a run to start from, and :data:`ExistingPath`
        options), as data may move; held-out and pictured sources; how ZeRO splits the work; and the engine's
        :data:`BESIDE_TRAINING`.
        """
        data = self.resolved()
        for key in ("name", "start_from"):
            del data[key]
        del data["backbone"]["init"], data["backbone"]["preset"]
        if not self.backbone.frozen:  # as it was before a recipe could say so
            del data["backbone"]["frozen"]
        data["backbone"].pop("fps", None)  # it says how to read times, and changes no weight
        for key in BESIDE_TRAINING:
            del data["engine"][key]
        data["engine"]["zero"] = Zero().model_dump(mode="json")  # all stages compute the same, to rounding
        for name, task in data["tasks"].items():
            del task["held_out"], task["pictured"]
            if not task["rates"]:  # as it was before a recipe could say so
                del task["rates"]
            for path in path_fields(type(self.tasks[name].options)):
                if isinstance(task["options"][path], str):
                    del task["options"][path]
            for source in task["sources"]:
                del source["path"]
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


#: Engine settings that no weight depends on.
BESIDE_TRAINING = (
    "checkpoint_every",
    "keep",
    "log_every",
    "evaluate_every",
    "blind_samples",
    "cosine_every",
    "max_broken",
    "workers",
)


@dataclass(frozen=True)
class TaskSpec:
    """What a recipe's reader knows of a task.

    ``options``: the model its options are read into. ``needs``: fields that every source must offer, ``draws_from``:
    fields that one that is only drawn must.
    ``check(options, backbone config)``: what no model can see alone, as pairs of an option's dotted key and a message.
    ``tokens_per_sample(options, backbone config)``: backbone tokens that training on one sample costs at most.
    ``parts``: names that ``rates`` may have.
    """

    options: type[BaseModel]
    needs: frozenset[str]
    draws_from: frozenset[str]
    check: Callable[[Any, Any], list[tuple[str, str]]]
    tokens_per_sample: Callable[[Any, Any], int]
    parts: tuple[str, ...] = ()

    @classmethod
    def of(cls, task: Any) -> TaskSpec:
        """The spec that a task's class states (:class:`interlace.tasks.interface.Task`)."""
        return cls(task.Options, task.needs, task.draws_from, task.check, task.tokens_per_sample, task.parts)


@dataclass(frozen=True)
class Sections:
    """What the rooms above say a recipe may contain: the backbone's configuration class, its presets, the tasks."""

    backbone: type[Any]
    presets: Mapping[str, Any]
    tasks: Mapping[str, TaskSpec]


def path_fields(model: type[BaseModel]) -> dict[str, OnDisk]:
    """The fields of ``model`` that are paths, with what each must be."""
    found: dict[str, OnDisk] = {}
    for name, info in model.model_fields.items():
        marks = [*info.metadata, *_marks(info.annotation)]
        for mark in marks:
            if isinstance(mark, OnDisk):
                found[name] = mark
    return found


def _marks(annotation: Any) -> list[Any]:
    """The metadata inside an annotation such as ``ExistingPath | None``."""
    marks = list(getattr(annotation, "__metadata__", ()))
    for inner in getattr(annotation, "__args__", ()):
        marks += _marks(inner)
    return marks
