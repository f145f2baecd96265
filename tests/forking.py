"""Runs tests one by one, each in a fork of a process that has imported the heavy packages once.

Started with the tree of a mutant first on its path, it reads a test's name and a file for its output from each line of
its input, and answers with the fork's process number and then with pytest's exit status.
"""

from __future__ import annotations

import importlib
import os
import sys

HEAVY = (
    "torch",
    "torch.distributed",
    "transformers.models.dinov3_vit.modeling_dinov3_vit",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen3.modeling_qwen3",
    "scipy.spatial.transform",
    "sklearn.neighbors",
    "pydantic",
    "hypothesis",
    "typer.testing",
    "rich.console",
)


def run(test: str, output: str) -> None:
    """In the fork: a process group of its own, that the whole of it can be ended."""
    os.setsid()
    with open(output, "wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    # torch's entry points have imported some of ours: each fork sees the tree as it is by then
    for name in [name for name in sys.modules if name.partition(".")[0] == "interlace"]:
        del sys.modules[name]
    import pytest

    status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", test])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(status))


def main() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        test, output = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            run(test, output)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
