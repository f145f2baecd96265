from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language import build, options, sample, text, write_tokenizer
from PIL import Image

from interlace.tasks.captioning import Captioning
from interlace.tasks.captioning.blind import Blind, _kept_apart, count_answers, fit_text_only, median_box
from interlace.tasks.captioning.decoder import answer_loss, batch_rows, build_decoder, no_visual
from interlace.tasks.captioning.measures import Reply, ask, measures
from interlace.tasks.captioning.options import BlindOptions
from interlace.tasks.captioning.pictures import SIDE, judged
from interlace.tasks.captioning.texts import KINDS, questions_of
from interlace.tasks.captioning.tokenizer import read_tokenizer
from interlace.tasks.lettering import BLUE, GREY, LINE, MARGIN, ORANGE, fitted, lettered


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


BOX = [0.25, 0.25, 0.75, 0.75]


def held_out() -> list[Any]:
    return [
        sample(0, [text("ocr", "Read the sign.", "a mug"), text("caption", "Describe the image.", "a red mug")]),
        sample(1, [text("grounding", "Where is it?", "", 0, BOX), text("ocr", "Read the sign.", "a box", frame=1)], 2),
        sample(2, [text("ocr", "Read the sign.", "a box")]),
        sample(3, []),
    ]


def reply(loss: float, tokens: int, said: str = "") -> Reply:
    return Reply(loss, tokens, said)


