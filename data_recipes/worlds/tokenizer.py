"""The demo decoder's tokenizer: SentencePiece, trained on what the demo says of its training rooms."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

VOCABULARY = 512  # 256 of it are bytes, so that any text round-trips
PAD, UNKNOWN, BEGIN, END = 0, 1, 2, 3


def train_tokenizer(texts: Iterable[str], file: Path) -> None:
    """Write a SentencePiece model to ``file``; it appears whole or not at all. The same texts give the same bytes."""
    import sentencepiece

    # The corpus as (line, occurrences) would do; sentencepiece wants lines, and each distinct one once is enough.
    lines = sorted(set(texts))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        pad_id=PAD,
        unk_id=UNKNOWN,
        bos_id=BEGIN,
        eos_id=END,
        num_threads=1,
        minloglevel=2,
    )
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(model.getvalue())
    partial.replace(file)
