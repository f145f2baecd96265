"""Files that are no replay files are told apart before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from interlace.data_recipes.feed import MicroBatch
from interlace.pretrain.ranks import Ranks, join
from interlace.pretrain.replay import read_replay, write_replay


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file; a stopped run names its replay file"):
        read_replay(tmp_path / "replay.pt")


def test_text_is_no_replay_file(tmp_path: Path) -> None:
    path = tmp_path / "replay.pt"
    path.write_text("name: demo")
    with pytest.raises(ValueError, match="is no replay file, or a damaged one; a stopped run names"):
        read_replay(path)


def test_other_tensors_are_no_replay_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="does not hold adam_steps, micros"):
        read_replay(path)


class Parts:
    """An engine, teachers and centres of one tensor each; notes when a stream was read to its end."""

    frozen = None

    def __init__(self) -> None:
        self.engine = self.teachers = self.centres = self
        self.adam_steps, self.read = 5, 0

    def state(self) -> Iterator[tuple[str, Tensor]]:
        yield "weight/a", torch.ones(2)
        self.read += 1


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_rank_reads_and_holds_the_step(tmp_path: Path, rank: int) -> None:
    """The others take part in putting the weights together; a GPU of each could not hold them whole."""
    before, asked = dist.is_initialized(), list[int]()
    ranks = Ranks(rank, 2, 0, join().device)

    def micro_batch(step: int, index: int) -> MicroBatch:
        asked.append(step)
        return MicroBatch("ssl", index, {}, ["photos/a"], [])

    parts, feeds = Parts(), {"ssl": SimpleNamespace(micro_batch=micro_batch)}
    recipe: Any = SimpleNamespace(resolved=dict)
    micros = [MicroBatch("ssl", 0, {}, [], [])]
    keys = write_replay(tmp_path / "replay.pt", recipe, parts, feeds, micros, 7, ranks)  # type: ignore[arg-type]
    if not before:
        dist.destroy_process_group()
    assert parts.read == 3
    if rank:
        assert (asked, list(tmp_path.iterdir())) == ([], [])
        return
    assert (asked, keys) == ([7], {"ssl": ["photos/a"]})
    weights = read_replay(tmp_path / "replay.pt")["weights"]
    assert all(torch.equal(group["weight/a"], torch.ones(2)) for group in weights.values())
