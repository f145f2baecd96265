"""A tiny vision-language model: SentencePiece or a chat template, a backbone whose every block matters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from language import SHAPE

from interlace.backbone import Backbone, BackboneConfig, FrozenBackbone
from interlace.data_recipes import Sample, Text
from interlace.tasks.interface import TaskContext
from interlace.tasks.vlm import Vlm, VlmOptions

BACKBONE = BackboneConfig(hidden_size=32, depth=2, heads=2, mlp_size=64, patch_size=8, registers=1, layer_scale=1.0)
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_template_tokenizer(folder: Path, template: str | None = TEMPLATE) -> Path:
    """A byte-level BPE tokenizer as ``transformers`` saves it, with ChatML's template and special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    inner.train_from_iterator(["a red box left of a blue ball", "what colour is the box?\nassistant user"] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def options(tokenizer: Path, **changes: Any) -> VlmOptions:
    given = {"size": 32, "llm": SHAPE, "tokenizer": str(tokenizer), "max_tokens": 400, "max_generated": 4, **changes}
    return VlmOptions.model_validate_json(json.dumps(given))


def build(tokenizer: Path, **changes: Any) -> tuple[Vlm, FrozenBackbone]:
    """Weights are large enough that images matter."""
    torch.manual_seed(0)
    task, backbone = Vlm(options(tokenizer, **changes), TaskContext(BACKBONE, seed=3)), Backbone(BACKBONE)
    with torch.no_grad():
        for parameter in (*task.parameters(), *backbone.parameters()):
            if parameter.ndim > 1:
                parameter.mul_(3)
    return task, FrozenBackbone.of(backbone)


def sample(number: int, frames: int = 1, shape: tuple[int, int] = (40, 56), texts: list[Text] | None = None) -> Sample:
    rng = np.random.default_rng(number)
    asked = Text(kind="colour", prompt="Where is it?", answer="left of a mug", frame=max(frames - 1, 0))
    return Sample(
        key=f"s/scene-{number}/0",
        source="s",
        frames=rng.integers(0, 255, (frames, *shape, 3)).astype(np.uint8),
        times=np.arange(frames, dtype=np.float64),
        texts=[asked] if texts is None else texts,
    )
