"""The demo decoder's tokenizer: SentencePiece, trained on what the demo says of its training rooms, and on numbers."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from .prepared import write_whole

VOCABULARY = 1024  # at most: enough for every word of the demo, and 256 bytes with which any text round-trips
NUMBERS = 65  # 0 to 64 are words of their own: sides of boxes are written with them
PAD, UNKNOWN, BEGIN, END = 0, 1, 2, 3


def train_tokenizer(texts: Iterable[str], file: Path) -> None:
    """Write a SentencePiece model to ``file``; it appears whole or not at all. The same texts give the same bytes."""
    import sentencepiece

    lines = sorted(set(texts) | {" ".join(str(number) for number in range(NUMBERS))})
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
    write_whole(file, model.getvalue())
