"""Writing the folder of an exported vision-language model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from interlace.backbone import Backbone
from interlace.backbone.export import flatten
from interlace.backbone.export.folder import class_in, write_json
from interlace.backbone.folder import share

from ..chat import PlainChat
from ..task import Vlm
from .tokenizer import write_tokenizer

_CONFIGURATION, _MODEL, _PROCESSOR = (
    f"{__package__}.{kind}_interlace_vlm" for kind in ("configuration", "modeling", "processing")
)
#: What a language model's own config says of where it came from, which may be somebody's folder.
_PRIVATE = ("_name_or_path", "name_or_path")
#: Larger files than this are awkward to move.
SHARD = "5GB"


def write_vlm(task: Vlm, backbone: Backbone, folder: Path, *, licence: str, llm_licence: str) -> None:
    """Write config, weights (float32), code, tokenizer and processor into a folder that is there.

    ``licence``: of backbone and projector; ``llm_licence``: of the language model. Raises ValueError for a tokenizer
    that cannot be written so that it gives the same tokens.
    """
    from huggingface_hub import save_torch_state_dict

    sight, language = asdict(task.sight), {**task.llm.config.to_dict()}
    fields = {
        "model_type": "interlace_vlm",
        "architectures": ["InterlaceVlm"],
        "auto_map": {
            "AutoConfig": class_in(_CONFIGURATION, "InterlaceVlmConfig"),
            "AutoModel": class_in(_MODEL, "InterlaceVlm"),
            "AutoModelForCausalLM": class_in(_MODEL, "InterlaceVlm"),
        },
        "interlace": backbone.config.to_json(),
        "sight": sight,
        "text_config": {name: value for name, value in language.items() if name not in _PRIVATE},
        "dtype": "float32",
        "licence": licence,
        "llm_licence": llm_licence,
    }
    write_json(folder / "config.json", fields)
    save_torch_state_dict(weights(task, backbone), folder, max_shard_size=SHARD, metadata={"format": "pt"})
    for file in folder.glob("*.safetensors"):
        share(file)
    write_tokenizer(task.chat.tokenizer, folder)
    processor = {
        "processor_class": "InterlaceVlmProcessor",
        "auto_map": {"AutoProcessor": class_in(_PROCESSOR, "InterlaceVlmProcessor")},
        "sight": sight,
        "plain": isinstance(task.chat, PlainChat),
    }
    write_json(folder / "processor_config.json", processor)
    tokenizer = task.chat.tokenizer
    generation = {
        "do_sample": False,
        "max_new_tokens": task.options.max_generated,
        "eos_token_id": tokenizer.eos,
        "pad_token_id": tokenizer.pad,
    }
    write_json(folder / "generation_config.json", generation)
    for name, text in flatten([_CONFIGURATION, _MODEL, _PROCESSOR]).items():
        (folder / name).write_text(text, encoding="utf-8")


def weights(task: Vlm, backbone: Backbone) -> dict[str, Tensor]:
    """All that the exported model's state holds, each tensor once: tied ones by the name of the input embedding."""
    state = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    state |= task.state_dict()
    inputs, outputs = task.llm.get_input_embeddings().weight, task.llm.get_output_embeddings().weight
    if inputs is outputs:
        tied = next(name for name, tensor in task.named_parameters(remove_duplicate=False) if tensor is outputs)
        same = [name for name, tensor in state.items() if tensor.data_ptr() == outputs.data_ptr() and name != tied]
        state = {name: tensor for name, tensor in state.items() if name not in same}
    return {name: tensor.detach().cpu().float().contiguous() for name, tensor in state.items()}
