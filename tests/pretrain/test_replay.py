"""Files that are no replay files are told apart before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from interlace.pretrain.replay import read_replay


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file; a stopped run names its replay file"):
        read_replay(tmp_path / "replay.pt")


def test_text_is_no_replay_file(tmp_path: Path) -> None:
    path = tmp_path / "replay.pt"
    path.write_text("name: demo")
    with pytest.raises(ValueError, match="is no replay file, or a damaged one"):
        read_replay(path)


def test_other_tensors_are_no_replay_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="does not hold adam_steps, micros"):
        read_replay(path)
