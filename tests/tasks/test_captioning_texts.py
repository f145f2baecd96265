from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from language import options, sample, text, write_tokenizer
from pydantic import ValidationError
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from interlace.data_recipes import DataError
from interlace.tasks.captioning.boxes import box_score, iou, place_boxes, read_boxes, write_box
from interlace.tasks.captioning.texts import draw_texts, question, questions_of
from interlace.tasks.captioning.tokenizer import read_tokenizer


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def write_folder(folder: Path, **special: str) -> Path:
    words = ["<unk>", "<end>", "<start>", "a", "red", "mug", "\n"]
    rust = RustTokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    rust.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=rust, unk_token="<unk>", **special).save_pretrained(folder)
    return folder


def test_sentencepiece_tokenizer(model_file: Path) -> None:
    tokenizer = read_tokenizer(str(model_file))
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.unknown) == (1, 2, 3, 0)
    tokens = tokenizer.encode("a red mug left of a blue box 3 10 27 31")
    assert not {0, 1, 2, 3} & set(tokens)
    assert max(tokens) < tokenizer.size
    assert tokenizer.decode(tokens) == "a red mug left of a blue box 3 10 27 31"
    assert pickle.loads(pickle.dumps(tokenizer)).encode("a red mug") == tokenizer.encode("a red mug")


def test_transformers_tokenizer(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "full", eos_token="<end>", bos_token="<start>", pad_token="<unk>")
    tokenizer = read_tokenizer(str(folder))
    assert (tokenizer.size, tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.unknown) == (7, 2, 1, 0, 0)
    assert tokenizer.encode("a red mug") == [3, 4, 5]
    assert tokenizer.decode([3, 4, 5, 1]) == "a red mug"
    plain = read_tokenizer(str(write_folder(tmp_path / "plain", eos_token="<end>")))
    assert (plain.bos, plain.eos, plain.pad) == (1, 1, 1)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a folder"):
        read_tokenizer(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="no end-of-text token"):
        read_tokenizer(str(write_folder(tmp_path / "endless")))


def test_boxes_as_text() -> None:
    assert write_box(np.array([0.0, 0.5, 0.96, 1.0]), 16) == "0 8 15 16"
    assert write_box(np.array([0.0, 0.5, 0.9994, 1.0]), 1000) == "0 500 999 1000"
    rng = np.random.default_rng(0)
    for bins in (2, 16, 100, 1000):
        boxes = np.sort(rng.random((50, 2, 2)), axis=1).reshape(50, 4)
        read = read_boxes(" and ".join(write_box(box, bins) for box in boxes), bins)
        wide = (boxes[:, 2:] - boxes[:, :2]).min(1) * bins > 1
        assert np.abs(read - boxes)[wide].max() <= 0.5 / bins + 1e-12
        assert np.abs(read - boxes).max() <= 1 / bins
    assert write_box(np.array([0.5, 1.0, 0.5, 1.0]), 16) == "8 15 9 16"


def test_only_true_boxes_are_read() -> None:
    assert len(read_boxes("1 2 3, 1 2 3 4 5, 1.2 3 4 5 5, a 5 5 4 6 b, 5 5 5 6, 1 1 17 2", 16)) == 0
    assert read_boxes("a mug 1 2 3 16 left of 0 0 1 1.", 16).tolist() == [
        [1 / 16, 2 / 16, 3 / 16, 1],
        [0, 0, 1 / 16, 1 / 16],
    ]


def test_boxes_find_their_places() -> None:
    boxes = [[0, 0, 0.5, 0.5], [0.25, 0.25, 1, 1]]
    one, two = "0 0 2 2", "1 1 4 4"
    assert place_boxes(text("grounding", "Where?", "", 0, boxes), 4) == ("Where?", f"{one}, {two}")
    assert place_boxes(text("grounding", "Where?", "its own way", 0, boxes), 4) == ("Where?", f"{one}, {two}")
    assert place_boxes(text("grounding", "See", "a <box>, b <box>", 0, boxes), 4)[1] == f"a {one}, b {two}"
    assert place_boxes(text("grounding", "What is at <box>?", "", 0, boxes), 4) == (f"What is at {one}?", two)
    assert place_boxes(text("grounding", "What is <box>?", "a mug", 0, boxes[:1]), 4) == (f"What is {one}?", "a mug")
    assert place_boxes(text("caption", "See", "a mug", 0, boxes), 4) == ("See", "a mug")
    for broken in (text("caption", "<box>?", "a mug"), text("grounding", "See", "a <box>", 0, boxes)):
        with pytest.raises(ValueError, match=r"times <box>, but \d boxes"):
            place_boxes(broken, 4)


