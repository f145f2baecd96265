"""What is installed is what lies in the rooms: every module, recipe and page, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("backbone", "data_recipes", "tasks", "pretrain", "launchers", "eval")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked(*patterns: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def furniture() -> list[str]:
    """Every file of the rooms."""
    return [name for name in tracked(*ROOMS) if not name.endswith(".md")]


def test_every_folder_with_modules_is_a_package_that_is_installed() -> None:
    folders = {Path(name).parent.as_posix().replace("/", ".") for name in furniture()}
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(f"interlace.{folder}" for folder in folders)
    assert all((ROOT / folder.replace(".", "/") / "__init__.py").is_file() for folder in folders)


def test_every_room_is_typed() -> None:
    assert {f"{room}/py.typed" for room in ROOMS} <= set(furniture())


def test_every_direct_package_is_pinned_and_credited() -> None:
    project = PROJECT["project"]
    named = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    names = {_normal(re.split(r"[\[<>=~! ;]", line)[0]) for line in named} - {"interlace"}
    credited = {_normal(name) for name in re.findall(r"^\| ([\w.-]+) \|", (ROOT / "THIRD_PARTY.md").read_text(), re.M)}
    assert names <= credited
    pinned = {_normal(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines() if line}
    exact = {_normal(line.split("==")[0]) for line in named if "==" in line}
    # flash-attn needs a GPU to be tested with; types-PyYAML only ever concerns mypy
    assert names - pinned - exact <= {"flash-attn", "types-pyyaml"}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the tracked files, built beside the tree: a stale ``build/`` there would leak into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in [*furniture(), "pyproject.toml", "README.md", "LICENSE"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(source)], check=True, capture_output=True, text=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_rooms(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        (entries,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
        facts = Parser().parsestr(archive.read(metadata).decode())
        assert "interlace = interlace.launchers.cli:main" in archive.read(entries).decode()
    assert inside == {f"interlace/{name}" for name in furniture()}
    assert facts["License-Expression"] == "Apache-2.0"
    assert set(facts.get_all("Provides-Extra") or []) == {"demo", "test", "vlm", "vla", "eval", "gpu", "rerun"}


@pytest.mark.slow
def test_every_module_of_the_wheel_imports(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    modules = [name for name in furniture() if name.endswith(".py") and name != "eval/lmms_model.py"]  # lmms-eval's own
    names = ["interlace." + name.removesuffix(".py").replace("/", ".") for name in modules]
    code = """
import importlib, sys
for name in sys.argv[2:]:
    module = importlib.import_module(name.removesuffix(".__init__"))
    assert module.__file__.startswith(sys.argv[1]), module.__file__
from interlace.data_recipes.recipe import shipped
print(shipped())
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "MUJOCO_GL": "disable"}
    command = [sys.executable, "-c", code, str(tmp_path / "site"), *names]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "omnistream_stage1" in done.stdout
