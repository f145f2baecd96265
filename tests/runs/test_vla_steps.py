"""The shipped recipes of robot policies, made tiny: two optimizer steps each, ZeRO-2 on two ranks for the paper's."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import recipe_cases as cases
import torch
from harness import Ranks
from safetensors.torch import load_file
from tiny_backbone import backbone_named_in, write_backbone
from tiny_backbone import tiny as on_backbone

from interlace.data_recipes import SampleWriter
from interlace.tasks.vla import Policy, load_vla

sys.path[:0] = [str(Path(__file__).parents[1] / each) for each in ("tasks", "data_recipes")]

from language import write_tokenizer  # noqa: E402
from robots import write_bridge_rlds, write_calvin  # noqa: E402
from tiny_vla import sample  # noqa: E402


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone, a tokenizer, CALVIN, BridgeData V2 and a table's episodes, all tiny."""
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
    return root


def tiny(root: Path) -> list[str]:
    return on_backbone(
        root / "backbone",
        "tasks.vla.batch=4",
        "tasks.vla.micro_batches=2",
        "tasks.vla.options.size=32",
        "tasks.vla.options.head_size=32",
        "tasks.vla.options.llm={layers: 2, hidden_size: 32, heads: 2, mlp_size: 48}",
        f"tasks.vla.options.tokenizer={root / 'text.model'}",
    )


def check(found: dict, run: Path, inputs: Path) -> None:
    parts = {key.split(".")[0] for key in found["changed"]}
    assert parts == {"llm", "projector", "newline", "query", "head"}
    assert any("embed_tokens" in key for key in found["changed"]), "table 13: text embeddings are trained"
    for losses in found["losses"]:
        assert set(losses) == {"vla/arm", "vla/gripper"}
        assert all(math.isfinite(loss) for loss in losses.values())
    assert backbone_named_in(run) == str(inputs / "backbone")


@pytest.mark.parametrize(
    ("name", "source"),
    [("vla_calvin", ("calvin", "calvin/training")), ("vla_bridge", ("bridge_rlds", "bridge"))],
)
def test_the_papers_recipes_take_two_steps(
    two_ranks: Ranks, inputs: Path, tmp_path: Path, name: str, source: tuple[str, str]
) -> None:
    form, folder = source
    overrides = [
        *tiny(inputs),
        "backbone.preset=null",
        f"tasks.vla.sources=[{{name: robot, format: {form}, path: {inputs / folder}}}]",
    ]
    found = two_ranks.run(cases.trained, name=name, run=str(tmp_path / "run"), overrides=overrides)[0]
    check(found, tmp_path / "run", inputs)


def test_the_demo_takes_two_steps_and_is_measured(one_rank: Ranks, inputs: Path, tmp_path: Path) -> None:
    overrides = [
        *tiny(inputs),
        "tasks.vla.options.context=3",
        f"tasks.vla.sources=[{{name: table, format: mds, path: {inputs / 'train'}}}]",
        f"tasks.vla.held_out=[{{name: table, format: mds, path: {inputs / 'held_out'}}}]",
    ]
    found = one_rank.run(cases.trained, name="vla_demo", run=str(tmp_path / "run"), overrides=overrides)[0]
    check(found, tmp_path / "run", inputs)
    lines = [json.loads(line) for line in (tmp_path / "run" / "eval.jsonl").read_text().splitlines()]
    assert {line["measure"] for line in lines} == {"arm_error", "gripper_accuracy"}

    task, backbone = load_vla(tmp_path / "run")
    assert (task.options.context, task.options.execute, task.scale.low) == (3, 2, (-1.0, -1.0, -1.0))
    saved = load_file(tmp_path / "run" / "heads" / "vla.safetensors")
    assert all(torch.equal(value, saved[key]) for key, value in task.state_dict().items())
    with Policy(task, backbone) as policy:
        policy.begin("push the red box")
        assert policy.act(sample(0).frames[0]).shape == (4,)
    with pytest.raises(ValueError, match=r"vla\.json: no such file"):
        load_vla(tmp_path)
