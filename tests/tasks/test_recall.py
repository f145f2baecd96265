"""What a frozen backbone saw before is not computed again, and is the same to the bit."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vla
import tiny_vlm
import torch
from language import write_tokenizer
from pydantic import ValidationError
from torch import Tensor

from interlace.backbone import Backbone, FrozenBackbone
from interlace.tasks.interface import Progress
from interlace.tasks.vlm.recall import Recall

PROGRESS = Progress(0, 10, 0)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("words"))


class Counted:
    """How often it was asked; features of its own pixels."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        self.times += 1
        return pixels.flatten(1).float().sum(1)


def frozen() -> FrozenBackbone:
    return FrozenBackbone.of(Backbone(tiny_vlm.BACKBONE))


def pixels(number: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 255, shape or (2, 3, 4, 4), generator=generator, dtype=torch.uint8)


def test_the_same_pixels_are_seen_once_and_others_for_themselves() -> None:
    recall, see, backbone = Recall(1000), Counted(), frozen()
    first = recall(backbone, pixels(1), see)
    assert recall(backbone, pixels(1), see) is first
    assert see.times == 1
    other = pixels(1)
    other[1, 2, 3, 3] ^= 1  # the last number of all
    assert recall(backbone, other, see).equal(see(backbone, other))
    assert not recall(backbone, other, see).equal(first)
    assert len(recall(backbone, pixels(1).reshape(4, 3, 2, 4), see)) == 4, "the same bytes in another shape"


def test_no_more_is_held_than_was_allowed() -> None:
    recall, see, backbone = Recall(20), Counted(), frozen()  # two of 8 bytes
    for _ in range(2):
        for number in range(4):
            assert recall(backbone, pixels(number), see).equal(Counted()(backbone, pixels(number)))
    assert recall.held == 16
    assert see.times == 4 + 2


def test_another_backbone_is_seen_through_anew_and_one_that_learns_always() -> None:
    recall, see, backbone = Recall(1000), Counted(), frozen()
    for each in (backbone, backbone, frozen(), backbone):
        recall(each, pixels(1), see)
    assert see.times == 3
    learning = Backbone(tiny_vlm.BACKBONE)
    for _ in range(2):
        recall(learning, pixels(1), see)
    assert see.times == 5


def test_a_copy_in_another_process_begins_empty() -> None:
    recall = Recall(1000)
    recall(frozen(), pixels(1, 200, 3, 4, 4), Counted())
    sent = pickle.dumps(recall)
    assert len(sent) < 200
    assert (pickle.loads(sent).limit, pickle.loads(sent).held) == (1000, 0)


def counted_forwards(backbone: FrozenBackbone) -> list[int]:
    """How many frames each step of ``backbone`` saw, streamed or whole, as they come."""
    seen: list[int] = []
    embed = backbone.embedding.forward

    def forward(frames: Tensor, *given: Any) -> Tensor:
        seen.append(frames.shape[0] * frames.shape[1])
        return embed(frames, *given)

    backbone.embedding.forward = forward  # type: ignore[method-assign]
    return seen


def test_training_on_what_is_remembered_is_training_on_what_is_seen(words: Path) -> None:
    (plain, eyes), (task, same) = (tiny_vlm.build(words, remember=share) for share in (0, 0.001))
    seen = counted_forwards(same)
    samples = [tiny_vlm.sample(1, frames=3), tiny_vlm.sample(2), tiny_vlm.sample(1, frames=3)]
    made = [task.item(each, np.random.default_rng(0)) for each in samples]
    for _ in range(2):
        mine = task.losses(same, task.collate(made), teacher=None, progress=PROGRESS)["tokens"]
        theirs = plain.losses(eyes, plain.collate(made), teacher=None, progress=PROGRESS)["tokens"]
        assert torch.equal(mine.sum, theirs.sum)
    assert seen == [1, 1, 1, 1, 1], "three frames of the video once, the image in both steps"


def test_a_policy_learns_from_the_very_features_that_control_sees(words: Path) -> None:
    (plain, eyes), (task, same) = (tiny_vla.build(words, remember=share) for share in (0, 0.001))
    seen = counted_forwards(same)
    frames = torch.from_numpy(task.prepared(tiny_vla.sample(3), np.arange(7))["frames"])
    for looks in ([0, 3], [3, 5, 0]):
        features = task.features(same, frames, looks)
        assert torch.equal(features, plain.features(eyes, frames, looks))
        alone = [plain.features(eyes, frames[look : look + 1], [0]) for look in looks]
        assert torch.equal(features, torch.cat(alone)), "as in control, one look after another"
    assert seen == [1, 1, 1]


def test_a_stream_is_not_remembered(words: Path) -> None:
    with pytest.raises(ValidationError, match=r"features of a stream \(context 3\) are not kept"):
        tiny_vla.options(words, remember=1.0, context=3)
