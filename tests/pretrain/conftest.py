"""What tests of the engine's parts share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from interlace.pretrain.ranks import join


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process, for parts that talk to other ranks."""
    before = dist.is_initialized()
    join()
    yield
    if not before:
        dist.destroy_process_group()
