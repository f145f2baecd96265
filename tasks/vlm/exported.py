"""What ``interlace export`` wrote of a vision-language model, read back."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from interlace.backbone.folder import EXPORTED_VLM, read_json, read_weights
from interlace.backbone.locate import CONFIG

#: Files beside its config and weights.
PROCESSOR, GENERATION = "processor_config.json", "generation_config.json"
#: What the names of the language model's weights begin with.
LLM = "llm."


def is_exported(folder: str | Path) -> bool:
    """Whether an exported vision-language model lies there."""
    try:
        fields = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(fields, dict) and fields.get("model_type") == EXPORTED_VLM


def field(folder: Path, file: str, name: str) -> Any:
    """A field of one of its JSON files. ValueError where file or field are missing."""
    if not (folder / file).is_file():
        raise ValueError(f"{folder / file}: no such file; copy the whole folder that was exported")
    fields = read_json(folder / file)
    if name not in fields:
        raise ValueError(f"{folder / file}: no {name!r}; an exported vision-language model says it there")
    return fields[name]


def weights_of(folder: Path) -> dict[str, Tensor]:
    """All its weights, float32. ValueError for a file that is missing."""
    return {name: tensor.float() for name, tensor in read_weights(folder).items()}


def exported_llm(folder: Path) -> Any:
    """Its language model. ValueError for weights that are missing or left over."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**field(folder, CONFIG, "text_config"))
    llm = AutoModelForCausalLM.from_config(config)
    if next(llm.parameters()).is_meta:
        return llm  # where parameters are only counted
    own = {name.removeprefix(LLM): weight for name, weight in weights_of(folder).items() if name.startswith(LLM)}
    raise_on_misfit(folder, llm.float().load_state_dict(own, strict=False), LLM, tied_names(llm))
    return llm


def tied_names(llm: Any) -> set[str]:
    """The names of the output embedding where it is the input's: such weights are written once, by the other name."""
    outputs = llm.get_output_embeddings().weight
    if llm.get_input_embeddings().weight is not outputs:
        return set()
    return {name for name, weight in llm.named_parameters(remove_duplicate=False) if weight is outputs}


def raise_on_misfit(folder: Path, loaded: Any, prefix: str = "", known: Collection[str] = ()) -> None:
    """ValueError for weights that ``load_state_dict`` missed, beside ``known`` ones, or found and could not place."""
    missing = [f"missing {prefix}{name}" for name in loaded.missing_keys if name not in known]
    if wrong := missing + [f"left over {prefix}{name}" for name in loaded.unexpected_keys]:
        raise ValueError(f"{folder}: weights do not fit the config: {', '.join(wrong)}")
