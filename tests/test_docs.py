"""What the pages say can be done: their commands and their code are run, on toy data, in folders that are thrown away.

A fence is run unless it is marked: ``bash slow`` is run among the slow tests, ``bash no-run`` never. The python of a
page is one program from top to bottom. A fence of yaml that begins with ``# NAME.yaml`` is that file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from interlace.backbone import Backbone, BackboneConfig, save
from interlace.data_recipes import FIELDS, Episode, Sample, SampleWriter, Text
from interlace.data_recipes.recipe import find_recipe, resolve
from interlace.data_recipes.worlds.tokenizer import train_tokenizer
from interlace.pretrain.run_folder import append
from interlace.pretrain.train import SECTIONS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(\w*)[ ]?(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Fence:
    language: str
    mark: str
    text: str


def fences(page: Path) -> list[Fence]:
    return [Fence(*match.groups()) for match in FENCE.finditer(page.read_text())]


def with_bash(mark: str) -> list[Path]:
    return [page for page in PAGES if any(fence.language == "bash" and fence.mark == mark for fence in fences(page))]


#: Of the labels that ``demo.yaml`` asks for.
CLASSES = {"floor": ["wood", "stone"], "colour": ["red", "blue"], "shape": ["box", "ball"]}


def toy_sample(number: int, dataset: str, banks: dict[str, int]) -> Sample:
    rng = np.random.default_rng(number)
    count, side = 4, 64
    K = np.array([[side, 0, side / 2], [0, side, side / 2], [0, 0, 1]], np.float32)
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, 0, 3] = np.arange(count) / 4
    box = np.array([[0.1, 0.2, 0.6, 0.7]], np.float32)
    return Sample(
        key=f"{dataset}/{number}/0",
        source="",
        frames=rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8),
        times=np.arange(count) / 4,
        depth=rng.uniform(1, 3, (count, side, side)).astype(np.float32),
        K=np.tile(K, (count, 1, 1)),
        c2w=c2w,
        texts=[
            Text(kind="caption", prompt="describe the room", answer="a red room", frame=1),
            Text(kind="grounding", prompt="where is the box?", answer="<box>", frame=0, boxes=box),
        ],
        clusters={bank: rng.permutation(rows)[:10] for bank, rows in banks.items()},
        labels=dict.fromkeys(CLASSES, number % 2),
        episode=Episode(
            instruction="press the button",
            actions=rng.random((count, 4), np.float32),
            proprio=np.zeros((count, 0), np.float32),
            steps=np.arange(count),
        ),
    )


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that INTERLACE_DATA may name: all that ``demo.yaml`` wants to be there, as little of it as can be."""
    root = tmp_path_factory.mktemp("data")
    file = find_recipe("demo")
    recipe = resolve(file.read_text(), SECTIONS, environment={"INTERLACE_DATA": str(root)}, file=str(file))
    rows = recipe.tasks["clusters"].options.model_dump()["banks"]
    banks = {name: bank["rows"] for name, bank in rows.items()}
    sources = [source for task in recipe.tasks.values() for source in (*task.sources, *task.held_out, *task.pictured)]
    for path in {Path(source.path) for source in sources}:
        with SampleWriter(
            path,
            name=path.name,
            fields=FIELDS,
            split="train",
            licence="CC0-1.0",
            fps=4.0,
            classes=CLASSES,
            banks=banks,
        ) as writer:
            for number in range(6):
                writer.write(toy_sample(number, path.name, banks))
    tokenizer = Path(recipe.tasks["captioning"].options.model_dump()["tokenizer"])
    train_tokenizer({"describe the room", "a red room", "where is the box?", "<box>"}, tokenizer)
    return root


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a reader has at hand: photographs, a video, a finished run, and the repository's own folders."""
    monkeypatch.chdir(tmp_path)
    for name in ("benchmarks", "data_recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        picture = rng.integers(0, 256, (80, 96, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "photos" / f"{number}.jpg")
    with av.open(str(tmp_path / "video.mp4"), "w") as video:
        stream = video.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(4):
            image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        video.mux(stream.encode(None))
    run = tmp_path / "runs" / "demo"
    save(Backbone(BackboneConfig(hidden_size=32, depth=2, heads=2, mlp_size=32, patch_size=8)), run / "backbone")
    append(run / "eval.jsonl", [{"step": 5, "task": "geometry", "measure": "abs_rel", "value": 0.2, "blind": 0.3}])
    return tmp_path


def run_fences(page: Path, mark: str, folder: Path, data: Path) -> None:
    variables = {**os.environ, "INTERLACE_DATA": str(data), "OMP_NUM_THREADS": "1"}
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
    for fence in fences(page):
        name = re.match(r"# (\w+\.yaml)\n", fence.text)
        if fence.language == "yaml" and name:
            (folder / name[1]).write_text(fence.text)
        elif fence.language == "bash" and (fence.mark == mark or (mark == "slow" and not fence.mark)):
            command = ["bash", "-euo", "pipefail", "-c", fence.text]
            done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
            assert done.returncode == 0, f"{fence.text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("page", with_bash(""), ids=lambda page: page.name)
def test_commands(page: Path, folder: Path, demo_data: Path) -> None:
    run_fences(page, "", folder, demo_data)


@pytest.mark.slow
@pytest.mark.parametrize("page", with_bash("slow"), ids=lambda page: page.name)
def test_slow_commands(page: Path, folder: Path, demo_data: Path) -> None:
    run_fences(page, "slow", folder, demo_data)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(fence.language == "python" for fence in fences(page))], ids=lambda p: p.name
)
def test_python(page: Path, folder: Path) -> None:
    program = "\n".join(fence.text for fence in fences(page) if fence.language == "python")
    exec(compile(program, str(page), "exec"), {"__name__": "__docs__"})


