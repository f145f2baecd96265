"""The policy: what it learns, what it sees, and that control is training again."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language import BACKBONE, write_tokenizer
from pydantic import ValidationError
from tiny_vla import HIGH, LOW, build, options, sample

from interlace.backbone import Backbone
from interlace.data_recipes import DataError, Sample
from interlace.data_recipes.action_scale import ActionScale
from interlace.tasks.interface import Progress
from interlace.tasks.vla import Policy, Vla
from interlace.tasks.vla.standard import Standard
from interlace.tasks.vlm.chat import VISUAL

PROGRESS = Progress(0, 10, 0)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("words"))


def batch_of(task: Vla, samples: list[Sample], looks: list[int]) -> dict[str, Any]:
    return task.collate([task.prepared(each, np.array(looks)) for each in samples])


# ---- the loss


def naive_loss(task: Vla, samples: list[Sample], looks: list[int], arm: np.ndarray, gripper: np.ndarray) -> list[float]:
    """Number by number in float64: sum and count of the arm's Huber loss, and of the gripper's cross-entropy."""
    huber = entropy = 0.0
    numbers = steps = row = 0
    for each in samples:
        assert each.episode is not None
        for look in looks:
            for ahead in range(task.options.chunk):
                if look + ahead >= len(each.episode.actions):
                    continue
                action = each.episode.actions[look + ahead].astype(np.float64)
                for axis in range(3):
                    wanted = (min(max(action[axis], LOW[axis]), HIGH[axis]) - LOW[axis]) / (HIGH[axis] - LOW[axis])
                    error = abs(arm[row, ahead, axis] - (2 * wanted - 1))
                    huber += 0.5 * error**2 if error <= 1 else error - 0.5
                    numbers += 1
                chance = 1 / (1 + np.exp(-gripper[row, ahead]))
                entropy -= np.log(chance if action[3] == 1 else 1 - chance)
                steps += 1
            row += 1
    return [huber, numbers, entropy, steps]


def test_the_loss_is_huber_and_a_hundredth_of_cross_entropy(words: Path) -> None:
    task, backbone = build(words)
    samples, looks = [sample(1), sample(2, steps=5)], [0, 3, 4]  # chunks of 3 reach past the end of both
    batch = batch_of(task, samples, looks)
    terms = task.losses(backbone, batch, teacher=None, progress=PROGRESS)
    with torch.no_grad():
        patches = torch.cat([task.features(backbone, frames, looks) for frames in batch["frames"]])
        rows = [task.row("push the red box")] * 6
        arm, gripper = (found.double().numpy() for found in task.act(rows, patches))
    expected = naive_loss(task, samples, looks, arm, gripper)
    found = [terms[name] for name in ("arm", "gripper")]
    np.testing.assert_allclose(
        [float(value.detach()) for term in found for value in (term.sum, term.count)], expected, rtol=1e-5
    )
    assert [term.weight for term in found] == [1.0, 0.01]


def test_all_but_the_backbone_is_trained(words: Path) -> None:
    task, backbone = build(words)
    batch = batch_of(task, [sample(1)], [0, 4])
    terms = task.losses(backbone, batch, teacher=None, progress=PROGRESS)
    sum(term.sum * term.weight for term in terms.values()).backward()  # type: ignore[union-attr]
    still = [name for name, each in task.named_parameters() if each.grad is None or not each.grad.any()]
    assert not still
    assert all(each.grad is None for each in backbone.parameters())
    assert task.llm.get_input_embeddings().weight.grad is not None


def test_a_backbone_that_would_be_trained_is_refused(words: Path) -> None:
    task, _ = build(words)
    with pytest.raises(ValueError, match=r"backbone\.frozen: true"):
        task.losses(Backbone(BACKBONE), batch_of(task, [sample(1)], [0]), teacher=None, progress=PROGRESS)


def test_an_episode_without_an_instruction_is_left_out_and_named(words: Path, caplog: pytest.LogCaptureFixture) -> None:
    task, backbone = build(words)
    rng = np.random.default_rng(0)
    told, untold = (task.item(sample(n, steps=1, instruction=text), rng) for n, text in ((1, "push it"), (2, "")))
    with caplog.at_level(logging.WARNING):
        mixed = task.losses(backbone, task.collate([told, untold]), teacher=None, progress=PROGRESS)
    assert "left out table/table/2: no instruction" in caplog.text
    alone = task.losses(backbone, task.collate([told]), teacher=None, progress=PROGRESS)
    for name, term in alone.items():
        assert float(mixed[name].count) == float(term.count) > 0
        assert float(mixed[name].sum.detach()) == pytest.approx(float(term.sum.detach()), rel=1e-5)
    none = task.losses(backbone, task.collate([untold]), teacher=None, progress=PROGRESS)
    assert all(float(term.sum.detach()) == float(term.count) == 0 for term in none.values())
    sum(term.sum for term in none.values()).backward()  # type: ignore[union-attr]
    assert all(each.grad is not None for each in task.parameters())
    assert float(task.signals()["left_out"]) == 2


# ---- what it sees


@pytest.mark.parametrize(("context", "execute"), [(1, 1), (1, 2), (3, 1), (3, 2), (20, 3)])
def test_a_recorded_episode_gives_the_same_in_training_and_control(words: Path, context: int, execute: int) -> None:
    task, backbone = build(words, context=context, execute=execute)
    recorded = sample(5)
    assert recorded.episode is not None
    looks = list(range(0, 7, execute))
    seen: list[torch.Tensor] = []
    predict = task.predict
    task.predict = lambda text, patches: (seen.append(patches), predict(text, patches))[1]  # type: ignore[method-assign]
    with Policy(task, backbone) as policy:
        policy.begin(recorded.episode.instruction)
        acted = np.stack([policy.act(frame) for frame in recorded.frames])
    batch = batch_of(task, [recorded], looks)
    with torch.no_grad():
        trained = task.features(backbone, batch["frames"][0], looks)
    torch.testing.assert_close(torch.cat(seen), trained, rtol=0, atol=1e-5)
    expected = np.concatenate([chunk[:execute] for chunk in predict(recorded.episode.instruction, trained)])[:7]
    np.testing.assert_allclose(acted, expected, atol=1e-5)
    assert len(np.unique(acted[:, 0])) == 7


def test_what_is_learned_begins_where_the_episode_does(words: Path) -> None:
    """With a stream the reader is asked for every frame up to the look, and for the look alone without."""
    times, rng = np.arange(9) / 10, np.random.default_rng(0)
    stream, image = build(words, context=4, looks=2, longest=5)[0], build(words, looks=2)[0]
    lengths = set()
    for _ in range(40):
        chosen = stream.frame_indices(times, rng)
        assert chosen.tolist() == list(range(len(chosen)))
        lengths.add(len(chosen))
        assert len(set(image.frame_indices(times, rng).tolist())) == 2
    assert lengths == {1, 2, 3, 4, 5}
    item = stream.item(sample(1, steps=5), rng)
    assert len(item["looks"]) == 2
    assert item["looks"][-1] == 4


@pytest.mark.parametrize(("context", "matters"), [(1, False), (3, True)])
def test_a_frame_between_looks_matters_to_a_stream_alone(words: Path, context: int, matters: bool) -> None:
    task, backbone = build(words, context=context, execute=2)
    frames = sample(5, steps=3).frames
    changed = frames.copy()
    changed[1] = 255 - changed[1]
    last = []
    for each in (frames, changed):
        with Policy(task, backbone) as policy:
            policy.begin("push the red box")
            last.append([policy.act(frame) for frame in each][-1])
    assert (np.abs(last[0] - last[1]).max() > 1e-5) == matters


def test_actions_follow_image_and_instruction(words: Path) -> None:
    first, second = sample(1, steps=1).frames[0], sample(2, steps=1).frames[0]

    def act(task: Vla, backbone: Backbone, frame: np.ndarray, instruction: str) -> np.ndarray:
        with Policy(task, backbone) as policy:
            policy.begin(instruction)
            return policy.act(frame)

    seeing, blind = build(words), build(words, blind=True)
    for pair, differs in ((seeing, True), (blind, False)):
        actions = [act(*pair, frame, "push the red box") for frame in (first, second)]
        assert (np.abs(actions[0] - actions[1]).max() > 1e-5) == differs
        other = act(*pair, first, "lift the blue ball")
        assert np.abs(actions[0] - other).max() > 1e-5


def test_a_new_episode_begins_anew(words: Path) -> None:
    task, backbone = build(words, context=3)
    frames = sample(4).frames
    with Policy(task, backbone) as policy:
        policy.begin("push the red box")
        first = policy.act(frames[0])
        policy.act(frames[1])
        policy.begin("push the red box")
        assert np.array_equal(policy.act(frames[0]), first)


def test_the_query_is_read_at_the_end_of_the_prompt(words: Path) -> None:
    """What the head reads is the language model's state after every other token, in rows of any length."""
    task, backbone = build(words)
    frames = torch.from_numpy(task.prepared(sample(1), np.array([0, 1]))["frames"])
    texts = ["push the red box", "push the red box left of the blue ball"]
    with torch.no_grad():
        patches = task.features(backbone, frames, [0, 1])
        together = task.act([task.row(text) for text in texts], patches)
        for index, text in enumerate(texts):
            row = task.row(text)
            at = row.tokens.index(VISUAL)
            before, after = (
                task.llm.get_input_embeddings()(torch.tensor(part, dtype=torch.long))
                for part in (row.tokens[:at], row.tokens[at + 1 :])
            )
            grid = task.projector(patches[index])
            lines = [each for line in grid for each in (*line, task.newline)]
            inputs = torch.cat((before, torch.stack(lines), after, task.query[None]))
            hidden = task.llm.base_model(inputs_embeds=inputs[None], use_cache=False).last_hidden_state[:, -1]
            for found, expected in zip(together, task.head(hidden), strict=True):
                torch.testing.assert_close(found[index], expected[0], rtol=1e-4, atol=1e-5)


