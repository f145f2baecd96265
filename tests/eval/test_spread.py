"""Features that two processes share are those of one, and so are the heads that learn from them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from interlace.backbone import Backbone, BackboneConfig, load, save
from interlace.eval.images import Data
from interlace.eval.linear_probe import LinearBudget, probe_classes
from interlace.eval.result import read
from interlace.eval.spread import Spread, processes
from interlace.eval.subjects import FrozenBackbone

WORLD = 2
CONFIG = BackboneConfig(hidden_size=32, depth=2, heads=2, mlp_size=64, patch_size=8, layer_scale=0.5)


class Noise:
    names = tuple(f"{number}" for number in range(7))

    def read(self, index: int, rng: np.random.Generator | None) -> tuple[torch.Tensor, int]:
        drawn = np.random.default_rng(index) if rng is None else rng
        return torch.from_numpy(drawn.integers(0, 256, (3, 16, 16), np.uint8)), index % 2


def measured(subject: FrozenBackbone | Spread) -> dict[str, float]:
    data = Data("D", ("a", "b"), Noise(), Noise(), Noise.names)
    (found,) = probe_classes(subject, data, LinearBudget(steps=3, batch=5, rates=(0.01, 1.0)))
    return {"value": found.value, **found.facts.found["on val"]}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # asked for, not used: the file joins them
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    alone = FrozenBackbone(load(Path(folder) / "mine"), "mine")
    state = processes("cpu")
    assert state is not None
    spread, seen = Spread(alone, state), []
    clips = alone.clips

    def spy(frames: torch.Tensor) -> object:
        seen.append(len(frames))
        return clips(frames)

    for count in (5, 1):
        frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 2, 3, 16, 24), np.uint8))
        expected = clips(frames)
        alone.clips = spy  # type: ignore[method-assign, assignment]
        found = spread.clips(frames)
        alone.clips = clips  # type: ignore[method-assign]
        for name in ("patches", "cls", "camera"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=1e-5)
    assert seen == [3, 1]
    assert measured(spread) == pytest.approx(measured(alone))
    with pytest.raises(ValueError, match="with several processes it is cpu or cuda"):
        processes("cuda:1")
    dist.destroy_process_group()


def test_two_processes_find_what_one_finds() -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        save(Backbone(CONFIG), Path(folder) / "mine")
        mp.spawn(worker, (folder,), WORLD)


@pytest.mark.slow
def test_a_command_under_accelerate_launch_writes_once(
    rooms_folder: Path, backbone_folder: Path, tmp_path: Path
) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1", "--num_processes"]
    plain = ["2", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "interlace.launchers", "eval", "linear"]
    asked = [str(backbone_folder), "--cached", "--steps", "2", "--no-baselines", "--out", str(tmp_path / "found.json")]
    environment = {**os.environ, "INTERLACE_DATA": str(rooms_folder.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *plain, *asked], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("results: ") == 1
    assert [each.measure for each in read(tmp_path / "found.json")] == ["top-1", "top-1"]


def test_alone_there_is_nothing_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes("cuda:1") is None
