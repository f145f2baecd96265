"""The vision-language model: tiles, videos, labels, losses and answers, each against an independent reference."""

from __future__ import annotations

import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language import write_tokenizer
from PIL import Image
from tiny_vlm import BACKBONE, TEMPLATE, build, options, sample, write_template_tokenizer
from torch.nn import functional as F

from interlace.backbone import Backbone, normalise
from interlace.data_recipes import Text
from interlace.tasks.captioning import DecoderShape, pictures
from interlace.tasks.interface import Progress
from interlace.tasks.lettering import BLUE
from interlace.tasks.vlm import Vlm, VlmOptions
from interlace.tasks.vlm.chat import VISUAL, PlainChat, read_chat
from interlace.tasks.vlm.measures import common_answers, questions_of
from interlace.tasks.vlm.pictures import draw_answers
from interlace.tasks.vlm.prompts import conversation_of
from interlace.tasks.vlm.tiles import cut, merge, plan
from interlace.tasks.vlm.video import Watching, look_at

STAGE_15 = [(2, 2), (1, 2), (1, 3), (2, 1), (3, 1)]
STAGE_2 = [(rows, columns) for rows in range(1, 7) for columns in range(1, 7)]
PROGRESS = Progress(0, 10, 0)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_template_tokenizer(tmp_path_factory.mktemp("chat"))


# ---- tiles


@pytest.mark.parametrize(
    ("height", "width", "grids", "grid"),
    [
        (512, 512, STAGE_15, (2, 2)),  # four times the pixels it needs, and still nothing else keeps all of it
        (512, 1024, STAGE_15, (1, 2)),
        (512, 1536, STAGE_15, (1, 3)),
        (1600, 500, STAGE_15, (3, 1)),
        (300, 200, STAGE_2, (1, 1)),  # nothing is gained by more
        (3072, 3072, STAGE_2, (6, 6)),
        (900, 1500, STAGE_2, (2, 3)),
    ],
)
def test_the_grid_keeps_most_of_the_image_and_wastes_least(
    height: int, width: int, grids: list[tuple[int, int]], grid: tuple[int, int]
) -> None:
    assert plan(height, width, grids, 9, 512, 32).grid == best_grid(height, width, grids)
    if (height, width) != (512, 512):
        assert plan(height, width, grids, 9, 512, 32).grid == grid


def best_grid(height: int, width: int, grids: list[tuple[int, int]]) -> tuple[int, int]:
    """The published rule, spelled out: most effective pixels, then least waste."""
    best, most, least = grids[0], 0, math.inf
    for rows, columns in grids:
        scale = min(columns * 512 / width, rows * 512 / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        waste = rows * columns * 512 * 512 - effective
        if effective > most or (effective == most and waste < least):
            best, most, least = (rows, columns), effective, waste
    return best


def test_table_12_bounds_the_tokens() -> None:
    for height, width in [(512, 512), (2000, 3000), (3000, 700), (333, 1234), (5000, 5000)]:
        for grids, most in ((STAGE_15, 4), (STAGE_2, 9)):
            how = plan(height, width, grids, most, 512, 32)
            rows = how.tokens[0]
            # the whole image and at most so many tiles, with LLaVA's tolerance of 1.1 a side, and a newline a row
            assert how.count - rows <= 1024 * (1 + most * 1.1**2)
            if how.tokens != how.kept[2:]:
                assert how.count - rows <= 1024 * (1 + most)
    assert plan(480, 640, [], 4, 512, 32).count == 1024


def test_tiles_lie_where_the_image_does_and_padding_is_dropped() -> None:
    size, side = 8, 4
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :, 0] = np.arange(32) * 8  # red tells the column
    image[:, :, 1] = (np.arange(16) * 16)[:, None]  # green the row
    how = plan(16, 32, [(2, 2)], 4, size, side)
    tiles = cut(image, how, size)
    assert tiles.shape == (5, 3, 8, 8)
    assert how.kept == (2, 0, 4, 8), "16 x 32 in 16 x 16: a quarter above and below is padding"
    grid = torch.from_numpy(tiles).float().unflatten(2, (side, 2)).unflatten(4, (side, 2)).mean((3, 5)).movedim(1, 3)
    merged = merge(grid, how, torch.full((3,), -1.0))
    assert len(merged) == how.count == 16 + 4 * 9
    rows = merged[16:].unflatten(0, (4, 9))
    assert (rows[:, 8] == -1).all(), "every row ends with the newline"
    assert (rows[:, :-1, 0].diff(dim=1) > 0).all()
    assert (rows[:, :-1, 1].diff(dim=0) > 0).all()
    assert not (rows[:, :-1].sum(-1) == 0).all(1).any(), "no row of padding"


