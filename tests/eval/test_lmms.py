"""The model ``interlace`` of lmms-eval, through lmms-eval's own command line, on a task that lies beside the test.

lmms-eval is heavy (some sixty packages, 0.9 GB, two minutes to install), and no other test needs it: this one installs
it, with the extra ``[vlm]`` and the pins of constraints.txt, into an environment that sees the present one's packages.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from interlace.data_recipes.worlds.tokenizer import train_tokenizer
from interlace.launchers.export import export_run
from interlace.tasks.vlm.reading import nothing, read_image, read_video, seen
from interlace.tasks.vlm.saved import load_vlm

sys.path[:0] = [str(Path(__file__).parents[1] / each) for each in ("tasks", "data_recipes", "launchers")]

from clips import make_video  # noqa: E402
from test_export_vlm import write_run  # noqa: E402
from tiny_vlm import build  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TASK = """
task: toy_rooms
dataset_path: json
dataset_kwargs:
  data_files:
    test: DATA
test_split: test
output_type: generate_until
doc_to_visual: !function looks.doc_to_visual
doc_to_text: !function looks.doc_to_text
doc_to_target: answer
process_results: !function looks.process_results
generation_kwargs:
  max_new_tokens: 6
  until: ["ZZ"]
  do_sample: false
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
LOOKS = """
from PIL import Image

def doc_to_visual(doc):
    name = doc["visual"]
    return [] if not name else [Image.open(name).convert("RGB") if name.endswith(".png") else name]

def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def process_results(doc, results):
    return {"acc": float(results[0] == doc["answer"])}
"""


def tracked() -> list[str]:
    """The project's files, new ones that are not ignored among them."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    lines = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if not line.startswith("tests/") and (ROOT / line).is_file()]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the extra ``[vlm]`` laid over this one."""
    folder = tmp_path_factory.mktemp("layer")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    inside = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    )
    (Path(inside.stdout.strip()) / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in tracked():  # a copy: a stale build folder of the tree would leak into it
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--constraint", ROOT / "constraints.txt", f"{folder / 'source'}[vlm]"]
    subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return python


QUESTION = "what colour is the box?"


def answers_of(model: Path, root: Path) -> dict[str, str]:
    """What ``chat`` answers about an image, a video and words alone."""
    task, eyes = load_vlm(model)
    task.options = task.options.model_copy(update={"max_generated": 6})
    film = read_video(root / "clip.mp4", task.options.fps, task.options.max_frames)
    samples = {"photo.png": read_image(root / "photo.png"), "clip.mp4": film, "": nothing()}
    return {name: task.answer([seen(task, eyes, one)], [[(QUESTION, None)]])[0] for name, one in samples.items()}


def write_task(root: Path) -> None:
    """A run in ``root / "run"``, exported to ``root / "exported"``, and a task that the run does but for one row."""
    train_tokenizer(["what colour is the red box?", "left of the blue ball, far away"] * 3, root / "text.model")
    task, eyes = build(root / "text.model", max_generated=12, max_frames=4)
    write_run(root / "run", task, eyes, root / "backbone")
    export_run(root / "run", root / "exported", "apache-2.0")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 70, 3)).astype(np.uint8)).save(root / "photo.png")
    (root / "clip.mp4").write_bytes(make_video(31, fps=5))
    rows = [
        {"visual": name and str(root / name), "question": QUESTION, "answer": answer}
        for name, answer in answers_of(root / "run", root).items()
    ]
    rows.append({**rows[0], "answer": "not this"})
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "task").mkdir()
    (root / "task" / "toy_rooms.yaml").write_text(TASK.replace("DATA", str(root / "rows.jsonl")))
    (root / "task" / "looks.py").write_text(LOOKS)


def evaluate(python: Path, root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-m", "lmms_eval", "--model", "interlace", "--tasks", "toy_rooms", *more]
    command += ["--include_path", str(root / "task"), "--output_path", str(root / "out"), "--log_samples"]
    variables = {
        **os.environ,
        "HF_HOME": str(root / "cache"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True, timeout=900)


def check_command_line(python: Path, root: Path) -> None:
    write_task(root)
    for model in ("run", "exported"):
        shutil.rmtree(root / "out", ignore_errors=True)
        done = evaluate(python, root, "--model_args", f"pretrained={root / model}", "--batch_size", "1")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        (samples,) = (root / "out").rglob("*_samples_toy_rooms.jsonl")
        rows = [json.loads(line) for line in samples.read_text().splitlines()]
        answers = {row["doc_id"]: row["filtered_resps"] for row in rows}
        said = list(answers_of(root / model, root).values())
        assert [answers[number] for number in range(4)] == [*said, said[0]]
        (results,) = (root / "out").rglob("*_results.json")
        found: dict[str, Any] = json.loads(results.read_text())["results"]["toy_rooms"]
        asked = [json.loads(line)["answer"] for line in (root / "rows.jsonl").read_text().splitlines()]
        # Below 0.75 for the exported one: bytes that are no text, which random weights say, are written otherwise.
        assert found["acc,none"] == np.mean([answers[number] == answer for number, answer in enumerate(asked)]) > 0.25
    assert len({*said}) > 1, "what is shown must matter"
    refused = evaluate(python, root, "--batch_size", "1")
    assert "interlace: say which run: --model_args pretrained=RUN" in refused.stdout + refused.stderr


@pytest.mark.slow
def test_lmms_eval_measures_a_run_and_what_was_exported(python: Path, tmp_path: Path) -> None:
    """Its command finds the model by its entry point; its answers are those of ``interlace chat``."""
    check_command_line(python, tmp_path)


def test_the_entry_point_names_what_is_there() -> None:
    """Without lmms-eval: the name in pyproject.toml leads to a function, and that to a class in a file."""
    import ast
    import tomllib

    from interlace.eval import lmms

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lmms_eval.models"] == {"interlace": "interlace.eval.lmms:manifest"}
    assert callable(lmms.manifest)
    classes = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for node in ast.parse((ROOT / "eval" / "lmms_model.py").read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    assert classes == {"InterlaceModel": ["lmms"]}