def test_measures_of_known_replies(model_file: Path) -> None:
    """caption, ocr of 0; ocr, grounding of 1; ocr of 2; sample 3 has no texts."""
    samples = held_out()
    questions = questions_of(read_tokenizer(str(model_file)), options(model_file), samples, per_kind=2)
    assert [(one.sample, one.text.kind) for one in questions] == [
        (0, "caption"),
        (0, "ocr"),
        (1, "ocr"),
        (1, "grounding"),
        (2, "ocr"),
    ]
    exact, off = "8 8 24 23", "8 8 24 13"
    own = [reply(2, 4), reply(4, 2, "a mug"), reply(1, 2, " a box "), reply(5, 4, exact), reply(1, 1, "a bo")]
    swapped = [reply(9, 4), reply(9, 2, ""), reply(9, 2, "a box"), reply(9, 4, off), reply(9, 1, "")]
    text_only = [reply(8, 4), reply(8, 2, "a lamp"), reply(8, 2, ""), reply(8, 4, "nowhere"), reply(8, 1, "a lamp")]
    blind = Blind(None, {"Read the sign.": "a box"}, "a box", np.array([0.25, 0.25, 0.75, 0.5]))
    ce, ocr, iou = measures(4, questions, own, swapped, text_only, blind, bins=32)
    assert (ce.name, ce.better, ocr.name, ocr.better, iou.name, iou.better) == (
        ("token_ce", "lower", "ocr_match", "higher", "box_iou", "higher")
    )
    np.testing.assert_allclose(ce.values, [6 / 6, 6 / 6, 1, np.nan])
    np.testing.assert_allclose(ce.swapped, [18 / 6, 18 / 6, 9, np.nan])
    np.testing.assert_allclose(ce.fixed, [16 / 6, 16 / 6, 8, np.nan])
    np.testing.assert_array_equal(ocr.values, [1, 1, 0, np.nan])
    np.testing.assert_array_equal(ocr.swapped, [0, 1, 0, np.nan])
    np.testing.assert_array_equal(ocr.fixed, [0, 1, 1, np.nan])  # the common answer beats the text-only decoder
    np.testing.assert_allclose(iou.values, [np.nan, 15 / 16, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_allclose(iou.fixed, [np.nan, 0.5, np.nan, np.nan], rtol=1e-6)
    assert iou.swapped[1] < iou.fixed[1]
    assert np.array_equal(iou.blind, iou.fixed, equal_nan=True)


def test_measures_only_where_they_apply(model_file: Path) -> None:
    tokenizer, blind = read_tokenizer(str(model_file)), Blind(None, {}, "", np.zeros(4))
    samples = [sample(0, [text("caption", "Describe the image.", "a mug")]), sample(1, [])]
    questions = questions_of(tokenizer, options(model_file), samples, per_kind=2)
    replies = [reply(2, 4)]
    assert [one.name for one in measures(2, questions, replies, replies, replies, blind, 32)] == ["token_ce"]
    silent = [reply(0, 0)]
    assert measures(2, questions, silent, silent, silent, blind, 32) == []


def test_evaluate_asks_the_right_frames(model_file: Path) -> None:
    """Own and swapped cross-entropy against one question at a time, with the sample half the list away."""
    task, backbone = build(model_file)
    task.eval()
    samples = held_out()
    questions = questions_of(task.tokenizer, task.options, samples, per_kind=2)
    decoder: Any = build_decoder(task.options.decoder, task.tokenizer).eval()
    blind = Blind(decoder, {}, "a box", np.array([0.0, 0, 1, 1]))
    found = {measure.name: measure for measure in task.evaluate(backbone, samples, blind)}
    for name, shown in (("values", [0, 1, 2, 3]), ("swapped", [2, 3, 0, 1])):
        wanted = np.zeros((2, 4))
        for one in questions:
            source = samples[shown[one.sample]]
            frame = min(one.text.frame, len(source.frames) - 1)
            visual = task.look(backbone, torch.from_numpy(task.clip(source, frame))[None])
            losses, _ = answer_loss(task.decoder, visual, *batch_rows([one.row], 0))
            wanted[:, one.sample] += losses.sum().item(), len(losses)
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(getattr(found["token_ce"], name), wanted[0] / wanted[1], rtol=1e-4)
    assert not np.allclose(found["token_ce"].values[:3], found["token_ce"].swapped[:3], rtol=1e-3)
    rows = [one.row for one in questions if one.sample == 0]
    losses, _ = answer_loss(decoder, no_visual(decoder, 2), *batch_rows(rows, 0))
    assert found["token_ce"].fixed[0] == pytest.approx(losses.mean().item(), rel=1e-4)
    assert set(found) == {"token_ce", "ocr_match", "box_iou"}


def test_asking_does_not_depend_on_chunks(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, backbone = build(model_file)
    samples = held_out()
    questions = questions_of(task.tokenizer, task.options, samples, per_kind=2)

    def replies() -> list[Reply]:
        with torch.no_grad():
            return ask(
                task.decoder,
                task.tokenizer,
                questions,
                lambda chunk: task._see(backbone, chunk, samples),
                generate=lambda asked: asked.text.kind == "ocr",
                limit=6,
            )

    together = replies()
    monkeypatch.setattr("interlace.tasks.captioning.measures.CHUNK", 1)
    alone = replies()
    assert [(one.tokens, one.text) for one in together] == [(one.tokens, one.text) for one in alone]
    assert [one.loss for one in together] == pytest.approx([one.loss for one in alone], rel=1e-4)
    assert [bool(one.text) for one in together] == [one.text.kind == "ocr" for one in questions]


def training_samples(count: int) -> list[Any]:
    """Captions of two equally likely colours, then a word that follows from the colour: ln 2 a caption."""
    rng, found = np.random.default_rng(0), []
    for i in range(count):
        answer = ("a red mug", "a blue chair")[int(rng.integers(2))]
        found.append(sample(0, [text("caption", "Describe the image.", answer)]))
        found[-1].key = f"rooms/{i // 4}/{i % 4}"
    return found


def test_text_only_decoder_learns_the_texts_entropy(model_file: Path) -> None:
    shape = {"layers": 1, "hidden_size": 64, "heads": 2, "mlp_size": 64}
    task, _ = build(model_file, decoder=shape, blind={"steps": 40, "batch": 16, "lr": 2e-2, "check_every": 20})
    blind = task.fit_blind(training_samples(160))
    questions = questions_of(task.tokenizer, task.options, training_samples(400), per_kind=None)
    rows = batch_rows([one.row for one in questions], 0)
    losses, owner = answer_loss(blind.decoder, no_visual(blind.decoder, len(questions)), *rows)
    caption = losses.sum().item() / int(owner.max() + 1)
    assert math.log(2) - 0.03 < caption < math.log(2) + 0.12
    assert not any(parameter.requires_grad for parameter in blind.decoder.parameters())


def test_text_only_decoder_is_reproducible(model_file: Path) -> None:
    task, _ = build(model_file, blind={"steps": 3, "batch": 4})
    first = task.fit_blind(training_samples(16)).decoder
    torch.rand(5)
    for one, other in zip(first.parameters(), task.fit_blind(training_samples(16)).decoder.parameters(), strict=True):
        assert torch.equal(one, other)


def test_text_only_decoder_keeps_its_best_weights(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, samples, states = read_tokenizer(str(model_file)), training_samples(16), []

    def check(decoder: Any, rows: Any, batch: int) -> float:
        states.append(deepcopy(decoder.state_dict()))
        return (2.0, 1.0, 3.0)[len(states) - 1]

    monkeypatch.setattr("interlace.tasks.captioning.blind._mean_loss", check)
    decoder: Any = build_decoder(options(model_file).decoder, tokenizer)
    questions = questions_of(tokenizer, options(model_file), samples, per_kind=None)
    fit_text_only(decoder, questions, samples, BlindOptions(steps=6, batch=4, check_every=2), seed=0)
    assert len(states) == 3
    name = "model.layers.0.mlp.up_proj.weight"
    assert [torch.equal(state[name], decoder.state_dict()[name]) for state in states] == [False, True, False]


def test_scenes_kept_apart_are_whole() -> None:
    samples = training_samples(200)
    apart = _kept_apart(samples, seed=0)
    scenes = [one.key.split("/")[1] for one in samples]
    kept = {name for name, out in zip(scenes, apart, strict=True) if out}
    assert len(kept) == 50 // 16
    assert all(out == (name in kept) for name, out in zip(scenes, apart, strict=True))
    assert sum(_kept_apart(samples[:8], seed=0)) == 4
    assert sum(_kept_apart(samples[:4], seed=0)) == 0
    assert _kept_apart([], seed=0) == []


def test_priors(model_file: Path) -> None:
    tokenizer = read_tokenizer(str(model_file))
    words = [("Left?", "a"), ("Left?", "box"), ("Left?", "box"), ("Right?", "mug"), ("Right?", "mug"), ("Up?", "mug")]
    boxes = [[0.1, 0.2, 0.3, 0.4], [0.3, 0.3, 0.5, 0.6], [0.0, 0.0, 0.9, 0.9]]
    texts = [text("ocr", prompt, answer) for prompt, answer in words]
    texts += [text("grounding", "Where is it?", "", 0, box) for box in boxes]
    texts += [text("grounding", "What is at <box>?", "mug", 0, [[0.9, 0.9, 1, 1]])]
    questions = questions_of(tokenizer, options(model_file), [sample(0, texts)], per_kind=None)
    answers, common = count_answers(questions)
    assert answers == {"Left?": "box", "Right?": "mug", "Up?": "mug"}
    assert common == "mug"
    blind = Blind(None, answers, common, median_box(questions))
    assert [blind.common_answer(prompt) for prompt in ("Left?", "Right?", "new")] == ["box", "mug", "mug"]
    np.testing.assert_allclose(blind.box, [0.1, 0.2, 0.5, 0.6], rtol=1e-6)
    assert count_answers([]) == ({}, "")
    assert median_box([]).tolist() == [0, 0, 1, 1]


def test_pictures(model_file: Path, tmp_path: Path) -> None:
    task, backbone = build(model_file, max_generated=8)
    with torch.no_grad():
        (path,) = task.pictures(backbone, held_out(), tmp_path / "new", "start")
        assert task.pictures(backbone, [sample(0, [])], tmp_path, "start") == []
    assert path.name == "start_captioning.png"
    sheet = np.asarray(Image.open(path))
    assert sheet.shape[1] == 3 * (SIDE + 8) - 8
    picture = sheet[:, SIDE + 8 : 2 * SIDE + 8]
    rows = (picture == BLUE).all(-1).sum(1)
    height = round(SIDE * 20 / 24)
    assert rows[:height].argmax() in (height // 4, height // 4 + 1)  # the true box's upper edge
    assert rows[height:].any()  # and the truth in words


def test_answers_are_judged_in_words_and_colours(model_file: Path) -> None:
    questions = questions_of(read_tokenizer(str(model_file)), options(model_file), held_out(), per_kind=1)
    caption, sign, place = (next(one for one in questions if one.text.kind == kind) for kind in KINDS)
    assert judged(sign, " a mug", 32) == ("correct", BLUE)
    assert judged(sign, "a mu", 32) == ("wrong", ORANGE)
    assert judged(place, "8 8 24 24", 32) == ("correct", BLUE)
    assert judged(place, "8 8 24 16", 32) == ("overlap 0.50", ORANGE)
    assert judged(place, "nowhere", 32) == ("overlap 0.00", ORANGE)
    assert judged(caption, "a mug", 32) == ("said", GREY)


@pytest.mark.parametrize("said", ["W" * 200, "of " + "mm" * 60 + " of it", "a short one", "word " * 99, ""])
def test_no_line_of_an_answer_runs_past_its_picture(said: str) -> None:
    lines = fitted(said, SIDE, 3)
    assert len(lines) <= 3
    words = np.asarray(lettered([(said, BLUE)], SIDE, 3))
    assert words.shape == (len(lines) * LINE + 2 * MARGIN, SIDE, 3)
    assert (words[:, -MARGIN:] == 255).all()
    whole = "".join(lines).replace(" ", "")
    assert whole == said.replace(" ", "") or (len(lines) == 3 and whole.endswith("…"))


def test_task_is_what_recipes_name() -> None:
    assert Captioning.name == "captioning"
    assert Captioning.needs == {"frames", "texts"}