def test_beyond_the_most_tiles_tokens_are_reduced_bilinearly() -> None:
    how = plan(48, 48, [(3, 3)], 4, 16, 2)
    assert how.kept == (0, 0, 6, 6)
    assert how.tokens == (4, 4)
    tokens, newline = torch.randn(10, 2, 2, 5), torch.randn(5)
    merged = merge(tokens, how, newline)
    whole = torch.zeros(6, 6, 5)
    for index in range(9):  # naive: tile by tile
        row, column = divmod(index, 3)
        whole[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = tokens[1 + index]
    expected = F.interpolate(whole.permute(2, 0, 1)[None], (4, 4), mode="bilinear")[0].permute(1, 2, 0)
    assert torch.allclose(merged[4:].unflatten(0, (4, 5))[:, :4], expected)
    assert torch.equal(merged[:4], tokens[0].flatten(0, 1))


# ---- videos


def test_frames_are_looked_at_once_a_second_and_spread_where_they_are_too_many() -> None:
    ten = np.arange(0, 10, 1 / 25)
    assert look_at(ten, 1.0, 32).tolist() == [25 * second for second in range(10)]
    chosen = look_at(np.arange(0, 100, 1 / 25), 1.0, 32)
    assert len(chosen) == 32
    assert (chosen[0], chosen[-1]) == (0, 2499)
    assert np.ptp(np.diff(chosen)) <= 1
    late = np.array([3.0, 3.9, 5.2, 5.9, 6.1])  # frames at odd times, one dropped
    assert look_at(late, 1.0, 32).tolist() == [0, 1, 2, 3]
    assert look_at(np.array([7.0]), 1.0, 32).tolist() == [0]


def test_training_and_live_see_the_same_features(words: Path) -> None:
    task, backbone = build(words, max_frames=3)
    clip = sample(1, frames=3)
    views, size = task.views(clip, 2)
    (trained,), _ = task.see(backbone, [torch.from_numpy(views)], [size])
    live = Watching(backbone, 32, task.options.max_frames)
    for frame in views:
        live.see(torch.from_numpy(frame))
    (seen,), _ = task.project([live.patches()], [None])
    assert torch.equal(trained, seen)
    # and both are what a whole causal pass gives, pooled and with a newline a row
    with torch.no_grad():
        patches = backbone(normalise(torch.from_numpy(views))[None]).patches[0]
        pooled = F.avg_pool2d(task.projector(patches).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    assert len(trained) == task.visual_tokens(3, None) == 3 * 2 * 3
    assert torch.allclose(trained.unflatten(0, (3, 2, 3))[:, :, :2], pooled, atol=1e-4)
    assert torch.equal(trained.unflatten(0, (3, 2, 3))[:, :, 2], task.newline.expand(3, 2, -1))


def test_a_live_video_past_the_most_frames_forgets_the_oldest(words: Path) -> None:
    task, backbone = build(words, max_frames=2)
    views, _ = task.views(sample(1, frames=5), 4)
    live = Watching(backbone, 32, 2)
    for frame in views:
        live.see(torch.from_numpy(frame))
    assert live.patches().shape[0] == 2
    with backbone.stream(1, 32, 32, window=2) as stream:
        expected = [stream(torch.from_numpy(frame)[None, None]).patches[0, 0] for frame in views]
    assert torch.equal(live.patches(), torch.stack(expected[-2:]))


# ---- labels


def test_answers_alone_are_learned_token_by_token(template: Path) -> None:
    chat = read_chat(str(template))
    turns = [("what colour is the box?", "a red box"), ("left of?", "a blue ball")]
    row = chat.row(turns, visual=True)
    inner: Any = chat.tokenizer.inner  # type: ignore[attr-defined]
    pieces = [
        ("<|im_start|>user\n", False),
        (None, False),
        ("\nwhat colour is the box?<|im_end|>\n<|im_start|>assistant\n", False),
        ("a red box<|im_end|>", True),
        ("\n<|im_start|>user\nleft of?<|im_end|>\n<|im_start|>assistant\n", False),
        ("a blue ball<|im_end|>", True),
        ("\n", False),
    ]
    tokens, learned = [], []
    for text, label in pieces:
        own = [VISUAL] if text is None else inner.encode(text, add_special_tokens=False)
        tokens += own
        learned += [label] * len(own)
    joined = inner.decode([t for t in row.tokens if t != VISUAL])
    assert joined == inner.apply_chat_template(
        [
            {"role": "user", "content": "\nwhat colour is the box?"},
            {"role": "assistant", "content": "a red box"},
            {"role": "user", "content": "left of?"},
            {"role": "assistant", "content": "a blue ball"},
        ],
        tokenize=False,
    )
    assert row.tokens == tokens
    assert row.learned == learned
    asked = chat.row([turns[0], (turns[1][0], None)], visual=True)
    assert not any(asked.learned[-4:])
    assert row.tokens[: len(asked.tokens)] == asked.tokens, "what is asked is the beginning of what was learned"


def test_plain_rows_learn_answers_and_their_ends(words: Path) -> None:
    chat = read_chat(str(words))
    assert isinstance(chat, PlainChat)
    row, tokenizer = chat.row([("Read the sign.", "a mug")], visual=True), chat.tokenizer
    answer = [*tokenizer.encode("a mug"), tokenizer.eos]
    assert row.tokens == [tokenizer.bos, VISUAL, *tokenizer.encode("Read the sign.\n"), *answer]
    assert row.learned == [False] * (len(row.tokens) - len(answer)) + [True] * len(answer)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "it has no chat template"),
        (TEMPLATE.replace("<|im_end|>", ""), "does not end an answer with its end-of-text"),
        ("{{ messages | length }}" + TEMPLATE, "changes earlier turns"),
    ],
)
def test_templates_that_cannot_be_learned_from(tmp_path: Path, text: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_chat(str(write_template_tokenizer(tmp_path, text))).row([("a", "b"), ("c", "d")], visual=False)


# ---- losses


def whole_loss(task: Any, backbone: Backbone, item: dict[str, Any]) -> float:
    """``transformers``' own loss on one row, visual tokens put in by hand."""
    row = item["row"]
    (seen,), _ = task.see(backbone, [torch.from_numpy(item["views"])], [item["size"]])
    at = row.tokens.index(VISUAL)
    embedding = task.llm.get_input_embeddings()
    before, after = (embedding(torch.tensor(part)) for part in (row.tokens[:at], row.tokens[at + 1 :]))
    labels = [token if learned else -100 for token, learned in zip(row.tokens, row.learned, strict=True)]
    labels = [*labels[:at], *[-100] * len(seen), *labels[at + 1 :]]
    found = task.llm(inputs_embeds=torch.cat((before, seen, after))[None], labels=torch.tensor([labels]))
    return float(found.loss.detach()) * sum(row.learned)


@pytest.mark.parametrize("kind", ["words", "template"])
def test_the_loss_is_transformers_own(kind: str, request: pytest.FixtureRequest) -> None:
    task, backbone = build(request.getfixturevalue(kind), grids=[(1, 2), (2, 1)], max_tiles=1)
    items = [task.item(each, RNG) for each in (sample(1), sample(2, frames=3), sample(3, shape=(64, 24)))]
    assert all(item["left_out"] is None for item in items)
    term = task.losses(backbone, task.collate(items), teacher=None, progress=PROGRESS)["tokens"]
    expected = sum(whole_loss(task, backbone, item) for item in items)
    assert float(term.count) == sum(sum(item["row"].learned) for item in items)
    assert float(term.sum.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("trains", ["projector", "projector and llm"])
def test_what_trains_is_what_the_stage_says(words: Path, trains: str) -> None:
    task, backbone = build(words, trains=trains, grids=[(2, 2)])
    items = [task.item(sample(1), RNG)]
    task.losses(backbone, task.collate(items), teacher=None, progress=PROGRESS)["tokens"].sum.backward()
    moved = {name.split(".")[0] for name, p in task.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == ({"projector", "newline"} if trains == "projector" else {"projector", "newline", "llm"})
    assert all(p.grad is None for p in backbone.parameters())


def test_the_backbone_must_be_frozen(words: Path) -> None:
    task, _ = build(words)
    with pytest.raises(ValueError, match=r"backbone\.frozen: true"):
        task.losses(Backbone(BACKBONE), task.collate([]), teacher=None, progress=PROGRESS)


def test_what_is_too_long_is_counted_and_named(words: Path, caplog: pytest.LogCaptureFixture) -> None:
    task, backbone = build(words, max_tokens=40)
    fits, long = task.item(sample(1, shape=(32, 32)), RNG), task.item(sample(2, frames=6), RNG)
    assert fits["left_out"] is None
    silent = task.item(sample(4, texts=[]), RNG)
    with caplog.at_level(logging.WARNING):
        both = task.losses(backbone, task.collate([fits, long, silent]), teacher=None, progress=PROGRESS)["tokens"]
    alone = task.losses(backbone, task.collate([fits]), teacher=None, progress=PROGRESS)["tokens"]
    assert torch.allclose(both.sum, alone.sum)
    assert both.count == alone.count
    assert float(task.signals()["left_out"]) == 2
    assert "s/s/scene-2/0: " in caplog.text
    assert "more than max_tokens = 40" in caplog.text
    assert "s/s/scene-4/0: no question" in caplog.text


def test_a_rank_without_samples_runs_every_module(words: Path) -> None:
    task, backbone = build(words)
    term = task.losses(backbone, task.collate([]), teacher=None, progress=PROGRESS)["tokens"]
    term.sum.backward()
    assert float(term.count) == 0
    assert float(term.sum.detach()) == 0
    assert all(p.grad is not None for p in task.projector.parameters())
    assert task.newline.grad is not None


def test_a_blind_model_learns_from_questions_alone(words: Path) -> None:
    task, backbone = build(words, blind=True)
    one, other = (task.item(sample(number), RNG) for number in (1, 2))
    assert len(one["views"]) == 0
    assert one["row"] == other["row"]
    assert VISUAL not in one["row"].tokens
    assert float(task.losses(backbone, task.collate([one]), teacher=None, progress=PROGRESS)["tokens"].count) > 0


def test_a_conversation_without_a_picture_and_turns_in_order(words: Path) -> None:
    turns = [Text(kind="turn", prompt=f"Where is {n}", answer=f"a {n}", frame=0) for n in ("mug", "box")]
    task, _ = build(words)
    item = task.item(sample(1, frames=0, texts=turns), RNG)
    row = item["row"]
    assert VISUAL not in row.tokens
    assert task.chat.tokenizer.decode([t for t in row.tokens if t > 3]) == "Where is mug a mug Where is box a box"


def test_questions_about_one_frame_are_turns_of_one_conversation(words: Path) -> None:
    kinds = ("count", "nearer", "count", "sign")
    texts = [Text(kind=k, prompt=f"{k} {n}?", answer=f"a{n}", frame=n % 2) for n, k in enumerate(kinds)]
    seen: Counter[tuple[tuple[str, str], ...]] = Counter()
    for seed in range(60):
        turns, frame = conversation_of(sample(1, frames=2, texts=texts), 3, np.random.default_rng(seed))
        assert sorted(turns) == sorted((text.prompt, text.answer) for text in texts if text.frame == frame)
        seen[tuple(turns)] += 1
    assert len(seen) == 4  # two frames, and either order of their questions
    task, _ = build(words, texts=2)
    row = task.item(sample(1, frames=2, texts=texts), np.random.default_rng(0))["row"]
    assert row.tokens.count(VISUAL) == 1
    ends = [learned for token, learned in zip(row.tokens, row.learned, strict=True) if token == task.chat.tokenizer.eos]
    assert ends == [True, True]


# ---- answers


def test_answers_are_the_most_likely_tokens_whoever_else_is_asked(words: Path) -> None:
    task, backbone = build(words, max_generated=5)
    samples = [sample(1), sample(2, frames=2)]
    seen = [task.look(backbone, each, len(each.frames) - 1) for each in samples]
    asked: list[list[tuple[str, str | None]]] = [[("Where is it?", None)], [("Read the sign.", None)]]
    together = task.answer(seen, asked)
    assert together == [task.answer([v], [turns])[0] for v, turns in zip(seen, asked, strict=True)]
    for visual, turns, said in zip(seen, asked, together, strict=True):
        row = task.chat.row(turns, visual=True)
        at, embedding = row.tokens.index(VISUAL), task.llm.get_input_embeddings()
        parts = [embedding(torch.tensor(part, dtype=torch.int64)) for part in (row.tokens[:at], row.tokens[at + 1 :])]
        inputs, found = torch.cat((parts[0], visual, parts[1])), []
        for _ in range(5):
            token = int(task.llm(inputs_embeds=inputs[None]).logits[0, -1].argmax())
            if token == task.chat.tokenizer.eos:
                break
            found.append(token)
            inputs = torch.cat((inputs, embedding(torch.tensor([token]))))
        assert said == task.chat.tokenizer.decode(found).strip()


def test_accuracy_is_by_kind_and_beside_blind_guesses(words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, backbone = build(words)

    def asked(kind: str, answer: str) -> Text:
        return Text(kind=kind, prompt=f"{kind}?", answer=answer, frame=0)

    samples = [
        sample(n, texts=[asked("count", str(n % 2)), asked("nearer", "box"), asked("caption", "x")]) for n in range(4)
    ]
    training = [sample(9, texts=[asked("count", "1"), asked("nearer", "mug")])]
    monkeypatch.setattr(task, "answer", lambda seen, turns: ["1" if t[0][0] == "count?" else "box" for t in turns])
    count, nearer = task.evaluate(backbone, samples, common_answers(training))
    assert (count.name, nearer.name) == ("accuracy_count", "accuracy_nearer")
    assert count.values.tolist() == [0, 1, 0, 1]
    assert nearer.values.tolist() == [1, 1, 1, 1]
    assert count.fixed.tolist() == [0, 1, 0, 1]
    assert nearer.fixed.tolist() == [0, 0, 0, 0]


def test_pictures_show_frames_question_and_both_answers(words: Path, tmp_path: Path) -> None:
    task, backbone = build(words)
    (path,) = task.pictures(backbone, [sample(1), sample(2, frames=5)], tmp_path, "end")
    assert path.name == "end_vlm.png"
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(("count", "shown"), [(1, [[1]]), (2, [[1, 2]]), (3, [[1, 3]]), (5, [[1, 2], [4, 5]])])
def test_what_moves_is_seen_in_its_first_and_its_last_frame(tmp_path: Path, count: int, shown: list[list[int]]) -> None:
    clip = sample(1, count, (64, 64))
    clip.frames[:] = 40 * np.arange(1, count + 1)[:, None, None, None]
    draw_answers([clip], questions_of([clip]), ["left of a mug"], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    side = pictures.SIDE // len(shown[0])
    middles = sheet[side // 2 : len(shown) * side : side, side // 2 :: side, 0]
    assert (middles // 40).tolist() == shown
    assert (sheet[len(shown) * side :] == BLUE).all(-1).any()


def test_options_say_what_is_wrong(words: Path) -> None:
    assert Vlm.check(options(words), BACKBONE) == []
    assert Vlm.check(options(words, size=24), BACKBONE)[0][0] == "size"
    with pytest.raises(ValueError, match="tokenizer: needed"):
        VlmOptions(llm=DecoderShape(layers=1, hidden_size=8, heads=1, mlp_size=8))
