"""One face for the two kinds of tokenizer that recipes name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol


class Tokenizer(Protocol):
    """Text to token numbers and back. ``bos``, ``eos`` and ``pad`` are token numbers, never part of ``encode``.

    A tokenizer without a token for the start or for padding uses ``eos`` there: padding is never looked at.
    """

    size: int  # tokens are 0 ... size - 1
    bos: int
    eos: int
    pad: int
    unknown: int | None  # stands for what the tokenizer cannot write; None if it can write everything

    def encode(self, text: str) -> list[int]: ...
    def decode(self, tokens: list[int]) -> str: ...


def read_tokenizer(path: str) -> Tokenizer:
    """The tokenizer in a ``transformers`` folder, or in a SentencePiece ``.model`` file.

    ValueError if there is neither, or if it has no token for the end of a text.
    """
    if Path(path).is_dir():
        from transformers import AutoTokenizer  # takes seconds that checking a recipe should not

        # Never a look at the network: a wrong path must not become the name of somebody's repository.
        return FolderTokenizer(AutoTokenizer.from_pretrained(path, local_files_only=True), path)
    if path.endswith(".model") and Path(path).is_file():
        return _SentencePieceTokenizer(path)
    raise ValueError(
        f"tokenizer {path}: neither a folder that transformers' save_pretrained wrote nor a SentencePiece .model file"
    )


class FolderTokenizer:
    """A tokenizer of ``transformers``, which ``path`` names in errors."""

    def __init__(self, inner: Any, path: str) -> None:
        self.inner = inner
        self.size = len(self.inner)
        self.eos = _end(self.inner.eos_token_id, path)
        self.bos = self.eos if self.inner.bos_token_id is None else self.inner.bos_token_id
        self.pad = self.eos if self.inner.pad_token_id is None else self.inner.pad_token_id
        self.unknown = self.inner.unk_token_id

    def encode(self, text: str) -> list[int]:
        return list(self.inner.encode(text, add_special_tokens=False))

    def decode(self, tokens: list[int]) -> str:
        return str(self.inner.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class _SentencePieceTokenizer:
    def __init__(self, path: str) -> None:
        # By its name: transformers refuses exported code that imports a package which is not there.
        self.inner: Any = importlib.import_module("sentencepiece").SentencePieceProcessor(model_file=path)
        self.size = self.inner.get_piece_size()
        self.eos = _end(self.inner.eos_id() if self.inner.eos_id() >= 0 else None, path)
        self.bos = self.inner.bos_id() if self.inner.bos_id() >= 0 else self.eos
        self.pad = self.inner.pad_id() if self.inner.pad_id() >= 0 else self.eos
        self.unknown: int | None = self.inner.unk_id()

    def encode(self, text: str) -> list[int]:
        return list(self.inner.encode(text))

    def decode(self, tokens: list[int]) -> str:
        return str(self.inner.decode(tokens))


def _end(token: int | None, path: str) -> int:
    if token is None:
        raise ValueError(f"tokenizer {path}: it has no end-of-text token, so no answer could ever end; add one")
    return token
