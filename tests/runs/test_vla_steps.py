"""The shipped recipes of robot policies, made tiny: two optimizer steps each, ZeRO-2 on two ranks."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path

import pytest
import recipe_cases as cases
import sentencepiece
import torch
from harness import CaseFailed, Ranks
from safetensors.torch import load_file
from tiny_backbone import backbone_named_in, write_backbone
from tiny_backbone import tiny as on_backbone

from interlace.data_recipes import SampleWriter
from interlace.data_recipes.worlds.table import REACH
from interlace.tasks.vla import Policy, load_vla

sys.path[:0] = [str(Path(__file__).parents[1] / each) for each in ("tasks", "data_recipes")]

from language import write_tokenizer  # noqa: E402
from robots import write_bridge_rlds, write_calvin  # noqa: E402
from tiny_vla import sample  # noqa: E402
from tiny_vlm import sample as asked  # noqa: E402

#: Its output matrix is its own, as that of Qwen2.5-7B is: a policy says no words, and nothing ever reaches it.
LLM = "{layers: 2, hidden_size: 32, heads: 2, mlp_size: 48, tie_embeddings: false}"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone, a tokenizer, CALVIN, BridgeData V2, a table's episodes, and clips with questions, all tiny."""
    root = tmp_path_factory.mktemp("vla")
    write_backbone(root)
    write_tokenizer(root)
    write_calvin(root / "calvin", [(3, 66), (0, 63)])
    write_bridge_rlds(root / "bridge")
    for name in ("train", "held_out"):
        with SampleWriter(
            root / name, name=name, fields=("frames", "episode"), split=name, licence="CC0-1.0", fps=10.0
        ) as writer:
            for number in range(4):
                writer.write(sample(number))
    with SampleWriter(
        root / "clips", name="clips", fields=("frames", "texts"), split="train", licence="CC0-1.0", fps=4.0
    ) as writer:
        for number in range(4):
            writer.write(asked(number, frames=2))
    return root


@pytest.fixture(scope="module")
def vlm(two_ranks: Ranks, inputs: Path) -> Path:
    """The run of a VLM on that backbone, with that tokenizer."""
    overrides = on_backbone(
        inputs / "backbone",
        "tasks.vlm.batch=4",
        "tasks.vlm.options.size=32",
        f"tasks.vlm.options.llm={LLM}",
        f"tasks.vlm.options.tokenizer={inputs / 'text.model'}",
        f"tasks.vlm.sources=[{{name: clips, format: mds, path: {inputs / 'clips'}}}]",
        "tasks.vlm.held_out=[]",
    )
    two_ranks.run(cases.trained, name="vlm_demo", run=str(inputs / "vlm"), overrides=overrides)
    return inputs / "vlm"


def tiny(root: Path) -> list[str]:
    return on_backbone(
        root / "backbone",
        "tasks.vla.batch=4",
        "tasks.vla.micro_batches=2",
        "tasks.vla.options.size=32",
        "tasks.vla.options.head_size=32",
        f"tasks.vla.options.llm={LLM}",
        f"tasks.vla.options.tokenizer={root / 'text.model'}",
    )


def check(found: dict, run: Path, inputs: Path) -> None:
    parts = {key.split(".")[0] for key in found["changed"]}
    assert parts == {"llm", "projector", "newline", "query", "head"}
    assert any("embed_tokens" in key for key in found["changed"]), "table 13: text embeddings are trained"
    assert not any("lm_head" in key for key in found["changed"])
    for losses in found["losses"]:
        assert set(losses) == {"vla/arm", "vla/gripper"}
        assert all(math.isfinite(loss) for loss in losses.values())
    assert backbone_named_in(run) == str(inputs / "backbone")


