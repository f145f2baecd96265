"""Who may write into a run's folder, and what is there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from interlace.pretrain import run_folder
from interlace.pretrain.run_folder import FolderInUse, RunFolder, append, environment, forget_after, rows


def began(folder: RunFolder, recipe: str, *, resume: bool = False) -> Path | None:
    """The checkpoint to go on from; the folder of a run that begins, where there is none."""
    checkpoint = folder.find(resume=resume)
    if checkpoint is None:
        folder.begin(recipe, resume=resume)
    return checkpoint


def test_a_used_folder_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert began(folder, "name: a\n") is None
    with pytest.raises(FolderInUse, match="already holds a run; go on with --resume"):
        folder.find(resume=False)
    assert folder.recipe.read_text() == "name: a\n"


def test_a_folder_of_other_files_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    for name in ("slurm-7.out", "zebra.jpg", "beach.jpg"):
        (tmp_path / name).touch()
    for resume in (False, True):
        with pytest.raises(FolderInUse, match=r"holds beach\.jpg, which no run begins with; name a new or"):
            RunFolder(tmp_path).find(resume=resume)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beach.jpg", "slurm-7.out", "zebra.jpg"]


@pytest.mark.parametrize("name", ["pictures/beach.jpg", "checkpoints/step_00000010"])
def test_somebodys_own_pictures_and_checkpoints_are_no_runs(name: str, tmp_path: Path) -> None:
    """The run would overwrite the one and prune the other."""
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(FolderInUse, match=f"holds {name}, which no run begins with"):
        RunFolder(tmp_path).find(resume=True)
    assert [path.name for path in tmp_path.iterdir()] == [Path(name).parts[0]]


@pytest.mark.parametrize(
    "name", [".nfs0001", "slurm-7.out", "job.err", "train.log", "job.o123", "handoff", "checkpoints"]
)
def test_what_schedulers_and_earlier_beginnings_leave_is_no_obstacle(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    began(RunFolder(tmp_path), "name: a\n")
    assert (tmp_path / "recipe.yaml").exists()


def test_resume_begins_where_there_is_nothing_to_resume(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert began(folder, "name: a\n", resume=True) is None
    assert folder.recipe.exists()


def test_of_two_that_begin_at_once_one_is_refused(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    for each in (first, second):
        assert each.find(resume=False) is None
    first.begin("name: a\n", resume=False)
    with pytest.raises(FolderInUse, match="another run began here meanwhile"):
        second.begin("name: b\n", resume=False)
    assert first.recipe.read_text() == "name: a\n"


def test_a_folder_that_takes_no_files_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(**options: object) -> object:
        raise OSError(28, "No space left on device", str(options["dir"]))

    monkeypatch.setattr(run_folder, "TemporaryFile", full)
    with pytest.raises(OSError, match="No space left on device"):
        RunFolder(tmp_path / "run").find(resume=False)


def test_environment_names_packages(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    began(folder, "name: a\n")
    text = (tmp_path / "environment.txt").read_text()
    assert "torch==" in text
    assert "python 3" in text
    assert torch.version.cuda is not None or ", no CUDA\n" in text


def test_rows_past_the_checkpoint_are_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, [{"step": step, "loss": 1.0} for step in (10, 20, 30)])
    with path.open("a") as file:
        file.write('{"step": 4')  # the line a crash cut
    forget_after(path, 20)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20]


def test_a_cut_row_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    append(path, [{"step": 0}])
    assert rows(path) == [{"step": 0}]
    with path.open("a") as file:
        file.write('{"step": 4')
    with pytest.raises(ValueError, match=r"eval\.jsonl:2: not a whole row"):
        rows(path)
    assert rows(tmp_path / "none.jsonl") == []


def test_a_run_that_begins_again_has_no_rows(tmp_path: Path) -> None:
    """It was cut before its first checkpoint; what it measured at step 0 is measured again."""
    path = tmp_path / "eval.jsonl"
    append(path, [{"step": 0, "value": 1.0}, {"step": 5, "value": 2.0}])
    forget_after(path, 0)
    assert path.read_text() == ""


def test_a_cut_while_rows_are_dropped_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, [{"step": step} for step in (10, 20, 30)])
    before = path.read_text()

    def cut(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", cut)
    with pytest.raises(KeyboardInterrupt):
        forget_after(path, 20)
    assert path.read_text() == before


def test_a_run_cut_before_its_first_checkpoint_begins_with_the_recipe_given_now(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    began(folder, "name: a\n")
    assert began(folder, "name: b\n", resume=True) is None
    assert folder.recipe.read_text() == "name: b\n"
    checkpoint = folder.checkpoints / "step_00000001"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text("{}")
    assert began(folder, "name: c\n", resume=True) == checkpoint
    assert folder.recipe.read_text() == "name: b\n"


def test_a_machine_without_git_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    began(RunFolder(tmp_path), "name: a\n")
    assert "revision unknown" in (tmp_path / "environment.txt").read_text()


def test_the_revision_is_this_codes_and_not_that_of_a_project_it_is_installed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        somebody = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", str(tmp_path), *somebody, *words], check=True, capture_output=True)

    code = tmp_path / "run_folder.py"
    code.touch()
    git("init")
    git("commit", "--allow-empty", "-m", "the project's own")
    monkeypatch.setattr(run_folder, "__file__", str(code))
    assert "revision unknown" in environment()
    git("add", code.name)
    assert "revision unknown" not in environment()
