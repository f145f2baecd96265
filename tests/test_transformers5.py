"""The next major release of transformers, laid over this environment: what speaks with it gives the same answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

ROOT = Path(__file__).resolve().parents[1]
VERSION = "5.23.0"
#: What compares with transformers' classes, or reads and writes their folders.
TESTS = (
    "tests/backbone/test_dinov3_parity.py",
    "tests/backbone/test_weights.py",
    "tests/backbone/test_load.py",
    "tests/tasks/test_captioning.py",
)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with transformers 5 and what it needs anew; put first on the path, it hides the older release."""
    folder = tmp_path_factory.mktemp("transformers5")
    # numpy stays: torch and everything else were built against it
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("numpy==")]
    (folder / "constraints.txt").write_text("\n".join(pinned))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--target", str(folder / "site"), "--constraint", str(folder / "constraints.txt")]
    subprocess.run([*command, f"transformers=={VERSION}"], check=True, capture_output=True, text=True)
    return folder / "site"


@pytest.mark.slow
@pytest.mark.parametrize("tests", TESTS)
def test_transformers_5(tests: str, layer: Path) -> None:
    assert transformers.__version__.startswith("4."), "this environment has the other major release"
    environment = {**os.environ, "PYTHONPATH": str(layer), "HF_HUB_OFFLINE": "1"}
    asked = [sys.executable, "-c", "import transformers; print(transformers.__version__)"]
    shown = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == VERSION
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-m",
        "not slow",
        tests,
    ]
    done = subprocess.run([*command, tests], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