@pytest.mark.parametrize(
    ("name", "source"),
    [("vla_calvin", ("calvin", "calvin/training")), ("vla_bridge", ("bridge_rlds", "bridge"))],
)
def test_the_papers_recipes_take_two_steps_from_a_vlm(
    two_ranks: Ranks, inputs: Path, vlm: Path, tmp_path: Path, name: str, source: tuple[str, str]
) -> None:
    form, folder = source
    overrides = [
        *tiny(inputs),
        "backbone.preset=null",
        f"start_from={vlm}",
        f"tasks.vla.sources=[{{name: robot, format: {form}, path: {inputs / folder}}}]",
    ]
    found = two_ranks.run(cases.trained, name=name, run=str(tmp_path / "run"), overrides=overrides)[0]
    check(found, tmp_path / "run", inputs)
    assert found["taken_over"]
    assert {key.split(".")[0] for key in found["anew"]} == {"query", "head"}
    # Adam's first step is as long as the rate, however small the gradient; the second is at most so, forward or back.
    furthest = {
        part: max(way for key, way in found["moved"].items() if key.split(".")[0] == part)
        for part in ("projector", "newline", "llm", "query", "head")
    }
    for part, way in furthest.items():
        rate = 1e-4 if part == "projector" else 2e-5
        assert rate < way < 2.02 * rate, (part, way)


def test_what_a_vlms_run_cannot_give_is_refused(one_rank: Ranks, inputs: Path, vlm: Path, tmp_path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["push the red block to the left"] * 20),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=3,
        minloglevel=2,
    )
    (tmp_path / "other.model").write_bytes(model.getvalue())
    source = f"tasks.vla.sources=[{{name: table, format: mds, path: {inputs / 'train'}}}]"
    for number, (change, message) in enumerate(
        (
            (f"backbone.init={write_backbone(tmp_path, seed=6)}", "another frozen backbone than backbone.init names"),
            (f"tasks.vla.options.tokenizer={tmp_path / 'other.model'}", "its vlm was trained with another tokenizer"),
            (f"tasks.vla.options.llm={LLM.replace('2, hidden', '1, hidden')}", "which this student has not"),
        )
    ):
        overrides = [*tiny(inputs), source, "tasks.vla.held_out=[]", f"start_from={vlm}", change]
        with pytest.raises(CaseFailed, match=message):
            one_rank.run(cases.trained, name="vla_demo", run=str(tmp_path / f"run{number}"), overrides=overrides)


def test_the_demo_takes_two_steps_from_its_glances_and_is_measured(
    two_ranks: Ranks, inputs: Path, tmp_path: Path
) -> None:
    overrides = [
        *tiny(inputs),
        "engine.zero.stage=2",
        "tasks.vla.options.context=3",
        "tasks.vla.options.remember=0",
        f"tasks.vla.sources=[{{name: table, format: mds, path: {inputs / 'train'}}}]",
        f"tasks.vla.held_out=[{{name: table, format: mds, path: {inputs / 'held_out'}}}]",
    ]
    glanced = tmp_path / "glances"
    # Without held-out episodes: only where the policy ends is it measured.
    found = two_ranks.run(cases.trained, name="vla_demo_glances", run=str(glanced), overrides=overrides[:-1])[0]
    check(found, glanced, inputs)
    assert not (glanced / "eval.jsonl").read_text()
    found = two_ranks.run(
        cases.trained, name="vla_demo", run=str(tmp_path / "run"), overrides=[*overrides, f"start_from={glanced}"]
    )[0]
    check(found, tmp_path / "run", inputs)
    assert found["taken_over"]
    assert not found["anew"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "eval.jsonl").read_text().splitlines()]
    assert {line["measure"] for line in lines} == {"arm_error", "gripper_accuracy"}

    task, backbone = load_vla(tmp_path / "run")
    assert (task.options.context, task.scale.low) == (3, REACH[0])
    assert task.options.execute == task.options.chunk == 10
    saved = load_file(tmp_path / "run" / "heads" / "vla.safetensors")
    assert all(torch.equal(value, saved[key]) for key, value in task.state_dict().items())
    assert (saved["standard.deviation"] != 1).all()  # measured before the first step, and kept
    with Policy(task, backbone) as policy:
        policy.begin("push the red box")
        assert policy.act(sample(0).frames[0]).shape == (4,)
    with pytest.raises(ValueError, match="holds no VLA; give a run of task vla that has ended"):
        load_vla(tmp_path)
