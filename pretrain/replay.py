"""A stopped step in one file, and the step again in one process."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from torch import Tensor

from interlace.backbone import BackboneNoise
from interlace.data_recipes.feed import Feed, MicroBatch
from interlace.data_recipes.schema import Recipe
from interlace.tasks.interface import Progress

from .ranks import Ranks
from .save import CENTRES, STUDENT, TEACHERS
from .step import Parts, objective, to_device

#: What a replay file holds.
FIELDS = {"recipe", "step", "adam_steps", "weights", "micros"}


def write_replay(
    path: Path,
    recipe: Recipe,
    parts: Parts,
    feeds: Mapping[str, Feed],
    micros: Sequence[MicroBatch],
    step: int,
    ranks: Ranks,
) -> dict[str, list[str]]:
    """Write the step's *global* micro-batches and the weights before it. All ranks take part, the first writes.

    The micro-batches are made again for a single rank, which gives the same samples and draws; every random draw of a
    loss is keyed by the seed and the step, so there is no random state besides those. Only the first rank makes and
    holds what is written. Returns the keys of its samples, task by task, on every rank.
    """
    weights = {
        STUDENT: _on_first(parts.engine.state(), ranks),
        TEACHERS: _on_first(parts.teachers.state(), ranks),
        CENTRES: _on_first(parts.centres.state(), ranks),
    }
    keys: dict[str, list[str]] = {}
    if ranks.first:
        whole = [feeds[micro.task].micro_batch(step, micro.index) for micro in micros]
        for micro in whole:
            keys.setdefault(micro.task, []).extend(micro.keys)
        content = {
            "recipe": yaml.safe_dump(recipe.resolved()),
            "step": step,
            "adam_steps": {STUDENT: parts.engine.adam_steps, CENTRES: parts.centres.adam_steps},
            "weights": weights,
            "micros": [(micro.task, micro.index, micro.batch, micro.keys) for micro in whole],
        }
        torch.save(content, path)
    told = [keys]
    dist.broadcast_object_list(told)
    return told[0]


def _on_first(state: Iterable[tuple[str, Tensor]], ranks: Ranks) -> dict[str, Tensor]:
    """A state in the first rank's memory, nothing elsewhere; every tensor is assembled by all ranks together."""
    return {name: tensor.detach().cpu() for name, tensor in state if ranks.first}


def read_replay(path: Path) -> dict[str, Any]:
    """What :func:`write_replay` wrote. Reads tensors and plain data only, whatever the file holds.

    Raises ValueError for a file that is missing or no replay file.
    """
    try:
        with torch.serialization.safe_globals([BackboneNoise]):
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; a stopped run names its replay file in its last message") from None
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} is no replay file, or a damaged one; a stopped run names its replay file in its last message"
        ) from error
    if not isinstance(content, dict) or content.keys() != FIELDS:
        raise ValueError(f"{path} is no replay file: it does not hold {', '.join(sorted(FIELDS))}")
    return content


def replay_step(content: Mapping[str, Any], parts: Parts, recipe: Recipe, ranks: Ranks) -> dict[str, float]:
    """Run the step's forward and backward passes again in one process, without the update.

    Returns ``{"task/term": value, ..., "gradient_norm": value}``.
    """
    weights, counters = content["weights"], content["adam_steps"]
    parts.engine.load_state(weights[STUDENT].items(), counters[STUDENT])
    parts.teachers.load_state(weights[TEACHERS].items())
    parts.centres.load_state(weights[CENTRES].items(), counters[CENTRES])
    found: dict[str, float] = {}
    micros = content["micros"]
    for position, (task, index, batch, _) in enumerate(micros):
        part = recipe.tasks[task]
        progress = Progress(content["step"], recipe.engine.steps, recipe.seed, index)
        terms = parts.engine.forward(task, to_device(batch, ranks.device), parts.teachers.get(task), progress)
        loss, sums, counts = objective(terms, part.weight / part.micro_batches)
        parts.engine.backward(loss, last=position == len(micros) - 1)
        for name, value in zip(terms, (sums / counts.clamp(min=1e-30)).tolist(), strict=True):
            key = f"{task}/{name}"
            found[key] = found.get(key, 0.0) + value / part.micro_batches
    norm = parts.engine.gradient_norm().square() + parts.centres.squared_norm().to(ranks.device)
    found["gradient_norm"] = float(norm.sqrt())
    parts.engine.discard()
    parts.centres.discard()
    return found
