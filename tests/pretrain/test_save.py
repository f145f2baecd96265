"""A checkpoint goes on with the order of samples that it was made with, or not at all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from interlace.data_recipes.order import Order
from interlace.pretrain.checkpoint import BadCheckpoint, Writer
from interlace.pretrain.save import load_checkpoint


class Feed:
    """Six samples in shards of these sizes."""

    def __init__(self, *sizes: int) -> None:
        self._order = Order(sizes, 0, "photos").fingerprint

    def cursors(self, step: int) -> dict[str, dict[str, Any]]:
        return {"photos": {"drawn": 4 * step, "samples": 6, "epoch": 0, "order": self._order}}


def load(path: Path, feed: Any) -> int:
    part = SimpleNamespace(load_state=lambda *given: None)
    parts: Any = SimpleNamespace(engine=part, teachers=part, centres=part, frozen=None)
    return load_checkpoint(path, parts, "digest", {"ssl": feed})


def save(root: Path, cursors: dict[str, Any]) -> Path:
    writer = Writer(root, 3)
    state = {"step": 3, "recipe": "digest", "cursors": {"ssl": cursors}, "adam_steps": {"student": 3, "centres": 3}}
    return writer.commit(state)


def test_the_same_shards_go_on(tmp_path: Path) -> None:
    assert load(save(tmp_path, Feed(2, 4).cursors(3)), Feed(2, 4)) == 3


def test_as_many_samples_in_other_shards_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, Feed(2, 4).cursors(3))
    with pytest.raises(BadCheckpoint, match="'photos' of task 'ssl' has 6 samples, and had 6, or has them in other sh"):
        load(path, Feed(3, 3))


def test_a_checkpoint_that_says_nothing_of_shards_goes_on(tmp_path: Path) -> None:
    before = {"photos": {"drawn": 12, "samples": 6, "epoch": 0}}
    assert load(save(tmp_path, before), Feed(3, 3)) == 3
    with pytest.raises(BadCheckpoint, match="had 7"):
        load(save(tmp_path, {"photos": {"drawn": 12, "samples": 7, "epoch": 0}}), Feed(3, 3))
