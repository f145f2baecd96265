"""A run's tokenizer in transformers' form, which needs no SentencePiece; it gives the same tokens or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...captioning.tokenizer import FolderTokenizer, Tokenizer

#: SentencePiece's ``ModelType`` of byte-pair encoding.
_BPE = 2
#: Its type of a piece of text, of one that stands for no text, and of one for a byte.
_NORMAL, _CONTROL, _BYTE = 1, 3, 6
#: Texts on which a SentencePiece model and what was made of it are compared, beside all of its own pieces.
TRIED = (
    "",
    " ",
    "what colour is the box?\n",
    "  two  spaces \t and a tab",
    "one\ntwo\n\nthree",
    "Größe, naïve café, 12345, a-b_c.d",
    "你好 🙂 e\u0301 ﬁ ½",
    "<s> </s> <unk> <pad> <0x41>",
    "▁▁ x",
)


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write ``tokenizer.json`` and what belongs to it.

    Raises ValueError for a SentencePiece model of a kind that cannot be written so that it gives the same tokens.
    """
    if isinstance(tokenizer, FolderTokenizer):
        tokenizer.inner.save_pretrained(folder)
        return
    processor: Any = tokenizer.inner  # type: ignore[attr-defined]
    made = converted(processor)
    for text in _tried(processor):
        wanted, found = list(processor.encode(text)), made.encode(text, add_special_tokens=False)
        back = made.decode(wanted, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if wanted != found or back.strip() != processor.decode(wanted).strip():
            raise ValueError(
                f"tokenizer: as one of transformers it would treat {text!r} otherwise; a SentencePiece model that is "
                "exported must be BPE with byte_fallback"
            )
    made.save_pretrained(folder)


def _tried(processor: Any) -> Iterator[str]:
    yield from TRIED
    pieces = [processor.id_to_piece(number).replace("▁", " ") for number in range(processor.get_piece_size())]
    yield from pieces
    yield from ("".join(pieces[start : start + 7]) for start in range(0, len(pieces), 7))


def converted(processor: Any) -> Any:
    """A fast tokenizer of transformers that does what a SentencePiece model does.

    Raises ValueError for a model that is not BPE.
    """
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Regex, decoders, models, normalizers
    from tokenizers import Tokenizer as Fast
    from transformers import PreTrainedTokenizerFast

    model: Any = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(processor.serialized_model_proto())
    if model.trainer_spec.model_type != _BPE:
        raise ValueError("tokenizer: a SentencePiece model that is exported must be BPE with byte_fallback")
    numbers = {piece.piece: number for number, piece in enumerate(model.pieces)}
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == _NORMAL}
    fallback = any(piece.type == _BYTE for piece in model.pieces)
    unknown = processor.id_to_piece(processor.unk_id())
    made = models.BPE(numbers, _merges(scores, numbers), unk_token=unknown, fuse_unk=True, byte_fallback=fallback)
    inner = Fast(made)
    rules, spec = [], model.normalizer_spec
    if spec.precompiled_charsmap:
        rules.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        rules += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    rules += [normalizers.Prepend("▁")] * bool(spec.add_dummy_prefix) + [normalizers.Replace(" ", "▁")]
    inner.normalizer = normalizers.Sequence(rules)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    controls = [piece.piece for piece in model.pieces if piece.type == _CONTROL]
    inner.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in controls])
    ids = {"bos": processor.bos_id(), "eos": processor.eos_id(), "unk": processor.unk_id(), "pad": processor.pad_id()}
    named = {f"{name}_token": processor.id_to_piece(number) for name, number in ids.items() if number >= 0}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, clean_up_tokenization_spaces=False, split_special_tokens=True, **named
    )


def _merges(scores: dict[str, float], numbers: dict[str, int]) -> list[tuple[str, str]]:
    """The pairs that become each piece, the most likely piece first."""
    found = []
    for piece, score in scores.items():
        halves = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        known = [pair for pair in halves if pair[0] in scores and pair[1] in scores]
        found += [(-score, numbers[left], numbers[right], left, right) for left, right in known]
    return [(left, right) for *_, left, right in sorted(found)]