def test_channels_are_standardised_by_what_was_measured(words: Path) -> None:
    """Mean and deviation, by hand in float64, of looks spread over the episodes; both go with the policy's weights."""
    (task, backbone), plain = build(words, standardise=True), build(words)[0]
    episodes = [sample(number) for number in range(5)]
    task.measure_inputs(backbone, episodes)
    looks = [0, 1, 3, 5]  # of seven steps
    with torch.no_grad():
        seen = [plain.features(backbone, batch_of(plain, [each], looks)["frames"][0], looks) for each in episodes]
    patches = torch.cat(seen).double().flatten(0, 2).numpy()
    mean, deviation = patches.mean(0), patches.std(0)
    np.testing.assert_allclose(task.state_dict()["standard.mean"].numpy(), mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(task.state_dict()["standard.deviation"].numpy(), deviation, rtol=1e-4)
    given = torch.from_numpy((seen[0].double().numpy() - mean) / deviation).float()
    with torch.no_grad():
        found = task.act([task.row("push it")] * 4, seen[0])
        expected = plain.act([plain.row("push it")] * 4, given)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_channel_that_never_varies_is_not_scaled() -> None:
    standard = Standard(2)
    standard.measure(torch.tensor([[[[3.0, 1.0], [3.0, 5.0]]]]))
    assert standard(torch.tensor([[3.0, 5.0], [4.0, 1.0]])).tolist() == [[0.0, 1.0], [1.0, -1.0]]


def test_a_blind_policy_measures_nothing(words: Path) -> None:
    task, backbone = build(words, standardise=True, blind=True)
    task.measure_inputs(backbone, [sample(1)])
    assert task.standard.deviation.tolist() == [1.0] * BACKBONE.hidden_size


def test_the_image_stands_where_the_options_say(words: Path) -> None:
    """Before the prompt; or after all of it, where what is told reaches every visual token."""
    before, after = (build(words, image_last=asked)[0].row("push the red box").tokens for asked in (False, True))
    assert before.count(VISUAL) == after.count(VISUAL) == 1
    assert before.index(VISUAL) < len(before) - 4
    assert after == [*(token for token in before if token != VISUAL), VISUAL]
    blind = [build(words, image_last=asked, blind=True)[0].row("push it").tokens for asked in (False, True)]
    assert blind[0] == blind[1]
    assert VISUAL not in blind[0]


def test_predictions_are_what_the_robot_is_told(words: Path) -> None:
    task, backbone = build(words)
    frames = torch.from_numpy(task.prepared(sample(1), np.array([0]))["frames"])
    with torch.no_grad():
        patches = task.features(backbone, frames, [0])
        arm, gripper = (each.numpy()[0] for each in task.act([task.row("push it")], patches))
    found = task.predict("push it", patches)[0]
    for axis in range(3):
        wanted = LOW[axis] + (arm[:, axis] + 1) / 2 * (HIGH[axis] - LOW[axis])
        np.testing.assert_allclose(found[:, axis], wanted, atol=1e-6)
    assert found[:, 3].tolist() == (gripper > 0).astype(float).tolist()


# ---- bad input


def test_other_statistics_and_other_widths_are_refused(words: Path) -> None:
    task, backbone = build(words)
    Policy(task, backbone, scale=ActionScale("quantiles", LOW, HIGH))
    with pytest.raises(DataError, match="bridge: its actions are scaled otherwise"):
        Policy(task, backbone, scale=ActionScale("quantiles", LOW, (0.5, 1.0, 1.5)), name="bridge")
    lost = replace(sample(1))
    lost.episode = replace(lost.episode, actions=np.full_like(lost.episode.actions, np.nan))
    for broken, told in (
        (sample(1, size=7), "actions of 7 numbers, this policy's have 4"),
        (replace(sample(1), episode=None), "actions of none"),
        (lost, "an action is not finite"),
    ):
        for use in (task.accept, lambda one: task.item(one, np.random.default_rng(0))):
            with pytest.raises(DataError, match=told):
                use(broken)
    task.accept(sample(1))


def test_a_policy_needs_an_instruction(words: Path) -> None:
    task, backbone = build(words)
    policy = Policy(task, backbone)
    with pytest.raises(ValueError, match="begin an instruction"):
        policy.act(sample(1).frames[0])
    with pytest.raises(ValueError, match="empty"):
        policy.begin("")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"execute": 4}, "execute 4: must not be more than chunk 3"),
        ({"prompt": "do something"}, "where the instruction goes"),
        ({"high": [0.5, 1.0]}, "3 lowest and 2 highest"),
        ({"high": [0.5, -1.0, 1.0]}, "axis 1 goes from -1.0 to -1.0"),
        ({"tokenizer": None}, "tokenizer: needed"),
    ],
)
def test_impossible_options_are_refused(words: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        options(words, **change)


def test_check_names_sizes(words: Path) -> None:
    assert not Vla.check(options(words), BACKBONE)
    assert [key for key, _ in Vla.check(options(words, size=36), BACKBONE)] == ["size"]
    assert Vla.tokens_per_sample(options(words, looks=2), BACKBONE) == 2 * BACKBONE.tokens_per_frame(32, 32)


# ---- measures


def test_measures_beside_blind_guesses(words: Path) -> None:
    task, backbone = build(words, context=2)
    samples = [sample(1), sample(2, steps=3, instruction="lift the box"), sample(3, instruction="")]
    blind = task.fit_blind(samples[:2])
    arm, gripper = task.evaluate(backbone, samples, blind)
    assert (arm.name, gripper.name) == ("arm_error", "gripper_accuracy")
    for measure in (arm, gripper):
        assert np.isfinite(measure.values[:2]).all()
        assert np.isnan(measure.values[2])
        assert (measure.values[:2] != measure.swapped[:2]).any() or measure is gripper
    episode = samples[0].episode
    assert episode is not None
    normal = task.scale.normalise(episode.actions)
    mean, errors = normal.mean(0), []
    for look in (0, 1, 3, 5):
        errors += [np.abs(mean - normal[step])[:3] for step in range(look, min(look + 3, 7))]
    assert arm.fixed[0] == pytest.approx(np.mean(errors), rel=1e-5)
