"""A language model that sees through a frozen backbone: what tasks ``vlm`` and ``vla`` have in common."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import torch
import yaml
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator
from safetensors.torch import load_file
from torch import Tensor, nn

from interlace.backbone import Backbone, BackboneConfig, FrozenBackbone
from interlace.backbone.frozen import REFERENCE, load_reference
from interlace.backbone.locate import RECIPE
from interlace.data_recipes.schema import ExistingModel, ExistingPath

from ..captioning.decoder import projector
from ..captioning.options import DecoderShape
from ..collectives import sum_over_ranks
from ..interface import Task, TaskContext, TaskOptions
from .chat import read_chat
from .llm import build_llm
from .recall import Recall

logger = logging.getLogger(__name__)


def _kind_of_llm(value: Any) -> str:
    return "folder" if isinstance(value, str) else "shape"


class LanguageOptions(TaskOptions):
    """What a recipe says of any such model."""

    #: a ``transformers`` causal language model: its folder, or its name on the hub where that was downloaded; or the
    #: shape of a new small one
    llm: Annotated[
        Annotated[ExistingModel, Tag("folder")] | Annotated[DecoderShape, Tag("shape")], Discriminator(_kind_of_llm)
    ]
    #: folder of a ``transformers`` tokenizer with a chat template, or a SentencePiece ``.model``; None: the llm's
    tokenizer: ExistingPath | None = None
    size: int = Field(ge=1)  # pixels a side of what the backbone sees at once
    pool: int = Field(ge=1)  # patches a side that are averaged into one token
    #: the row and the column of each patch are added to its token, as sines: for a small model that begins at random;
    #: OmniStream says nothing of it
    patch_positions: bool = False
    blind: bool = False  # the same without any image: what words alone give away
    #: GB of the frozen backbone's features that training keeps, so that a video (vlm) or a single frame (vla) that
    #: comes again is not computed again: for few samples and many epochs. The same features, to the bit
    remember: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _tokenizer_known(self) -> LanguageOptions:
        if self.tokenizer is None and isinstance(self.llm, DecoderShape):
            raise ValueError("tokenizer: needed, because the llm is a shape and not a folder that holds one")
        return self

    @property
    def tokenizer_path(self) -> str:
        """Where the tokenizer lies."""
        return self.tokenizer if self.tokenizer is not None else str(self.llm)


class LanguageTask(Task):
    """A chat, a causal language model, a projector from patches to its embeddings, and a newline token."""

    parts: ClassVar[tuple[str, ...]] = ("projector", "newline", "llm")

    #: where a trained one is read from, in words
    home: ClassVar[str]

    options: LanguageOptions

    def __init__(self, options: LanguageOptions, context: TaskContext) -> None:
        super().__init__(options, context)
        self.options = options
        self.chat = read_chat(options.tokenizer_path)
        self.llm: Any = build_llm(options.llm, self.chat.tokenizer)
        width = self.llm.get_input_embeddings().weight.shape[1]
        self.projector: nn.Module = projector(context.backbone.hidden_size, width)
        self.newline = nn.Parameter(torch.randn(width) / width**0.5)
        self.recall = Recall(int(options.remember * 1e9))
        self.left_out = 0  # samples of this run that taught nothing, over all ranks

    @classmethod
    def check(cls, options: LanguageOptions, backbone: BackboneConfig) -> list[tuple[str, str]]:
        """A size that patches or pooling do not divide; tokens without room for a place; a language model or a
        tokenizer that is not there."""
        wrong = []
        if options.size % (backbone.patch_size * options.pool):
            allowed = f"allowed is a multiple of backbone.patch_size x pool = {backbone.patch_size * options.pool}"
            wrong.append(("size", allowed))
        if isinstance(options.llm, str) and not (Path(options.llm) / "config.json").is_file():
            wrong.append(("llm", "allowed is the folder of a transformers causal language model, with a config.json"))
        if options.patch_positions and isinstance(options.llm, DecoderShape) and options.llm.hidden_size % 4:
            allowed = f"allowed with an llm whose hidden_size 4 divides; here it is {options.llm.hidden_size}"
            wrong.append(("patch_positions", allowed))
        path = Path(options.tokenizer_path)
        if not (path.is_dir() or (path.suffix == ".model" and path.is_file())):
            named = "tokenizer" if options.tokenizer is not None else "llm"
            wrong.append((named, "allowed is a transformers tokenizer's folder or a SentencePiece .model file"))
        return wrong

    def fingerprints(self) -> dict[str, str]:
        """``tokenizer``: of the text that each of its tokens stands for."""
        tokenizer = self.chat.tokenizer
        texts = "\0".join(tokenizer.decode([token]) for token in range(tokenizer.size))
        return {"tokenizer": hashlib.sha256(texts.encode()).hexdigest()}

    def demand_frozen(self, backbone: Backbone) -> None:
        """ValueError for a backbone that would be trained: a recipe says ``backbone.frozen: true``."""
        if not isinstance(backbone, FrozenBackbone):
            raise ValueError(f"{self.name}: its backbone must be frozen: set backbone.frozen: true, and backbone.init")

    def count_left_out(self, samples: Sequence[str]) -> None:
        """Name this rank's samples that teach nothing, and count those of all ranks. Collective."""
        for line in samples:
            logger.warning("%s: left out %s", self.name, line)
        self.left_out += int(sum_over_ranks(torch.tensor(float(len(samples)), device=self.newline.device)))

    def signals(self) -> dict[str, Tensor]:
        """``left_out``: samples that taught nothing since the run, or its resumption, began."""
        return {"left_out": torch.tensor(float(self.left_out))}

    def to_tokens(self, patches: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Patches [n, h, w, D] to tokens [n, h, w, E] each, and a zero that depends on every parameter on the way.

        Ranks see different numbers of things; the projector runs once on all of them, and where there are none.
        """
        flat = [each.flatten(0, 2) for each in patches]
        nothing = torch.zeros(1, self.context.backbone.hidden_size, device=self.newline.device)
        counts = [*(len(each) for each in flat), 1]
        *found, last = self.projector(torch.cat([*flat, nothing])).split(counts)
        grids = [tokens.unflatten(0, each.shape[:3]) for tokens, each in zip(found, patches, strict=True)]
        return grids, 0.0 * (last.float().sum() + self.newline.sum())


Trained = TypeVar("Trained", bound=LanguageTask)


def load_trained(kind: type[Trained], run: str | Path, backbone: str | None) -> tuple[Trained, FrozenBackbone]:
    """The model of a run that has ended, in evaluation mode on the CPU, and the very backbone that it was trained on.

    The language model's and the tokenizer's folders must still be where they were; ``backbone``: where the backbone
    lies now, if it was moved. Raises ValueError for a run without such a task, for files that are missing and for a
    backbone that is another one.
    """
    folder = Path(run)
    said, weights = folder / "heads" / f"{kind.name}.json", folder / "heads" / f"{kind.name}.safetensors"
    if not said.is_file():
        raise ValueError(f"{folder}: {_lacks(folder, kind)}")
    if not weights.is_file():
        raise ValueError(f"{weights}: no such file; {said} says that it was there: copy the whole run")
    try:
        options: Any = kind.Options.model_validate_json(said.read_text(encoding="utf-8"))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise ValueError(f"{said}: not the options of a {kind.name}: {wrong}") from None
    frozen = load_reference(folder / REFERENCE, backbone)
    with torch.random.fork_rng():
        task = kind(options, TaskContext(frozen.config, seed=0))
    try:
        task.load_state_dict(load_file(weights), strict=True)
    except RuntimeError as error:
        raise ValueError(f"{weights}: not the weights of this model: {str(error).splitlines()[-1].strip()}") from None
    task.recall.limit = 0  # a model in use sees what it never saw before
    return task.eval().requires_grad_(False), frozen


def _lacks(folder: Path, kind: type[LanguageTask]) -> str:
    """Why no such model can be read from ``folder``, and where there is one."""
    if not folder.is_dir():
        return f"no such folder; give {kind.home}"
    tasks = _tasks_of(folder / RECIPE)
    if kind.name in tasks:
        return f"no heads/{kind.name}.json, which is written when training ends; go on with --resume"
    found = f", but is a run of {', '.join(tasks)}" if tasks else ""
    return f"holds no {kind.name.upper()}{found}; give {kind.home}"


def _tasks_of(recipe: Path) -> list[str]:
    """The names of a run's tasks; none of what is no run's recipe."""
    try:
        read = yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else None
    except (yaml.YAMLError, UnicodeDecodeError):
        return []
    tasks = read.get("tasks") if isinstance(read, dict) else None
    return list(tasks) if isinstance(tasks, dict) else []
