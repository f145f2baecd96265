"""Predicted operations, memory and days, beside what the same code does with real tensors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli import run
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from interlace.backbone import Backbone
from interlace.data_recipes import generator
from interlace.data_recipes.check import SourceRow, TaskRow, summary
from interlace.data_recipes.schema import Recipe
from interlace.launchers import prediction
from interlace.launchers.prediction import Machines, Prediction, predict, prediction_lines
from interlace.launchers.rehearsal import Meter, Mix, Rehearsal, Stage
from interlace.pretrain.student import Student
from interlace.pretrain.train import SECTIONS, recipe_from
from interlace.tasks import TASKS
from interlace.tasks.interface import Progress, TaskContext

TASK_NAMES = ("ssl", "geometry", "captioning", "clusters")


@pytest.fixture(scope="module")
def read(toy: Path) -> Callable[..., Recipe]:
    return lambda *changes: recipe_from(toy / "toy.yaml", changes)


def really(recipe: Recipe, name: str, mix: Mix) -> int:
    """Operations of a forward and a backward with content, attention as plain products that torch itself counts."""
    config = recipe.backbone.config
    torch.manual_seed(0)
    task = TASKS[name](recipe.tasks[name].options, TaskContext(config, 0))  # type: ignore[arg-type]
    student = Student(Backbone(config), {name: task})
    teacher = task.build_teacher(student.backbone)
    samples = [task.largest_sample(True)] * mix.images + [task.largest_sample(False)] * mix.clips
    batch = task.collate([task.item(sample, generator(0, name)) for sample in samples if sample is not None])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        terms = student(name, batch, teacher, Progress(0, 1, 0))
        torch.stack([term.sum for term in terms.values()]).sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("name", TASK_NAMES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_are_those_of_the_real_tasks(read: Callable[..., Recipe], name: str, checkpointing: bool) -> None:
    recipe = read(f"backbone.activation_checkpointing={str(checkpointing).lower()}")
    mix = Mix(1, 2)
    found = Stage(recipe, 1).rehearse(name, mix)
    # a kernel computes its scores a second time in backward, plain products do not
    assert found.flops == pytest.approx(really(recipe, name, mix), rel=0.04)


def test_causal_attention_costs_what_frames_see(read: Callable[..., Recipe]) -> None:
    """Causal against bidirectional: only attention differs, by the pairs of tokens that are not computed."""
    flops = {}
    for kind in ("causal", "bidirectional"):
        recipe = read(f"backbone.attention={kind}", "tasks.clusters.options.banks.motion.frames=8")
        flops[kind] = Stage(recipe, 1).rehearse("clusters", Mix(0, 1)).flops
    config = recipe.backbone.config
    tokens = config.tokens_per_frame(32, 32)
    skipped = tokens**2 * (8 * 8 - 8 * 9 // 2)
    # two products forward, five in a kernel's backward
    assert flops["bidirectional"] - flops["causal"] == 7 * 2 * skipped * config.hidden_size * config.depth


def test_a_decoders_attention_skips_what_comes_later() -> None:
    heads, length, width = 2, 8, 16
    x = torch.randn(1, heads, length, width, requires_grad=True)
    with Meter() as meter:
        torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True).sum().backward()
    assert meter.flops == 7 * 2 * width * heads * length * (length + 1) // 2


def test_memory_that_is_let_go_counts_no_more() -> None:
    with Meter() as meter:
        kept = torch.ones(100)
        for _ in range(3):
            torch.ones(1000)
    assert (meter.live, meter.peak) == (kept.nbytes, kept.nbytes + 4000)


PEAK = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
from attention import resident_peak
from interlace.backbone import Backbone
from interlace.data_recipes import generator
from interlace.pretrain.student import Student
from interlace.pretrain.train import recipe_from
from interlace.tasks import TASKS
from interlace.tasks.interface import Progress, TaskContext

torch.set_num_threads(1)
recipe = recipe_from({recipe!r}, {changes!r})
task = TASKS["clusters"](recipe.tasks["clusters"].options, TaskContext(recipe.backbone.config, 0))
student = Student(Backbone(recipe.backbone.config), {{"clusters": task}})

def once(clips):
    batch = task.collate([task.item(task.largest_sample(False), generator(0, "a"))] * clips)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_peak()
    terms = student("clusters", batch, None, Progress(0, 1, 0))
    torch.stack([term.sum for term in terms.values()]).sum().backward()
    return resident_peak() - before

once(1)
print(once({clips}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's peak memory as Linux tells it")
@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_activations_are_near_a_measured_peak(toy: Path, read: Callable[..., Recipe], checkpointing: str) -> None:
    changes = (
        "backbone.hidden_size=128",
        "backbone.mlp_size=512",
        f"backbone.activation_checkpointing={checkpointing}",
        "tasks.clusters.options.size=96",
    )
    clips = 8
    code = PEAK.format(
        benchmarks=str(Path(__file__).parents[2] / "benchmarks"),
        recipe=str(toy / "toy.yaml"),
        changes=changes,
        clips=clips,
    )
    # Every tensor is the system's own piece of memory: what glibc keeps for later is not the model's.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    measured = int(done.stdout.split()[-1])
    assert measured > 25e6
    predicted = Stage(read(*changes), 1).rehearse("clusters", Mix(0, clips)).peak
    assert 1 / 1.1 < predicted / measured < 1.1


def test_checkpointing_saves_activations_and_costs_a_forward(read: Callable[..., Recipe]) -> None:
    kept, again = (
        Stage(read(f"backbone.activation_checkpointing={value}"), 1).rehearse("clusters", Mix(0, 4))
        for value in ("false", "true")
    )
    assert again.peak < 0.75 * kept.peak
    assert 1.15 * kept.flops < again.flops < 1.34 * kept.flops


def test_casts_are_half_precision_copies_of_the_weights(read: Callable[..., Recipe]) -> None:
    assert Stage(read(), 1).rehearse("geometry", Mix(0, 1)).casts == 0
    stage = Stage(read("engine.precision=bf16"), 1)
    weights = [*stage.student.backbone.parameters(), *stage.student.tasks["geometry"].parameters()]
    casts = stage.rehearse("geometry", Mix(0, 1)).casts
    assert 0.2 < casts / (2 * sum(weight.numel() for weight in weights)) <= 1


def rows(still: float) -> list[TaskRow]:
    sources = (SourceRow("a", "mds", still, None, True, True), SourceRow("b", "mds", 1 - still, None, True, False))
    return [TaskRow("ssl", 1.0, 80, 0, sources)]


class ToldStage:
    """Images cost 10, clips 100; of bytes 1 and 7, and 5 in casts."""

    def __init__(self, recipe: Recipe, world: int) -> None:
        self._real = Stage(recipe, world)
        self.student, self.teachers = self._real.student, self._real.teachers

    def rehearse(self, name: str, mix: Mix) -> Rehearsal:
        assert len(mix) <= prediction.MOST
        return Rehearsal(10 * mix.images + 100 * mix.clips, 5 + mix.images + 7 * mix.clips, 5)


def told(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, still: float, gpus: int | None) -> Prediction:
    monkeypatch.setattr(prediction, "Stage", ToldStage)
    only = {"tasks": {"ssl": recipe.tasks["ssl"].model_copy(update={"batch": 80})}}
    return predict(recipe.model_copy(update=only), rows(still), gpus)


@pytest.mark.parametrize("gpus", [1, 4, 8])
def test_a_step_is_all_samples_of_all_ranks(
    read: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, gpus: int
) -> None:
    found = told(read(), monkeypatch, 0.9, gpus)
    assert found.flops == {"ssl": 72 * 10 + 8 * 100}


def test_activations_are_those_of_one_rank(read: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(read(), monkeypatch, 0.9, 8)
    assert found.largest == ("ssl", Mix(9, 1))
    assert found.held[prediction.ACTIVATIONS] == 5 + 9 + 7
    # more than are rehearsed: 14 images and 2 clips stand for 80 samples
    assert told(read(), monkeypatch, 0.9, 1).held[prediction.ACTIVATIONS] == 5 + 5 * (14 + 14)
    assert prediction.ACTIVATIONS not in told(read(), monkeypatch, 0.9, None).held


def test_a_task_of_images_is_rehearsed_as_it_is(read: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(read(), monkeypatch, 1.0, 8)
    assert found.largest == ("ssl", Mix(10, 0))
    assert found.flops == {"ssl": 800}
    assert found.held[prediction.ACTIVATIONS] == 5 + 10


def test_days_and_memory_are_what_the_assumptions_make_of_them(read: Callable[..., Recipe]) -> None:
    recipe = read("engine.steps=1000")
    found = Prediction({"parameters, fp32": 3 * 10**9}, 10**9, {"ssl": 432 * 10**12}, None, ("vlm",))
    said = prediction_lines(found, recipe, Machines(10, 4.0, 1.0, 0.5))
    assert said[0].startswith("vlm: state only")
    assert "offloaded to the hosts: 1.00 GB a GPU, 10 GB together" in said
    assert "memory: 3.0 of 4 GB: fits, without what fragmentation takes" in said
    assert any(re.match(r"time: 86.4 s a step, 1 days for 1,000 steps, if training reaches 50% of 1", x) for x in said)
    assert said[-1].endswith("never compared with a run on a real cluster")
    assert "does not fit" in " ".join(prediction_lines(found, recipe, Machines(10, 2.5, 1.0, 0.5)))


def test_what_a_rank_holds_follows_the_recipe(read: Callable[..., Recipe]) -> None:
    recipe = read("engine.zero.stage=2")
    found = predict(recipe, summary(recipe, SECTIONS), 2)
    alone = predict(recipe, summary(recipe, SECTIONS), None)
    trained = alone.held["parameters, fp32"]
    assert alone.held["Adam's moments"] == 2 * trained
    assert "ZeRO's masters" not in alone.held
    assert found.held["ZeRO's masters"] == pytest.approx(trained / 2, abs=16)
    assert found.held["Adam's moments"] == 2 * found.held["ZeRO's masters"]
    assert found.held["clusters: object centres, with Adam"] == 16 // 2 * 16 * 16
    assert found.held["teachers of ssl"] == alone.held["teachers of ssl"]
    assert set(found.flops) == set(TASK_NAMES)


def test_check_predicts_memory_and_days(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machines: tuple[Any, ...] = ("--gpus", 2, "--gpu-memory", 8, "--tflops", 1, "--utilisation", 0.5)
    assert run(monkeypatch, "check", toy / "toy.yaml", *machines) == 0
    shown = capsys.readouterr().out
    assert re.search(r"GB on each of 2 GPUs", shown)
    assert re.search(r"^activations \(\w+, 2 clips: an estimate\) ", shown, re.MULTILINE)
    assert re.search(r"^memory: 0\.0 of 8 GB: fits", shown, re.MULTILINE)
    assert re.search(r"days for 3 steps, if training reaches 50% of 1 TFLOP/s", shown)


def test_machines_are_said_with_their_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "check", "demo", "--tflops", 990) == 2
    assert "--gpus" in capsys.readouterr().err
