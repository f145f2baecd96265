"""The command line: what it takes, what it says, and how it fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import typer
from toy_recipe import interlace
from transformers import Qwen3Config, Qwen3ForCausalLM

from interlace.launchers import cli
from interlace.pretrain.run_folder import RunFolder

#: Options of the commands that watch footage.
WATCHING = {"--size", "--fps", "--frames", "--window", "--sink", "--max-frames", "--dtype"}
#: Command -> its arguments and options. Adding one here is a decision, not an accident.
COMMANDS = {
    "check": {"recipe", "changes", "--gpus", "--gpu-memory", "--tflops", "--utilisation"},
    "pretrain": {"recipe", "changes", "--run", "--resume", "--replay"},
    "demo": {"--run", "--seed", "--long", "--resume", "--full"},
    "prepare": {"what", "--to", "--long"},
    "inspect": {"what", "--out"},
    "report": {"run", "--out"},
    "eval": set(),
    "features": {"footage", "--backbone", "--out", "--layers", *WATCHING},
    "stream": {"backbone", "footage", "--save", *WATCHING},
    "export": {"run", "--to", "--licence"},
    "chat": {"model", "question", "--image", "--video", "--backbone"},
}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """``interlace ARGUMENTS`` in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["interlace", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_commands_and_options_are_these() -> None:
    group = typer.main.get_command(cli.app)
    found = {
        name: {
            parameter.opts[0] if parameter.param_type_name == "option" else parameter.name
            for parameter in command.params
            if parameter.name != "help"
        }
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }
    assert found == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, command, "--help") == 0
    shown = capsys.readouterr().out
    assert re.search(rf"Examples?: .*\b{command}\b", shown)


def test_help_waits_for_nothing_heavy() -> None:
    code = "import sys, interlace.launchers.cli; print(sorted({'torch', 'numpy', 'deepspeed'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # torch's entry point may import it before any code of ours runs
    assert found.stdout.strip() == "[]"


