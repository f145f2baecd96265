"""Which process this is, where torchrun or Slurm say so; no process group is made."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist

from interlace.pretrain.ranks import join


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What ``join`` asks of torch.distributed and of CUDA, neither of which is here."""
    said: dict[str, object] = {}
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)  # so that what join sets is taken away again
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **how: said.update(backend=backend, **how))
    monkeypatch.setattr(dist, "get_rank", lambda: int(os.environ.get("RANK", "0")))
    monkeypatch.setattr(dist, "get_world_size", lambda: int(os.environ.get("WORLD_SIZE", "1")))
    return said


def gpus(monkeypatch: pytest.MonkeyPatch, count: int, asked: dict[str, object]) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.update(device=device))


STEP = {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(("visible", "index"), [(4, 1), (1, 0)])
def test_a_process_takes_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, object], visible: int, index: int
) -> None:
    gpus(monkeypatch, visible, asked)  # srun --gpus-per-task 1 shows every process one GPU
    for name, value in {**STEP, "MASTER_ADDR": "node"}.items():
        monkeypatch.setenv(name, value)
    ranks = join()
    assert (ranks.rank, ranks.world, ranks.device) == (5, 8, torch.device("cuda", index))
    assert (asked["backend"], asked["device"]) == ("nccl", index)
    assert os.environ["LOCAL_RANK"] == str(index)  # DeepSpeed's GPU
    assert join() == ranks


def test_a_batch_script_without_srun_is_alone(monkeypatch: pytest.MonkeyPatch, asked: dict[str, object]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, value in {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "n[1-2]"}.items():
        monkeypatch.setenv(name, value)
    ranks = join()
    assert (ranks.rank, ranks.world) == (0, 1)
    assert asked["world_size"] == 1


def test_a_step_meets_at_its_own_first_host(monkeypatch: pytest.MonkeyPatch, asked: dict[str, object]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def scontrol(command: list[str], **how: object) -> object:
        class Done:
            stdout = {"n[1-4]": "n1\nn2\nn3\nn4\n", "n[3-4]": "n3\nn4\n"}[command[-1]]

        return Done

    monkeypatch.setattr("subprocess.run", scontrol)
    for name, value in {**STEP, "SLURM_JOB_NODELIST": "n[1-4]", "SLURM_STEP_NODELIST": "n[3-4]"}.items():
        monkeypatch.setenv(name, value)
    join()
    assert os.environ["MASTER_ADDR"] == "n3"
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("5", "8")
