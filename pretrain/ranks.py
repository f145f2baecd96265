"""Which process this is: alone, under torchrun, or under srun."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """This process's place among all of them, and the device it computes on."""

    rank: int
    world: int
    local_rank: int
    device: torch.device

    @property
    def first(self) -> bool:
        """True on the one process that writes files and prints."""
        return self.rank == 0


def join() -> Ranks:
    """Join the job's process group, nccl on CUDA and gloo elsewhere; alone, make a group of one.

    Reads torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK) or, in a job step of several tasks, Slurm's (SLURM_PROCID,
    SLURM_STEP_NUM_TASKS, SLURM_LOCALID; the master is the first host of SLURM_STEP_NODELIST, the port is made from
    SLURM_JOB_ID). Calling it again returns the same place.
    """
    if "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        _adopt_slurm()
    device = _device()
    # DeepSpeed looks for an accelerator at its first import, whoever imports it, and warns where it finds none.
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        if "RANK" in os.environ:
            dist.init_process_group(backend, timeout=timedelta(minutes=30))
        else:
            # An in-process store: alone, no port is opened that another run could already hold.
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    return Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")), device)


def _device() -> torch.device:
    """This process's GPU, made the current one, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # Under `srun --gpus-per-task 1` every process sees one GPU, its own, whatever its number on the node. DeepSpeed
    # takes LOCAL_RANK for the GPU's number as well.
    index = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    os.environ["LOCAL_RANK"] = str(index)
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _adopt_slurm() -> None:
    """Say in torchrun's words what Slurm said in its own."""
    nodes = os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1")
    if "MASTER_ADDR" not in os.environ:
        hosts = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        os.environ["MASTER_ADDR"] = hosts.stdout.split()[0]
    # Jobs that share a node need ports of their own; 20,000 to 31,999 lie below the ephemeral ones of Linux.
    os.environ.setdefault("MASTER_PORT", str(20_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 12_000))
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_STEP_NUM_TASKS"]
    os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