def test_check_prints_parameters_tokens_and_shares(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(toy.rglob("*"))
    extra = f"{{name: more, format: mds, path: '{toy / 'data' / 'train'}', weight: 3}}"
    sources = f"tasks.ssl.sources=[{{name: clips, format: mds, path: '{toy / 'data' / 'train'}'}}, {extra}]"
    assert run(monkeypatch, "check", toy / "toy.yaml", sources, "tasks.ssl.micro_batches=2") == 0
    shown = capsys.readouterr().out
    assert re.search(r"^backbone +40,928$", shown, re.MULTILINE)
    assert re.search(r"^clusters: object +256$", shown, re.MULTILINE)
    # 2 x 4 samples of 2 global crops of 2 frames with 16 patches and 1 local crop with 4, and 6 other tokens a frame
    assert re.search(rf"^ssl +0\.1 +8 +{2 * 4 * (2 * 2 * 22 + 2 * 10):,}$", shown, re.MULTILINE)
    assert re.search(r"^ssl +more +75\.0% +12 +mds *$", shown, re.MULTILINE)
    assert sorted(toy.rglob("*")) == before


def test_check_reads_no_weights(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A decoder's parameters are counted from its configuration: its weights may be anything."""
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "head_dim": 32}
    decoder = Qwen3ForCausalLM(Qwen3Config(vocab_size=600, num_attention_heads=2, num_key_value_heads=1, **shape))
    decoder.save_pretrained(tmp_path / "decoder")
    (tmp_path / "decoder" / "model.safetensors").write_bytes(b"not weights")
    assert run(monkeypatch, "check", toy / "toy.yaml", f"tasks.captioning.options.decoder={tmp_path / 'decoder'}") == 0
    projector = (32 + 1) * 64 + (64 + 1) * 64
    expected = sum(parameter.numel() for parameter in decoder.parameters()) + projector
    assert re.search(rf"^captioning +{expected:,}$", capsys.readouterr().out, re.MULTILINE)


def test_check_of_the_papers_recipe_lists_what_is_missing_a_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("INTERLACE_DATA", "DINOV3_VITL16", "QWEN3_0_6B"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    assert run(monkeypatch, "check", "omnistream_stage1") == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 28 + 3
    assert all(re.match(r".*omnistream_stage1\.yaml:\d+: [a-z_0-9.]+: found .*; allowed an existing", x) for x in lines)
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


def test_input_that_was_not_made_is_named_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INTERLACE_DATA", str(tmp_path))
    assert run(monkeypatch, "check", "demo_long") == 2
    *wrong, hint = capsys.readouterr().err.splitlines()
    assert len(wrong) > 10
    assert hint == f"interlace prepare demo --long makes what is missing in {tmp_path / 'demo'}"
    assert run(monkeypatch, "check", "vla_demo", f"backbone.init={tmp_path}") == 2
    hints = [line for line in capsys.readouterr().err.splitlines() if line.startswith("interlace")]
    assert hints == [f"interlace prepare table makes what is missing in {tmp_path / 'table'}"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["check", "nowhere.yaml"], r"interlace: nowhere\.yaml:1: recipe: found no such file; allowed a recipe's file"),
        (["check", "TOY", "engine.warmpu=3"], r"interlace: command line:1: engine\.warmpu: .*did you mean warmup\?"),
        (["prepare", "."], r"interlace: say where the shards of \. go: interlace prepare \. --to SHARDS"),
        (["prepare", "dmo"], r"interlace: dmo: no such folder; allowed are demo, questions, table, or a folder of jpg"),
        (["prepare", "demo", "--to", "x"], r"interlace: --to x: the shards of a folder go there; demo goes where"),
        (["pretrain", "TOY", "--run", "TOY"], r"interlace: \S+toy\.yaml is a file, not a folder; name another --run"),
        (["prepare", "nowhere", "--to", "shards"], r"interlace: nowhere: no such folder"),
        (["report", "."], r"interlace: \. holds no run: it has no recipe\.yaml; give the folder that --run named"),
        (
            ["pretrain", "--replay", "gone.pt"],
            r"interlace: gone\.pt: no such file; a stopped run names its replay file",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    arguments: list[str],
    line: str,
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *[str(toy / "toy.yaml") if argument == "TOY" else argument for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(line + r"[^\n]*\n", captured.err)
    assert not list(tmp_path.iterdir())


def test_pretrain_wants_a_recipe_or_a_replay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "pretrain") == 2
    assert run(monkeypatch, "pretrain", "demo", "--replay", "file.pt") == 2
    assert capsys.readouterr().err.count("a --replay file, one of them") == 2
    for other in (("--run", "there"), ("--resume",)):
        assert run(monkeypatch, "pretrain", "--replay", "file.pt", *other) == 2
        assert "leave out --run and --resume" in capsys.readouterr().err


def began(run: Path) -> None:
    run.mkdir()
    RunFolder(run).begin("name: other\n", resume=False)


def test_a_used_folder_is_refused(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    began(tmp_path / "used")
    before = sorted((tmp_path / "used").rglob("*"))
    assert run(monkeypatch, "pretrain", toy / "toy.yaml", "--run", tmp_path / "used") == 2
    assert re.fullmatch(r"interlace: \S+ already holds a run; go on with --resume, .*\n", capsys.readouterr().err)
    assert sorted((tmp_path / "used").rglob("*")) == before


def test_a_runs_folder_in_place_of_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    began(tmp_path / "used")
    assert run(monkeypatch, "check", "used") == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"interlace: used:1: recipe: found a folder; .*; did you mean used/recipe\.yaml\?\n", error)
    assert run(monkeypatch, "inspect", "used") == 2
    assert capsys.readouterr().err == (
        "interlace: used: a run's folder, not a dataset; give used/recipe.yaml to look at its recipe's data\n"
    )


def test_the_demo_without_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INTERLACE_DATA", str(tmp_path / "data"))

    def hidden(name: str) -> object:
        return None if name in ("miniworld", "metaworld", "skimage", "skvideo") else find_spec(name)

    monkeypatch.setattr("interlace.data_recipes.worlds.assets.find_spec", hidden)
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "demo") == 2
    assert re.fullmatch(r"interlace: .*pip install 'interlace\[demo\]'\n", capsys.readouterr().err)
    assert not (tmp_path / "runs").exists()


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        torch.zeros(2).reshape(3, 5) if len(arguments) > 9 else int("not a number")

    monkeypatch.setattr("interlace.launchers.commands.write_report", broken)
    monkeypatch.setattr(sys, "argv", ["interlace", "report", "run"])
    with pytest.raises(ValueError, match="not a number"):
        cli.main()


def test_other_ranks_say_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INTERLACE_DATA", str(tmp_path))
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert run(monkeypatch, "check", "omnistream_stage1", "backbone.init=null") == 2
    shown = capsys.readouterr().err
    assert re.fullmatch(r"interlace: rank 3: \S+omnistream_stage1.yaml:\d+: .* \(and \d+ more\)\n", shown)


@pytest.mark.parametrize(("number", "code"), [("0", "why"), ("1", 1)])
def test_a_stopped_run_is_told_once(monkeypatch: pytest.MonkeyPatch, number: str, code: object) -> None:
    def stop(*arguments: object) -> None:
        raise SystemExit("why")

    monkeypatch.setattr("interlace.launchers.commands.train", stop)
    monkeypatch.setenv("RANK", number)
    monkeypatch.setattr(sys, "argv", ["interlace", "pretrain", "demo"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == code


def test_recipes_look_where_the_cache_was_moved(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("INTERLACE_DATA", None)
    command = [sys.executable, "-m", "interlace.launchers", "check", "demo"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"found {tmp_path}/interlace/demo/rooms_train" in done.stderr


def test_pretrain_prints_plain_lines_and_leaves_a_run(toy_run: tuple[Path, str]) -> None:
    folder, shown = toy_run
    *_, last, closing = shown.splitlines()
    assert re.match(r"toy 3/3  [\d.]+ steps/s, [\d.]+ min left  ssl [\d.]+  geometry [\d.-]+  captioning ", last)
    assert closing == "run folder: run"
    left = {path.name for path in folder.iterdir()}
    assert left == {
        *("recipe.yaml", "environment.txt", "metrics.jsonl", "eval.jsonl"),
        *("checkpoints", "backbone", "heads", "tensorboard", "pictures"),
    }


ALONE = ["-m", "interlace.launchers"]
LAUNCHES = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *ALONE, "--"],
    "srun": ALONE,
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHES)
def test_two_processes_train_one_run(launcher: str, toy: Path, toy_run: tuple[Path, str], tmp_path: Path) -> None:
    arguments = ["pretrain", str(toy / "toy.yaml"), "--run", str(tmp_path / "run"), "engine.zero.stage=2"]
    command = [sys.executable, *LAUNCHES[launcher], *arguments]
    base = {**os.environ, "OMP_NUM_THREADS": "1"}
    if launcher == "torchrun":
        environments = [base]
    else:  # what srun tells each of its tasks
        task = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": str(os.getpid()), "MASTER_ADDR": "127.0.0.1"}
        environments = [{**base, **task, "SLURM_PROCID": number, "SLURM_LOCALID": number} for number in "01"]
    processes = [
        subprocess.Popen(command, env=each, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for each in environments
    ]
    outputs = [process.communicate(timeout=540) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    shown = "".join(out for out, _ in outputs)
    assert shown.count("toy 3/3") == shown.count("run folder: ") == 1
    alone, together = (torch.tensor(_losses(folder / "metrics.jsonl")) for folder in (toy_run[0], tmp_path / "run"))
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


def _losses(metrics: Path) -> list[list[float]]:
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [[row[key] for key in sorted(row) if key.startswith("loss/")] for row in rows]


@pytest.mark.slow
def test_sigterm_saves_and_resume_ends_the_run(toy: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "interlace.launchers", "pretrain", str(toy / "toy.yaml")]
    command += ["--run", str(tmp_path / "run"), "engine.steps=400", "tasks.captioning=null", "tasks.clusters=null"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not metrics.exists():
        pass
    process.terminate()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 143, errors
    again = interlace("pretrain", toy / "toy.yaml", "--run", "run", "--resume", "engine.steps=400", cwd=tmp_path)
    assert again.returncode == 2
    assert "was made with another recipe" in again.stderr  # four tasks, where the run had two
