"""Questions about rooms: true in the pixels, and balanced."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from interlace.data_recipes import generator
from interlace.data_recipes.shards import ShardReader
from interlace.data_recipes.worlds import questions, questions_data
from interlace.data_recipes.worlds.questions import KINDS, Asked, ask, balanced
from interlace.data_recipes.worlds.questions_data import QuestionSettings, prepare_questions
from interlace.data_recipes.worlds.render import RAYS, View
from interlace.data_recipes.worlds.scene import BACKGROUND, Room


def test_every_answer_is_true_in_the_pixels(rooms: list[Room], ray_views: list[list[list[View]]]) -> None:
    seen: Counter[str] = Counter()
    for room, of_room in zip(rooms, ray_views, strict=True):
        for scene, views in zip(room.scenes, of_room, strict=True):
            for seed in range(4):  # whoever is named first
                shown = views[: 1 + seed % len(views)]
                for one in ask(scene, shown, generator(seed, "order")):
                    seen[one.kind] += 1
                    expected = scene.sign.word if one.kind == "sign" else truth(scene.things, shown, one)
                    assert one.answer == expected, one
                    assert (one.kind in KINDS, one.frame) == (True, len(shown) - 1)
            names = Counter(thing.name for thing in scene.things)
            said = [one.prompt for one in ask(scene, views, generator(0, "order"))]
            assert not any(f"the {name} " in prompt for name, n in names.items() if n > 1 for prompt in said)
    assert {"count", "colour", "left of", "nearer", "moved", "where", "distance"} <= set(seen)


def truth(things: tuple, views: list[View], one: Asked) -> str:  # type: ignore[type-arg]
    """The answer, from masks alone."""
    last = views[-1]
    masks = {k: last.instances == len(BACKGROUND) + k for k in range(len(things))}
    number = {thing.name: k for k, thing in enumerate(things)}
    if one.kind == "count":
        return str(sum(mask.any() for mask in masks.values()))
    if one.kind == "colour":
        (k,) = [k for k, thing in enumerate(things) if f"the {thing.shape}?" in one.prompt and masks[k].any()]
        return str(things[k].colour)
    named = sorted((one.prompt.index(f"the {name}"), k) for name, k in number.items() if f"the {name}" in one.prompt)
    if one.kind == "moved":
        shifts = [
            np.abs(np.subtract(things[named[0][1]].pose(v.time)[0], things[named[0][1]].pose(0)[0])) for v in views
        ]
        turns = [abs(things[named[0][1]].pose(v.time)[1] - things[named[0][1]].pose(0)[1]) for v in views]
        return "yes" if np.max(shifts) + np.max(turns) > 0 else "no"
    if one.kind == "where":
        column = np.nonzero(masks[named[0][1]])[1].mean() + 0.5
        return ("left", "middle", "right")[int(3 * column / last.depth.shape[1])]
    if one.kind == "distance":
        return f"{np.median(last.depth[masks[named[0][1]]]):.0f}"
    first, second = (masks[k] for _, k in named)
    if one.kind == "left of":
        return "yes" if np.nonzero(first)[1].mean() < np.nonzero(second)[1].mean() else "no"
    depth = np.median(last.depth[first]), np.median(last.depth[second])
    return str(things[named[0 if depth[0] < depth[1] else 1][1]].name)


def test_no_answer_is_likelier_than_another() -> None:
    rng = np.random.default_rng(0)
    clips = [
        [
            Asked("count", "how many?", str(n := int(rng.choice(4, p=[0.01, 0.3, 0.49, 0.2]))), str(n), 7),
            Asked("nearer", "which?", f"thing {index}", "first" if index % 3 else "second", 7),
        ]
        for index in range(300)
    ]
    chosen = balanced(clips, 0)
    counts = Counter(text.answer for found in chosen for text in found if text.kind == "count")
    assert set(counts) == {"1", "2", "3"}, "an answer that hardly ever occurs is not asked for"
    assert len(set(counts.values())) == 1
    nearer = [text.answer for found in chosen for text in found if text.kind == "nearer"]
    assert Counter(int(name.split()[1]) % 3 == 0 for name in nearer) == {True: 100, False: 100}
    assert all(text.frame == 7 for found in chosen for text in found)
    said = [[[(text.kind, text.answer) for text in found] for found in balanced(clips, seed)] for seed in (0, 1)]
    assert said[0] == [[(text.kind, text.answer) for text in found] for found in chosen] != said[1]


def test_prepared_once_and_read_back(tmp_path: Path) -> None:
    settings = QuestionSettings(size=32, frames=3, asked_after=(2, 3), train_rooms=3, train_scenes=2, held_out_rooms=3)
    data = prepare_questions(tmp_path, settings=settings, backend=RAYS, workers=1)
    assert set(data.made) == {"questions_train", "questions_held_out"}
    assert (tmp_path / questions_data.TOKENIZER).is_file()
    reader = ShardReader(tmp_path / "questions_train")
    sample = reader.read(0)
    assert sample.frames.shape == (3, 32, 32, 3)
    assert {text.kind for text in sample.texts} <= set(questions.KINDS)
    assert sample.key.startswith("questions_train/room-")
    held_out = ShardReader(tmp_path / "questions_held_out")
    asked = [{t.frame for i in range(len(r)) for t in r.read(i, ("texts",)).texts} for r in (reader, held_out)]
    assert asked == [{1, 2}, {2}]
    assert prepare_questions(tmp_path, settings=settings, backend=RAYS, workers=1).made == ()

    tokenizer = tmp_path / questions_data.TOKENIZER
    words = tokenizer.read_bytes()
    tokenizer.unlink()
    assert prepare_questions(tmp_path, settings=settings, backend=RAYS, workers=1).made == ()
    assert tokenizer.read_bytes() == words
