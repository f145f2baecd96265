"""What worlds share when they are prepared: the names of their data, and the processes that draw them."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from interlace.data_recipes.worlds import prepared
from interlace.data_recipes.worlds.prepared import digest_of, drawing, not_made, write_whole
from interlace.data_recipes.worlds.render import RAYS


@dataclass(frozen=True)
class Settings:
    seed: int = 0
    size: int = 64


def test_a_digest_names_settings_format_and_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """And keeps its value: a program that computes another would make everybody's data again."""
    monkeypatch.setattr(prepared, "version", {"mujoco": "3.3.0", "miniworld": "2.1.0"}.__getitem__)
    names = [
        digest_of(Settings(), 1, ("mujoco",)),
        digest_of(Settings(size=32), 1, ("mujoco",)),
        digest_of(Settings(), 2, ("mujoco",)),
        digest_of(Settings(), 1, ("mujoco", "miniworld")),
    ]
    assert names[0] == "f7f452bea3aa859e"
    assert len(set(names)) == 4


def test_what_has_another_digest_or_none_is_not_made(tmp_path: Path) -> None:
    for name, manifest in (("old", {"extra": {"digest": "a"}}), ("new", {"extra": {"digest": "b"}}), ("bare", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.json").write_text(json.dumps(manifest))
    assert not_made(tmp_path, ("old", "new", "bare", "none"), "b") == ["old", "bare", "none"]


def test_a_file_that_is_cut_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "settings.json", b"{}")
    assert not (tmp_path / "settings.json").exists()


def test_results_come_in_the_order_of_jobs() -> None:
    with drawing(str, range(20), RAYS, 2) as drawn:
        assert list(drawn) == [str(number) for number in range(20)]


def test_an_error_waits_for_no_more_than_is_being_drawn() -> None:
    began = []

    def interrupted() -> None:
        with drawing(time.sleep, [0.1] * 120, RAYS, 1) as drawn:
            next(drawn)
            began.append(time.monotonic())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - began[0] < 6  # all of them would take 12 seconds
