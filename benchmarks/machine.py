"""When and where a benchmark ran: the first line of its output, so that figures that are kept say it themselves."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path

import torch


def processor() -> str:
    """The processor's name, as far as the system tells."""
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def stamp(device: torch.device) -> str:
    """The day, the hardware, the threads, torch, and how busy the machine was already."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    busy = f", load {os.getloadavg()[0]:.1f} before it" if hasattr(os, "getloadavg") else ""
    day = datetime.date.today().isoformat()
    return f"{day}, {platform.system()}, {device.type}: {hardware}, {threads}, torch {torch.__version__}{busy}"
