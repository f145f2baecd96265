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
from interlace.data_recipes import DataError
from interlace.eval.davis import MaskedClip, write_sequence
from interlace.eval.feed import Share
from interlace.eval.feed import alone as one_by_one
from interlace.eval.frozen import NotFrozen
from interlace.eval.geometry import Entry, Suite, stream_geometry
from interlace.eval.images import Data
from interlace.eval.linear_probe import LinearBudget, probe_classes
from interlace.eval.recordings import Recording
from interlace.eval.result import Result, read
from interlace.eval.spread import Shared, Spread, processes
from interlace.eval.subjects import FrozenBackbone, Tokens
from interlace.eval.vos import label_propagation

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


def write_davis(root: Path) -> None:
    """Three sequences, and a fourth that is only listed."""
    rng = np.random.default_rng(0)
    for name in "abd":
        masks = np.zeros((4, 16, 24), np.uint8)
        masks[:, 4:12, 8:20] = 1
        write_sequence(root, MaskedClip(name, rng.integers(0, 256, (4, 16, 24, 3), np.uint8), masks))
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("a\nb\nc\nd\n")


class Plain:
    """Reads a depth off the mean of a frame's tokens."""

    name, layers = "plain", ()

    def settings(self) -> dict[str, object]:
        return {}

    def read(self, tokens: Tokens, first: Tokens, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full(size, 1 + float(tokens.cls.mean()) ** 2), torch.tensor([0.0, 0, 0, 1, 0, 0, 0])


def recorded() -> Suite:
    """Four sequences of which the second cannot be read."""

    def read(number: int) -> Recording:
        if number == 1:
            raise DataError("broken")
        rng = np.random.default_rng(number)
        return Recording(rng.integers(0, 256, (3, 16, 16, 3), np.uint8), rng.uniform(1, 5, (3, 16, 16)).astype("f4"))

    return Suite("depth", "D", "sequence", [Entry(f"{n}", f"{n}", lambda n=n: read(n)) for n in range(4)])  # type: ignore[misc]


def sequences(subject: FrozenBackbone | Spread, root: Path, share: Share, read: list[str]) -> list[Result]:
    """Measures of both kinds; ``read`` takes the sequences that this process read."""
    results = label_propagation(subject, root, short_side=16, share=share, say=read.append)
    return results + stream_geometry(subject, Plain(), recorded(), long_side=16, share=share, say=read.append)


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
    own, all_of_them = list[str](), list[str]()
    expected_results = sequences(alone, Path(folder) / "davis", one_by_one, all_of_them)
    assert sequences(spread, Path(folder) / "davis", Shared(state), own) == expected_results
    assert {each.n for each in expected_results} == {3}
    assert {tuple(each.facts.missing) for each in expected_results} == {("c",), ("1",)}
    assert len(all_of_them) == 8
    assert own == all_of_them[rank::2]
    with pytest.raises(NotFrozen, match=r"blocks.0.norm1.bias changed .* \(process 1\)"), spread.held():
        alone.backbone.blocks[0].norm1.bias.data += rank
    dist.destroy_process_group()


def test_two_processes_find_what_one_finds() -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        save(Backbone(CONFIG), Path(folder) / "mine")
        write_davis(Path(folder) / "davis")
        mp.spawn(worker, (folder,), WORLD)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "asked", "measures"),
    [
        ("linear", ["--cached", "--steps", "2", "--no-baselines"], ["top-1", "top-1"]),
        ("vos", ["--on", "davis17", "--short-side", "16", "--no-untrained", "--eight-bits"], ["J&F mean"]),
    ],
)
def test_a_command_under_accelerate_launch_writes_once(
    command: str, asked: list[str], measures: list[str], rooms_folder: Path, backbone_folder: Path, tmp_path: Path
) -> None:
    write_davis(tmp_path / "davis")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1", "--num_processes"]
    plain = ["2", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "interlace.launchers", "eval", command]
    asked = [str(backbone_folder), *asked, "--out", str(tmp_path / "found.json")]
    asked += ["--data", str(tmp_path / "davis")] if command == "vos" else []
    environment = {**os.environ, "INTERLACE_DATA": str(rooms_folder.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *plain, *asked], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("results: ") == 1
    assert [each.measure for each in read(tmp_path / "found.json")][: len(measures)] == measures


def test_alone_there_is_nothing_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes("cuda:1") is None