def test_iou() -> None:
    a, b = np.array([0.0, 0, 2, 2]), np.array([1.0, 1, 3, 3])
    assert iou(a, b) == pytest.approx(1 / 7)
    assert iou(a, a) == 1
    assert iou(a, a + 5) == 0
    assert iou(np.zeros(4), np.zeros(4)) == 0
    assert box_score(np.stack([a]), np.stack([a, b])) == 0.5
    assert box_score(np.stack([a, b]), np.stack([a])) == 0.5
    assert box_score(np.zeros((0, 4)), np.stack([a])) == 0


def test_texts_become_rows(model_file: Path) -> None:
    tokenizer = read_tokenizer(str(model_file))
    asked = sample(0, [text("caption", "Describe the image.", "a red mug")])
    row = question(tokenizer, options(model_file), asked, 0, asked.texts[0]).row
    assert row.prompt == [1, *tokenizer.encode("Describe the image.")]
    assert row.answer == [*tokenizer.encode("a red mug"), 2]
    empty = question(tokenizer, options(model_file), asked, 0, text("caption", "Describe the image.", "")).row
    assert (empty.prompt, empty.answer) == (row.prompt, [])
    cut = question(tokenizer, options(model_file, max_tokens=len(row.prompt) + 2), asked, 0, asked.texts[0]).row
    assert cut.answer == row.answer[:2]
    with pytest.raises(DataError, match="leaves no room in max_tokens 4"):
        question(tokenizer, options(model_file, max_tokens=4), asked, 0, asked.texts[0])


def test_broken_texts_are_named(model_file: Path) -> None:
    tokenizer, wanted = read_tokenizer(str(model_file)), options(model_file)
    for broken, message in (
        (text("riddle", "What?", "a mug"), "kind 'riddle'"),
        (text("caption", "What?", "a mug", frame=1), "frame 1 of 1"),
        (text("grounding", "Where is Ω?", "", 0, [[0, 0, 1, 1]]), "cannot write"),
        (text("caption", "<box>", "a mug"), "but 0 boxes"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            question(tokenizer, wanted, sample(4, [broken]), 0, broken)
        assert str(caught.value).startswith("tests test/4: ")


def test_drawn_texts_share_a_frame() -> None:
    texts = [text("caption", str(i), "a", frame=i % 3) for i in range(12)]
    first = set()
    for seed in range(60):
        drawn = draw_texts(texts, 3, np.random.default_rng(seed))
        assert len({one.prompt for one in drawn}) == 3
        assert len({one.frame for one in drawn}) == 1
        first.add(drawn[0].prompt)
    assert len(first) == 12
    assert len(draw_texts(texts, 9, np.random.default_rng(0))) == 4
    assert draw_texts([], 3, np.random.default_rng(0)) == []


def test_questions_of_every_kind(model_file: Path) -> None:
    texts = [text("ocr", f"Read {i}", "a", 0) for i in range(5)] + [text("caption", "Describe", "a")]
    asked = questions_of(read_tokenizer(str(model_file)), options(model_file), [sample(0, texts)] * 2, per_kind=2)
    assert [(one.sample, one.text.prompt) for one in asked] == [
        (index, prompt) for index in (0, 1) for prompt in ("Describe", "Read 0", "Read 2")
    ]


def test_exactly_one_decoder(model_file: Path) -> None:
    with pytest.raises(ValidationError, match="tokenizer: needed"):
        options(model_file, tokenizer=None)
    assert options(model_file, tokenizer=None, decoder="some/folder").tokenizer_path == "some/folder"
    with pytest.raises(ValidationError) as caught:
        options(model_file, decoder={"layers": 2, "hidden_size": 32, "heads": 3, "mlp_size": 4, "hiden": 1})
    assert {error["loc"][-1] for error in caught.value.errors()} == {"hiden"}
    for wrong in ({"heads": 3}, {"key_value_heads": 3, "heads": 4}):
        with pytest.raises(ValidationError):
            options(model_file, decoder={"layers": 2, "hidden_size": 32, "mlp_size": 4, **wrong})


def test_kinds_are_drawn_equally_often() -> None:
    texts = [text("caption", str(i), "a", frame=i) for i in range(18)]
    texts += [text("ocr", "What?", "GO", frame=18), text("grounding", "Where?", "", 19, [[0, 0, 1, 1]])]
    kinds = [draw_texts(texts, 4, np.random.default_rng(seed))[0].kind for seed in range(300)]
    for kind in ("caption", "ocr", "grounding"):
        assert 75 < kinds.count(kind) < 125
