"""The plan of the house: which room may look into which, and how large a room's furniture may get."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: room -> rooms it may import. ``pretrain/train.py`` alone joins recipe, tasks and engine.
MAY_IMPORT = {
    "backbone": set(),
    "data_recipes": set(),
    "tasks": {"backbone", "data_recipes"},
    "pretrain": {"tasks.interface", "data_recipes", "backbone"},
    "eval": {"backbone", "data_recipes", "tasks"},
    "launchers": {"backbone", "data_recipes", "tasks", "pretrain", "eval"},
}
JOINS = ROOT / "pretrain" / "train.py"
LONGEST_FILE = 500


def sources() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.split() if (ROOT / line).exists()]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")
            if node.module == "interlace":
                yield from ((node.lineno, f"interlace.{alias.name}") for alias in node.names)


def test_imports_point_one_way() -> None:
    wrong = []
    for path in sources():
        room = path.relative_to(ROOT).parts[0]
        if room not in MAY_IMPORT or path == JOINS:
            continue
        for line, name in imports(path):
            if not name.startswith("interlace.") or name.startswith(f"interlace.{room}"):
                continue
            target = name.removeprefix("interlace.")
            allowed = any(target == each or target.startswith(each + ".") for each in MAY_IMPORT[room])
            if not allowed:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_deepspeed_is_imported_in_one_file() -> None:
    importing = re.compile(r"^\s*(import|from) deepspeed|import_module\(.deepspeed", re.MULTILINE)
    rooms = [path for path in sources() if path.relative_to(ROOT).parts[0] in MAY_IMPORT]
    found = {str(path.relative_to(ROOT)) for path in rooms if importing.search(path.read_text())}
    assert found == {"pretrain/zero.py"}


def test_rooms_refer_to_themselves_relatively() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources()
        if (room := path.relative_to(ROOT).parts[0]) in MAY_IMPORT
        for line, name in imports(path)
        if name == f"interlace.{room}" or name.startswith(f"interlace.{room}.")
    ]
    assert not wrong, "\n".join(wrong)


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    long = {
        str(path.relative_to(ROOT)): n for path in sources() if (n := len(path.read_text().splitlines())) > LONGEST_FILE
    }
    assert not long


def test_no_private_paths() -> None:
    private = re.compile(r"(?<![\w.])/(root|home|Users|mnt|data)/\w")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if private.search(line) and path.name != Path(__file__).name
    ]
    assert not found


@pytest.mark.parametrize("heavy", ["transformers", "deepspeed", "pydantic", "streaming", "torchvision"])
def test_backbone_imports_with_the_core_alone(heavy: str) -> None:
    code = f"import sys; sys.modules[{heavy!r}] = None; import interlace.backbone"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_torch_is_the_cpu_build_where_there_is_no_gpu() -> None:
    import torch

    assert torch.cuda.is_available() or torch.version.cuda is None
