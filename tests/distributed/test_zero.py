"""The engine on two real processes: every ZeRO stage equals plain PyTorch on the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zero_cases as cases
from harness import Ranks
from torch import nn
from toy import build

from interlace.pretrain.student import Student
from interlace.pretrain.zero import ZeroConfig, ZeroEngine

STAGES = [{"stage": stage} for stage in range(4)]
OFFLOADED = [{"stage": stage, "offload": "cpu"} for stage in (1, 2, 3)]
SLOW_OFFLOADED = [pytest.param(options, marks=pytest.mark.slow) for options in OFFLOADED]


def label(options: dict[str, Any]) -> str:
    return "-".join(str(value) for value in options.values())


@pytest.mark.parametrize("options", [*STAGES, *OFFLOADED], ids=label)
def test_interlaced_steps_equal_plain_pytorch(two_ranks: Ranks, options: dict[str, Any]) -> None:
    for found in two_ranks.run(cases.interlaced, **options):
        assert found["parameters"] < 1e-5
        assert found["norms"] < 1e-5
        # Nothing is clipped: DeepSpeed's default would clip at 1.
        assert found["largest"] > 1


@pytest.mark.parametrize(
    "options", [STAGES[2], pytest.param(STAGES[3], marks=pytest.mark.slow), *SLOW_OFFLOADED], ids=label
)
def test_gradients_take_the_way_they_take_on_a_gpu(two_ranks: Ranks, options: dict[str, Any]) -> None:
    for found in two_ranks.run(cases.interlaced, contiguous=True, **options):
        assert found["parameters"] < 1e-5
        assert found["norms"] < 1e-5


@pytest.mark.parametrize("options", [*STAGES, *SLOW_OFFLOADED], ids=label)
def test_interlaced_steps_in_bf16_update_as_plain_autocast(two_ranks: Ranks, options: dict[str, Any]) -> None:
    for found in two_ranks.run(cases.interlaced, precision="bf16", **options):
        assert found["dtype"] == "torch.bfloat16"
        assert found["update"] < 0.05


@pytest.mark.parametrize("options", [STAGES[2], *SLOW_OFFLOADED], ids=label)
def test_weight_decay_reaches_every_parameter_every_step(two_ranks: Ranks, options: dict[str, Any]) -> None:
    for found in two_ranks.run(cases.interlaced, decay=0.1, **options):
        assert found["parameters"] < 1e-5


@pytest.mark.parametrize("options", [*STAGES, *SLOW_OFFLOADED], ids=label)
def test_clip_counts_the_sharded_centres(two_ranks: Ranks, options: dict[str, Any]) -> None:
    for found in two_ranks.run(cases.clipped_with_centres, **options):
        assert found["smallest"] > 0.05  # every step is clipped
        assert found["norms"] < 1e-5
        assert found["parameters"] < 1e-5
        assert found["centres"] < 1e-5


@pytest.mark.parametrize("options", [*STAGES, *OFFLOADED], ids=label)
def test_parts_learn_at_rates_of_their_own(two_ranks: Ranks, options: dict[str, Any]) -> None:
    """One of a module, one of a parameter; nothing else changes, and what is resumed goes on at the same rates."""
    rates = {"tasks.b": 5.0, "backbone.cls_token": 0.1}
    for found in two_ranks.run(cases.interlaced, rates=rates, **options):
        assert found["parameters"] < 1e-5
        assert found["norms"] < 1e-5
    assert two_ranks.run(cases.resumed, rates=rates, **options) == [[], []]


@pytest.mark.parametrize("options", [*STAGES, OFFLOADED[1]], ids=label)
def test_a_state_may_leave_a_part_as_it_begins(two_ranks: Ranks, options: dict[str, Any]) -> None:
    assert two_ranks.run(cases.begun, **options) == [[], []]


@pytest.mark.parametrize("options", [*STAGES, *OFFLOADED], ids=label)
def test_discarded_step_leaves_no_trace(two_ranks: Ranks, options: dict[str, Any]) -> None:
    assert two_ranks.run(cases.discarded, **options) == [[], []]


@pytest.mark.parametrize("options", [*STAGES, *OFFLOADED], ids=label)
def test_same_layout_resumes_bit_for_bit(two_ranks: Ranks, options: dict[str, Any]) -> None:
    assert two_ranks.run(cases.resumed, **options) == [[], []]


def crossings() -> list[Any]:
    """From (ranks, options) to (ranks, options): all readers of one writer, all writers for one reader, few quick."""
    layouts = [(ranks, options) for ranks in (1, 2) for options in (*STAGES, *OFFLOADED)]
    writer, reader = (2, STAGES[3]), (1, STAGES[2])
    pairs = [*((writer, other) for other in layouts), *((other, reader) for other in layouts if other != writer)]
    quick = {"2x3-to-1x0", "2x3-to-1x2", "2x3-to-2x1", "2x3-to-2x2-cpu", "1x0-to-1x2", "2x3-cpu-to-1x2"}
    found = []
    for (wrote, theirs), (reads, ours) in pairs:
        name = f"{wrote}x{label(theirs)}-to-{reads}x{label(ours)}"
        found.append(pytest.param(wrote, theirs, reads, ours, marks=() if name in quick else pytest.mark.slow, id=name))
    return found


@pytest.mark.parametrize(("writer", "theirs", "reader", "ours"), crossings())
def test_any_layout_reads_what_any_wrote(
    one_rank: Ranks,
    two_ranks: Ranks,
    tmp_path_factory: pytest.TempPathFactory,
    writer: int,
    theirs: dict[str, Any],
    reader: int,
    ours: dict[str, Any],
) -> None:
    worlds = {1: one_rank, 2: two_ranks}
    path = tmp_path_factory.getbasetemp() / f"state-{writer}-{label(theirs)}"
    if not path.exists():
        worlds[writer].run(cases.saved, path=str(path), **theirs)
    for found in worlds[reader].run(cases.continued, path=str(path), **ours):
        assert found["wrong"] == []
        assert found["steps"] == 3
        assert found["parameters"] < 1e-5


@pytest.mark.parametrize("stage", [2, 3])
def test_state_that_does_not_fit_is_refused(two_ranks: Ranks, stage: int) -> None:
    for lacking, strange, bent in two_ranks.run(cases.refused, stage=stage):
        assert lacking == "the checkpoint lacks exp_avg/backbone.gain (1 tensors)"
        assert strange == "the checkpoint holds weight/backbone.pos, which this student has not (or twice)"
        assert bent == "weight of backbone.gain is [3] in the checkpoint and [12] in this student"


@pytest.mark.parametrize("options", [STAGES[0], STAGES[3], OFFLOADED[2]], ids=label)
def test_full_parameters_are_plain_and_training_goes_on(two_ranks: Ranks, options: dict[str, Any]) -> None:
    for found in two_ranks.run(cases.whole_inside, **options):
        assert found == {"wrong": [], "after": []}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_stages_share_out_what_they_promise(two_ranks: Ranks, stage: int) -> None:
    found = two_ranks.run(cases.shares, stage=stage)
    whole = found[0]["whole"]
    if stage == 0:
        assert [each["moments"] for each in found] == [whole, whole]
    else:
        assert sum(each["moments"] for each in found) == whole
        assert max(each["moments"] for each in found) <= whole / 2 + 20
    assert (max(each["large"] for each in found) == 0) == (stage == 3)


def test_stage_3_gathers_ahead_for_every_task(two_ranks: Ranks) -> None:
    for found in two_ranks.run(cases.gathered_ahead):
        assert found["learned"] == {"a", "b", "c"}
        assert found["parameters"] < 1e-5


def test_calls_out_of_order_are_refused(one_rank: Ranks) -> None:
    ((norm, step, backward),) = one_rank.run(cases.misused)
    assert norm == step == "the step has no last backward yet"
    assert backward == "backward after the step's last backward: call step() or discard() first"


def test_nothing_of_the_process_is_replaced(one_rank: Ranks) -> None:
    assert one_rank.run(cases.untouched) == [[]]


def test_offload_without_partition_is_refused() -> None:
    with pytest.raises(ValueError, match=r"zero.offload 'cpu' needs zero.stage 1, 2 or 3"):
        ZeroConfig(stage=0, offload="cpu")
    with pytest.raises(ValueError, match=r"zero.stage is 4: choose 0, 1, 2 or 3"):
        ZeroConfig(stage=4)


def test_a_rate_of_nothing_is_refused() -> None:
    student: Student = build()
    student.tasks["b"].requires_grad_(False)
    for part in ("tasks.b", "tasks.d", "backbone.cls"):
        with pytest.raises(
            ValueError, match=f"{part} cannot have a learning rate of its own: nothing in it is trained"
        ):
            ZeroEngine(student, ZeroConfig(rates={part: 2.0}), torch.device("cpu"))


def test_scalar_parameter_is_refused() -> None:
    student: Student = build()
    student.backbone.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match=r"parameter backbone.scale is a scalar.*give it the shape \[1\]"):
        ZeroEngine(student, ZeroConfig(), torch.device("cpu"))
