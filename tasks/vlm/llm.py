"""Any causal language model of ``transformers``: built, trained on answers, asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..captioning.decoder import build_decoder
from ..captioning.options import DecoderShape
from ..captioning.tokenizer import Tokenizer
from .chat import VISUAL, Row
from .exported import exported_llm, is_exported

#: Fields of a config that mean work between the last matrix and the logits, which :func:`answer_loss` leaves out.
_UNREAD = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def build_llm(llm: str | DecoderShape, tokenizer: Tokenizer) -> Any:
    """A causal language model with float32 parameters: a folder's, that of an exported VLM, or new, of random weights.

    ValueError for a folder without one, a vocabulary smaller than the tokenizer's, or one whose logits are processed.
    """
    if isinstance(llm, DecoderShape):
        return build_decoder(llm, tokenizer)
    if is_exported(llm):
        return exported_llm(Path(llm))
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(llm, local_files_only=True)
    if config.vocab_size < tokenizer.size:
        raise ValueError(f"llm {llm}: its vocabulary of {config.vocab_size} is smaller than the tokenizer's")
    if odd := [name for name in _UNREAD if getattr(config, name, None) not in (None, 1.0)]:
        raise ValueError(f"llm {llm}: {', '.join(odd)} changes its logits, which training here would leave out")
    # On the meta device, where parameters are only counted, no weights are read: transformers refuses to.
    if torch.get_default_device().type == "meta":
        return AutoModelForCausalLM.from_config(config)
    # float32 whatever the file has: the parameters are the optimizer's masters.
    return AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32, local_files_only=True)


def embed(llm: Any, rows: Sequence[Row], visual: Sequence[Tensor]) -> list[Tensor]:
    """Each row's inputs [L, E], the visual tokens [V, E] in their place."""
    embedding = llm.get_input_embeddings()
    lengths = [len(row.tokens) for row in rows]
    numbers = [token for row in rows for token in row.tokens]
    flat = torch.tensor(numbers, device=embedding.weight.device).clamp(min=0)
    found = []
    for row, embedded, seen in zip(rows, embedding(flat).split(lengths), visual, strict=True):
        if VISUAL in row.tokens:
            at = row.tokens.index(VISUAL)
            embedded = torch.cat((embedded[:at], seen.to(embedded.dtype), embedded[at + 1 :]))
        found.append(embedded)
    return found


def last_hidden(llm: Any, inputs: Sequence[Tensor]) -> Tensor:
    """The last hidden state [R, L, E] of rows of inputs [l, E] each.

    Rows are padded on the right, where causal attention cannot see it.
    """
    padded = torch.nn.utils.rnn.pad_sequence(list(inputs), batch_first=True)
    hidden: Tensor = llm.base_model(inputs_embeds=padded, use_cache=False).last_hidden_state
    return hidden


def answer_loss(llm: Any, rows: Sequence[Row], visual: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every learned token given all before it: losses [A], and the row of each [A].

    Without a learned token both are empty.
    """
    hidden = last_hidden(llm, embed(llm, rows, visual))
    owner: list[int] = []
    place: list[int] = []
    target: list[int] = []
    for index, (row, seen) in enumerate(zip(rows, visual, strict=True)):
        shift = 0
        for position, (token, learned) in enumerate(zip(row.tokens, row.learned, strict=True)):
            if learned:
                owner.append(index)
                place.append(position + shift - 1)
                target.append(token)
            shift += (len(seen) - 1) * (token == VISUAL)
    at = torch.tensor([owner, place, target], dtype=torch.int64, device=hidden.device)
    # Logits of answers only: a vocabulary of 150,000 over every visual token would be most of the memory.
    logits = llm.get_output_embeddings()(hidden[at[0], at[1]])
    return cross_entropy(logits.float(), at[2], reduction="none"), at[0]


@torch.no_grad()
def generate(
    llm: Any, rows: Sequence[Row], visual: Sequence[Tensor], tokenizer: Tokenizer, limit: int
) -> list[list[int]]:
    """The most likely answer to each row, token by token: at most ``limit`` tokens, without the end."""
    inputs = embed(llm, rows, visual)
    longest = max(len(each) for each in inputs)
    padded = torch.stack([torch.cat((each.new_zeros(longest - len(each), each.shape[1]), each)) for each in inputs])
    mask = torch.stack([(torch.arange(longest) >= longest - len(each)).long() for each in inputs]).to(padded.device)
    found = llm.generate(
        inputs_embeds=padded,
        attention_mask=mask,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=1.0,
        max_new_tokens=limit,
        eos_token_id=tokenizer.eos,
        pad_token_id=tokenizer.pad,
    ).tolist()
    ends = [row.index(tokenizer.eos) if tokenizer.eos in row else len(row) for row in found]
    return [row[:end] for row, end in zip(found, ends, strict=True)]
