"""Conversations as tokens: what is read, what is learned, and where the image goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..captioning.tokenizer import Tokenizer, read_tokenizer

#: Stands in a row of token numbers where the visual tokens go.
VISUAL = -1
_MARK = "<|interlace visual tokens|>"


@dataclass
class Row:
    """``tokens`` of a conversation, with at most one :data:`VISUAL` among them; ``learned``: those of answers."""

    tokens: list[int] = field(default_factory=list)
    learned: list[bool] = field(default_factory=list)

    def add(self, tokens: Sequence[int], *, learned: bool) -> None:
        self.tokens += tokens
        self.learned += [learned] * len(tokens)

    def length(self, visual: int) -> int:
        """Tokens with ``visual`` ones in their place."""
        return len(self.tokens) + (visual - 1) * self.tokens.count(VISUAL)


class Chat(Protocol):
    """How a language model is talked to."""

    tokenizer: Tokenizer

    def row(self, turns: Sequence[tuple[str, str | None]], *, visual: bool) -> Row:
        """A conversation of (prompt, answer) turns; the last answer is None where it is to be generated.

        An answer's tokens, the one that ends it included, are learned; nothing else is. With ``visual`` the visual
        tokens and a line break come before the first prompt.
        """
        ...


class PlainChat:
    """For tokenizers without special tokens: start, visual tokens, prompt and a line break, answer and end-of-text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def row(self, turns: Sequence[tuple[str, str | None]], *, visual: bool) -> Row:
        row = Row()
        row.add([self.tokenizer.bos, *[VISUAL] * visual], learned=False)
        for prompt, answer in turns:
            row.add(self.tokenizer.encode(prompt + "\n"), learned=False)
            if answer is not None:
                row.add([*self.tokenizer.encode(answer), self.tokenizer.eos], learned=True)
        return row


class TemplateChat:
    """For tokenizers of ``transformers``, by their own chat template. ValueError for one that has none."""

    def __init__(self, tokenizer: Tokenizer, inner: Any, path: str) -> None:
        if not inner.chat_template:
            raise ValueError(f"tokenizer {path}: it has no chat template; take that of an instruction-tuned model")
        self.tokenizer, self._inner, self._path = tokenizer, inner, path

    def row(self, turns: Sequence[tuple[str, str | None]], *, visual: bool) -> Row:
        row, messages, done = Row(), list[dict[str, str]](), ""
        for number, (prompt, answer) in enumerate(turns):
            shown = f"{_MARK}\n{prompt}" if visual and number == 0 else prompt
            messages.append({"role": "user", "content": shown})
            asked = self._continued(done, messages, ask=True)
            before, mark, after = asked[len(done) :].partition(_MARK)
            row.add(self.tokenizer.encode(before), learned=False)
            row.add([VISUAL] if mark else [], learned=False)
            row.add(self.tokenizer.encode(after) if after else [], learned=False)
            if answer is None:
                break
            messages.append({"role": "assistant", "content": answer})
            done = self._continued(asked, messages, ask=False)
            said, end, rest = done[len(asked) :].rpartition(self._inner.eos_token)
            if not end:
                raise ValueError(f"tokenizer {self._path}: its template does not end an answer with its end-of-text")
            row.add(self.tokenizer.encode(said + end), learned=True)
            row.add(self.tokenizer.encode(rest) if rest else [], learned=False)
        return row

    def _continued(self, done: str, messages: list[dict[str, str]], *, ask: bool) -> str:
        text = str(self._inner.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask))
        if not text.startswith(done):
            raise ValueError(f"tokenizer {self._path}: its template changes earlier turns when others follow")
        return text


def read_chat(path: str) -> Chat:
    """The chat of a ``transformers`` tokenizer's folder, or of a SentencePiece ``.model`` file."""
    tokenizer = read_tokenizer(path)
    return PlainChat(tokenizer) if _is_plain(Path(path)) else TemplateChat(tokenizer, tokenizer.inner, path)  # type: ignore[attr-defined]


def _is_plain(path: Path) -> bool:
    """Whether it is SentencePiece, or became a folder when a model with SentencePiece was exported."""
    said = path / "processor_config.json"
    return not path.is_dir() or (said.is_file() and bool(json.loads(said.read_text(encoding="utf-8")).get("plain")))
