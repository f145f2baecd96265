"""An environment with some packages, what they need, and nothing else: links into the folders they are installed in."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

#: What may be there where an exported model is used.
PACKAGES = ("torch", "transformers", "safetensors", "pillow")
#: The release of transformers that exports are used under beside this environment's.
NEWER = "5.23.0"


def build_room(folder: Path, *, over: Path | None = None, packages: Sequence[str] = PACKAGES) -> Path:
    """Make ``folder``, to be the whole of ``sys.path`` beside the standard library.

    Packages in folder ``over`` hide those of this environment.
    """
    places = [*([str(over)] if over else []), *sys.path]
    installed: dict[str, Distribution] = {}
    for found in distributions(path=places):
        installed.setdefault(_normal(found.metadata["Name"]), found)
    folder.mkdir()
    waiting, done = [_normal(name) for name in packages], set()
    while waiting:
        name = waiting.pop()
        if name in done or name not in installed:
            continue  # an optional package, or one for another system
        done.add(name)
        for line in installed[name].requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(_normal(requirement.name))
        for top in {file.parts[0] for file in installed[name].files or ()} - {"..", "__pycache__", "bin"}:
            target = Path(str(installed[name].locate_file(top)))
            if target.exists() and not (folder / top).exists():
                (folder / top).symlink_to(target)
    assert set(packages) <= done
    assert not {"interlace", "torchvision", "numpydoc"} & done
    return folder


def newer_transformers(home: Path) -> Path:
    """Install :data:`NEWER` and what it needs into a folder in ``home``, to be laid over a room."""
    newer, constraints = home / "newer", home / "constraints.txt"
    ours = Path(__file__).resolve().parents[2] / "constraints.txt"
    constraints.write_text("\n".join(line for line in ours.read_text().splitlines() if line.startswith("numpy==")))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(newer)]
    command += ["--constraint", str(constraints), f"transformers=={NEWER}"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return newer


def imported(folder: Path) -> set[str]:
    """The packages that an export's files import; those of its own must lie there."""
    found, files = set(), sorted(folder.glob("*.py"))
    assert len(files) > 12
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(str(node.module).partition(".")[0])
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1
                assert (folder / f"{node.module}.py").is_file(), f"{file.name}: {node.module}"
    return found


def run_in(room: Path, code: str, *arguments: str | Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run ``code`` with ``room`` as its only packages; transformers keeps copies of a model's code in ``cache``."""
    start = f"import sys; sys.path.append({str(room)!r})\n"
    # -S: no site-packages; -I: no current folder and no PYTHONPATH.
    command = [sys.executable, "-I", "-S", "-c", start + code, *map(str, arguments)]
    variables = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=variables, cwd=cache.parent, capture_output=True, text=True, timeout=600)


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
