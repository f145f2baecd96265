"""The language decoder: building it, its loss on answers, and greedy answers.

``transformers`` is imported where a decoder is built: it takes seconds that checking a recipe should not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .options import DecoderShape
from .texts import Row
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import Qwen3Config, Qwen3ForCausalLM


def build_decoder(decoder: str | DecoderShape, tokenizer: Tokenizer) -> Qwen3ForCausalLM:
    """A Qwen3 with float32 parameters: read from a ``transformers`` folder, or new with random weights.

    ValueError if the folder holds another kind of model, or a vocabulary smaller than the tokenizer's.
    """
    from transformers import AutoConfig, Qwen3ForCausalLM

    if isinstance(decoder, str):
        config = AutoConfig.from_pretrained(decoder, local_files_only=True)
        if config.model_type != "qwen3":
            raise ValueError(f"decoder {decoder}: a {config.model_type} model; captioning takes qwen3")
    else:
        config = _config(decoder, tokenizer)
    if config.vocab_size < tokenizer.size:
        raise ValueError(
            f"decoder: its vocabulary of {config.vocab_size} is smaller than the tokenizer's {tokenizer.size}"
        )
    # On the meta device, where parameters are only counted, no weights are read: transformers refuses to.
    if isinstance(decoder, str) and torch.get_default_device().type != "meta":
        # float32 whatever the file has: the parameters are the optimizer's masters.
        return Qwen3ForCausalLM.from_pretrained(decoder, dtype=torch.float32, local_files_only=True)
    return Qwen3ForCausalLM(config)


def _config(shape: DecoderShape, tokenizer: Tokenizer) -> Qwen3Config:
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=shape.vocabulary_size or tokenizer.size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.mlp_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads or shape.heads,
        head_dim=shape.head_size or shape.hidden_size // shape.heads,
        rope_theta=1e6,  # Qwen3's
        tie_word_embeddings=shape.tie_embeddings,
        initializer_range=0.64 / math.sqrt(shape.hidden_size),  # Qwen3's 0.02 at the width of its smallest
        bos_token_id=tokenizer.bos,
        eos_token_id=tokenizer.eos,
    )


def check_folder(folder: str) -> str | None:
    """What is missing for ``folder`` to hold a decoder, or None."""
    path = Path(folder)
    if not (path / "config.json").is_file():
        return "allowed is the folder of a transformers Qwen3 model; there is no config.json in this one"
    if not (any(path.glob("*.safetensors")) or any(path.glob("*.bin"))):
        return "allowed is the folder of a transformers Qwen3 model; there are no weights (*.safetensors) in this one"
    return None


def projector(features: int, embedding: int) -> nn.Sequential:
    """Visual tokens to the decoder's embeddings: two layers with GELU between."""
    return nn.Sequential(nn.Linear(features, embedding), nn.GELU(), nn.Linear(embedding, embedding))


def answer_loss(decoder: Any, visual: Tensor, tokens: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every answer token given the visual tokens and all earlier text (OmniStream equation 9).

    ``visual`` [R, V, E] comes before ``tokens`` [R, L] int64, which are padded on the right: under causal attention no
    real token sees padding, so no attention mask is needed and positions count from the first visual token.
    ``answer`` [R, L] bool marks the tokens to predict; V or 1 token must come before the first of them.

    Returns the losses [A], at least float32, and the row of each [A] int64, in row order.
    """
    inputs = torch.cat((visual, decoder.get_input_embeddings()(tokens)), dim=1)
    hidden = decoder.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    row, at = answer.nonzero(as_tuple=True)
    # Logits of answer tokens only: a vocabulary of 150,000 over every visual token would be most of the memory.
    logits = decoder.lm_head(hidden[row, visual.shape[1] + at - 1])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return cross_entropy(logits, tokens[row, at], reduction="none"), row


def greedy(
    decoder: Any, visual: Tensor, prompts: Sequence[Sequence[int]], *, eos: int, pad: int, limit: int
) -> list[list[int]]:
    """The most likely answer, token by token, to each prompt: at most ``limit`` tokens, without ``eos``.

    ``visual`` [R, V, E]; ``prompts``: R lists of at least one token. Keys and values are cached. Prompts of different
    lengths are padded on the right and the padding masked, so a row's answer does not depend on the others.
    """
    device = visual.device
    tokens, real = pad_rows(prompts, pad)
    tokens, real = tokens.to(device), real.to(device)
    inputs = torch.cat((visual, decoder.get_input_embeddings()(tokens)), dim=1)
    mask = torch.cat((real.new_ones(visual.shape[:2]), real), dim=1)
    length = mask.sum(1)
    state = decoder.model(
        inputs_embeds=inputs, attention_mask=mask.long(), position_ids=_positions(mask), use_cache=True
    )
    last = state.last_hidden_state[torch.arange(len(length), device=device), length - 1]
    done = torch.zeros(len(length), dtype=torch.bool, device=device)
    answers: list[Tensor] = []
    for step in range(limit):
        chosen = decoder.lm_head(last).argmax(-1).masked_fill(done, eos)
        answers.append(chosen)
        done |= chosen == eos
        if done.all() or step + 1 == limit:
            break
        mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=1)
        state = decoder.model(
            inputs_embeds=decoder.get_input_embeddings()(chosen)[:, None],
            attention_mask=mask.long(),
            position_ids=(length + step)[:, None],
            past_key_values=state.past_key_values,
            use_cache=True,
        )
        last = state.last_hidden_state[:, 0]
    return [row[: row.index(eos)] if eos in row else row for row in torch.stack(answers, 1).tolist()]


def _positions(mask: Tensor) -> Tensor:
    """[R, L] int64: a token's place among its row's real tokens; padding repeats the last."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def pad_rows(rows: Sequence[Sequence[int]], pad: int, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Rows of different lengths, padded on the right: [R, L] int64, and which tokens are real: [R, L] bool."""
    longest = max([len(row) for row in rows], default=0) if length is None else length
    tokens = torch.full((len(rows), longest), pad, dtype=torch.int64)
    real = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
        real[index, : len(row)] = True
    return tokens, real


def no_visual(decoder: Any, rows: int) -> Tensor:
    """No visual tokens, for ``rows`` rows: [R, 0, E]."""
    weight = decoder.get_input_embeddings().weight
    return weight.new_zeros((rows, 0, weight.shape[1]))


def batch_rows(rows: Sequence[Row], pad: int) -> tuple[Tensor, Tensor]:
    """[R, L] int64 tokens, prompt then answer, padded on the right; [R, L] bool, which are the answer's."""
    tokens, real = pad_rows([[*row.prompt, *row.answer] for row in rows], pad)
    prompt = torch.tensor([len(row.prompt) for row in rows], dtype=torch.int64)[:, None]
    return tokens, real & (torch.arange(tokens.shape[1])[None] >= prompt)