def test_marks_are_known() -> None:
    found = {
        (page.name, fence.mark) for page in PAGES for fence in fences(page) if fence.language in ("bash", "python")
    }
    assert {mark for _, mark in found} <= {"", "slow", "no-run"}, found


def test_links_lead_somewhere() -> None:
    pages = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "THIRD_PARTY.md"]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#\s]+)", FENCE.sub("", page.read_text()))]
    broken = [f"{page.name}: {link}" for page, link in links if "://" not in link and not (page.parent / link).exists()]
    assert len(links) > 20
    assert not broken


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"(docs/{page.name})" in readme for page in (ROOT / "docs").glob("*.md"))


def test_tables_name_files_that_exist() -> None:
    """The first column of a page's table of files, in the folder that the page says its code is in."""
    wrong = []
    for page in (ROOT / "docs").glob("*.md"):
        text = page.read_text()
        room = re.search(r"[Tt]he\s+code is(?: in)?\s+`([\w/]+)/`", text)
        if room:
            for cell in re.findall(r"^\| (`[\w/]+\.py`[^|]*)\|", text, re.MULTILINE):
                named = re.findall(r"`([\w/]+\.py)`", cell)
                wrong += [f"{page.name}: {name}" for name in named if not (ROOT / room[1] / name).is_file()]
    assert not wrong


@pytest.mark.parametrize("task", sorted(SECTIONS.tasks))
def test_the_table_of_terms_has_every_term(task: str) -> None:
    """Each term of a task's own page is in the one table of all."""
    tables = re.findall(r"(?:^\|.*\n)+", (ROOT / "docs" / f"{task}.md").read_text(), re.MULTILINE)
    own = next(found for found in tables if "divided by" in found.splitlines()[0])
    terms = re.findall(r"^\|(?: `\w+` \|| \|)? `(\w+|<bank>_\w+)` \|", own, re.MULTILINE)
    table = (ROOT / "docs" / "tasks.md").read_text()
    assert terms
    assert all(f"`{task}/{term.replace('<bank>', 'BANK')}`" in table for term in terms)
