"""The four shipped stages of the VLM, made tiny, on two ranks: two optimizer steps each, each from the run before."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import recipe_cases as cases
import torch
from harness import Ranks
from PIL import Image
from safetensors.torch import load_file
from tiny_backbone import backbone_named_in, write_backbone
from tiny_backbone import tiny as on_backbone
from typer.testing import CliRunner

from interlace.backbone import load
from interlace.backbone.digest import digest
from interlace.data_recipes import SampleWriter, Text
from interlace.eval.result import read
from interlace.launchers.cli import app
from interlace.tasks.vlm.saved import load_vlm

sys.path[:0] = [str(Path(__file__).parents[1] / each) for each in ("tasks", "data_recipes")]

from clips import make_video  # noqa: E402
from language import write_tokenizer  # noqa: E402
from tiny_vlm import sample, write_template_tokenizer  # noqa: E402

STAGES = ("vlm_stage1", "vlm_stage1_5", "vlm_stage2", "vlm_stage3")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone, a Qwen2 with a chat template, and conversations about images and about videos of any length."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    root = tmp_path_factory.mktemp("vlm")
    write_backbone(root)
    write_template_tokenizer(root / "llm")
    config = Qwen2Config(
        vocab_size=330, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(root / "llm")
    rng = np.random.default_rng(0)
    images, videos = [], []
    for number, (height, width) in enumerate([(40, 40), (30, 90), (90, 30), (100, 150), (200, 40), (64, 70), (33, 50)]):
        Image.fromarray(rng.integers(0, 255, (height, width, 3)).astype(np.uint8)).save(root / f"{number}.png")
        (root / f"{number}.mp4").write_bytes(make_video(4 + 9 * number % 40, fps=2))
        said = [{"from": "human", "value": "<image>\nwhat is it?"}, {"from": "gpt", "value": f"a {number}"}]
        images.append({"id": number, "image": f"{number}.png", "conversations": said})
        videos.append({"id": number, "video": f"{number}.mp4", "conversations": said})
    images.append({"id": "words alone", "conversations": said})
    (root / "images.json").write_text(json.dumps(images))
    (root / "videos.json").write_text(json.dumps(videos))
    return root


def tiny(root: Path, name: str, *more: str) -> list[str]:
    data = "videos" if name == "vlm_stage3" else "images"
    return on_backbone(
        root / "backbone",
        "backbone.preset=null",
        "engine.zero.stage=2",
        "tasks.vlm.batch=5",
        "tasks.vlm.micro_batches=2",
        "tasks.vlm.options.size=32",
        f"tasks.vlm.options.llm={root / 'llm'}",
        f"tasks.vlm.sources=[{{name: tiny, format: llava, path: {root / f'{data}.json'}}}]",
        *more,
    )


def test_the_stages_chain(two_ranks: Ranks, inputs: Path, tmp_path: Path) -> None:
    before: list[str] = []
    for name in STAGES:
        run = tmp_path / name
        found = two_ranks.run(cases.trained, name=name, run=str(run), overrides=tiny(inputs, name, *before))[0]
        before = [f"start_from={run}"]
        assert all(math.isfinite(loss["vlm/tokens"]) for loss in found["losses"])
        assert found["taken_over"]
        assert bool(found["anew"]) == (name == "vlm_stage1")
        parts = {key.split(".")[0] for key in found["changed"]}
        assert parts >= {"projector"}
        assert ("llm" in parts) == (name != "vlm_stage1"), "table 12: stage 1 trains the projector alone"
        assert ("newline" in parts) == (name != "vlm_stage1"), "one tile has no rows to end"
        assert backbone_named_in(run) == str(inputs / "backbone")


@pytest.mark.parametrize("name", ["vlm_demo", "vlm_demo_blind"])
def test_the_demos_take_two_steps(two_ranks: Ranks, inputs: Path, tmp_path: Path, name: str) -> None:
    kinds = ("count", "colour", "left of", "nearer", "moved", "sign")
    for split in ("train", "held_out"):
        with SampleWriter(
            tmp_path / split, name=split, fields=("frames", "texts"), split=split, licence="CC0-1.0"
        ) as to:
            for number in range(6):
                texts = [Text(kind=kind, prompt=f"{kind}?", answer=str(number % 2), frame=7) for kind in kinds]
                to.write(sample(number, frames=8, shape=(64, 64), texts=texts))
    overrides = on_backbone(
        inputs / "backbone",
        "engine.zero.stage=2",
        "tasks.vlm.batch=3",
        f"tasks.vlm.options.tokenizer={write_tokenizer(tmp_path)}",
        f"tasks.vlm.sources=[{{name: rooms, format: mds, path: {tmp_path / 'train'}}}]",
        f"tasks.vlm.held_out=[{{name: rooms, format: mds, path: {tmp_path / 'held_out'}}}]",
    )
    found = two_ranks.run(cases.trained, name=name, run=str(tmp_path / "run"), overrides=overrides)[0]
    parts = {key.split(".")[0] for key in found["changed"]}
    assert parts == ({"llm"} if name.endswith("blind") else {"llm", "projector", "newline"})
    rows = [json.loads(line) for line in (tmp_path / "run" / "eval.jsonl").read_text().splitlines()]
    assert {row["measure"] for row in rows} == {f"accuracy_{kind.replace(' ', '_')}" for kind in kinds}
    saved_model_answers(tmp_path, inputs)
    if name.endswith("blind"):
        last = [row for row in rows if row["step"] == 2]
        assert all(row["low"] <= 0 for row in last), "nobody is better than blind without images"


def saved_model_answers(root: Path, inputs: Path) -> None:
    """The run is read back as it was trained, its backbone by reference, and answers on the command line."""
    task, backbone = load_vlm(root / "run")
    saved = load_file(root / "run" / "heads" / "vlm.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in task.state_dict().items())
    assert digest(backbone) == digest(load(inputs / "backbone"))
    for asked in (["--image", str(inputs / "0.png")], ["--video", str(inputs / "1.mp4")]):
        said = CliRunner().invoke(app, ["chat", str(root / "run"), "count?", *asked])
        assert (said.exit_code, said.exception) == (0, None)
        assert said.stdout.strip()
    told = CliRunner().invoke(app, ["eval", "vlm", str(root / "run"), "--data", str(root / "held_out")])
    assert (told.exit_code, told.exception) == (0, None)
    results = read(root / "run" / "results" / "vlm.json")
    assert [each.measure for each in results] == ["all", "colour", "count", "left of", "moved", "nearer", "sign"]
    assert (results[0].samples, results[0].n) == (36, 6)
    said = (root / "run" / "results" / "vlm.answers.jsonl").read_text().splitlines()
    marks = [json.loads(line)["said"] == json.loads(line)["answer"] for line in said]
    assert results[0].value == pytest.approx(np.mean(marks))
    (shard,) = (root / "held_out").glob("*.mds")
    shard.write_bytes(shard.read_bytes().replace(b"\xff\xd8\xff", bytes(3), 1))  # where the first picture begins
    told = CliRunner().invoke(app, ["eval", "vlm", str(root / "run"), "--data", str(root / "held_out")])
    assert (told.exit_code, told.exception) == (0, None)
    results = read(root / "run" / "results" / "vlm.json")
    assert (results[0].samples, results[0].n, results[0].of) == (30, 5, 6)
    ((key, why),) = results[0].facts.missing.items()
    assert "not an image" in why
    assert f"left out {key}: " in told.stdout.replace("\n", "")
    with pytest.raises(ValueError, match="holds no VLM; give a run of task vlm that has ended"):
        load_vlm(inputs)
    (root / "run" / "backbone.json").rename(root / "backbone.json")
    with pytest.raises(ValueError, match=r"backbone\.json: no such file"):
        load_vlm(root / "run")


@pytest.mark.slow
def test_ranks_that_see_unlike_numbers_of_frames_agree_under_zero_3(
    one_rank: Ranks, two_ranks: Ranks, inputs: Path, tmp_path: Path
) -> None:
    overrides = tiny(inputs, "vlm_stage3", "start_from=null")
    alone = one_rank.run(cases.trained, name="vlm_stage3", run=str(tmp_path / "one"), overrides=overrides)[0]
    three = [*overrides, "engine.zero.stage=3"]
    found = two_ranks.run(cases.trained, name="vlm_stage3", run=str(tmp_path / "two"), overrides=three)[0]
    for ours, theirs in zip(found["losses"], alone["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
