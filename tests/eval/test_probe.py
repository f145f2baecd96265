"""Probes on built-in rooms: masks that fit, heads that learn what is there to learn, choices made on training rooms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from interlace.backbone import Backbone
from interlace.data_recipes import DataError
from interlace.eval import probe as probes
from interlace.eval.album import Album
from interlace.eval.frozen import NotFrozen
from interlace.eval.heads import Budget, DenseHead, PoseHead, depth_loss, fit, pose_loss, split
from interlace.eval.linear import fit_linear, logistic
from interlace.eval.probe import cache, load_rooms, overlaps, own_iou, probe, relative_poses
from interlace.eval.rooms import CLASSES, IGNORED, pixel_classes, read_rooms
from interlace.eval.subjects import EightBits, FrozenBackbone, Pixels, Tokens

QUICK = Budget(steps=5, batch=4, rates=(1e-3, 1e-2))


def test_masks_are_those_of_the_stored_clips(rooms_folder: Path) -> None:
    samples, reader = read_rooms("held_out", folder=rooms_folder)
    frames = np.tile([[0, 3]], (len(samples), 1))
    classes = pixel_classes(samples, frames, reader)
    assert classes.shape == (3, 2, 32, 32)
    assert set(np.unique(classes)) <= {*range(len(CLASSES)), IGNORED}
    for sample, maps in zip(samples, classes, strict=True):
        assert sample.depth is not None
        assert sample.c2w is not None
        assert sample.K is not None
        for at, shown in zip((0, 3), maps, strict=True):
            rows, columns = np.nonzero(shown == CLASSES.index("floor"))
            rays = np.stack((columns + 0.5, rows + 0.5, np.ones(len(rows)))).T @ np.linalg.inv(sample.K[at]).T
            points = rays * sample.depth[at][rows, columns, None] @ sample.c2w[at, :3, :3].T + sample.c2w[at, :3, 3]
            assert len(points) > 20
            assert np.abs(points[:, 2]).max() < 0.01  # the floor is at height 0


def test_masks_that_do_not_fit_are_refused(rooms_folder: Path) -> None:
    samples, reader = read_rooms("held_out", folder=rooms_folder, rooms=1)
    assert samples[0].depth is not None
    samples[0].depth = samples[0].depth * 1.1
    with pytest.raises(DataError, match=r"room-1008000/scene-0: masks do not fit .* `interlace prepare demo`"):
        pixel_classes(samples, np.array([[0]]), reader)
    with pytest.raises(DataError, match="the built-in rooms are not there"):
        read_rooms("train", folder=rooms_folder / "nothing")


def test_mean_iou_is_of_summed_pixels() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (4, 2, 5, 5)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = IGNORED
    guess = rng.integers(0, 3, truth.shape)
    both, either = overlaps(guess, truth, 3)
    for clip in range(4):
        for each in range(3):
            seen, true = (guess[clip] == each)[truth[clip] != IGNORED], (truth[clip] == each)[truth[clip] != IGNORED]
            assert both[clip, each] == (seen & true).sum()
            assert either[clip, each] == (seen | true).sum()


def test_the_classifier_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(80, 5)), rng.integers(0, 3, 80)
    inputs[:, 0] += labels
    decay = 1e-2
    ours = logistic(torch.from_numpy(inputs), torch.from_numpy(labels), 3, decay).numpy()
    theirs = LogisticRegression(C=1 / (decay * 80), tol=1e-8, max_iter=1000).fit(inputs, labels)
    np.testing.assert_allclose(ours[:-1] - ours[:-1].mean(1, keepdims=True), theirs.coef_.T, atol=2e-3)


def test_a_class_that_one_number_tells_is_found_among_noise() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2), 40)
    features = torch.from_numpy(rng.normal(size=(80, 20))).float()
    features[:, 0] += torch.from_numpy(labels) * 6
    query = torch.from_numpy(rng.normal(size=(50, 20))).float()
    query[:25, 0] += 6
    scenes = [f"{k % 20}" for k in range(80)]
    shares = fit_linear(features, labels, scenes, 0.2, 0).shares(query)
    torch.testing.assert_close(shares.sum(1), torch.ones(50, dtype=torch.float64))
    assert (shares.argmax(1).numpy() == np.repeat([1, 0], 25)).mean() > 0.9


def test_held_back_scenes_are_whole_and_the_same_for_everyone() -> None:
    scenes = [f"{k // 3}" for k in range(30)]
    training, aside = split(scenes, 0.2, 0)
    assert {scenes[k] for k in training}.isdisjoint({scenes[k] for k in aside})
    assert len({scenes[k] for k in aside}) == 2
    assert torch.equal(split(scenes, 0.2, 0)[1], aside)
    assert not torch.equal(split(scenes, 0.2, 1)[1], aside)
    with pytest.raises(ValueError, match="two scenes at least, found 1"):
        split(["a"] * 5, 0.2, 0)


def test_a_depth_head_finds_a_linear_depth() -> None:
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(60, 4, 4, 6, generator=generator) * torch.tensor([1.0, 10, 0.1, 1, 1, 1])
    depth = (0.3 * patches[..., 2] / 0.1 + 1).exp().repeat_interleave(2, 1).repeat_interleave(2, 2)
    depth[:, 0] = 0  # no depth there
    scenes = [f"{k // 2}" for k in range(60)]
    found = fit(lambda: DenseHead(patches, 1), depth_loss(patches, depth), scenes, Budget(), 0)
    before = DenseHead(patches, 1)
    loss = depth_loss(patches, depth)
    with torch.no_grad():
        assert float(loss(found.head, torch.arange(60))) < 0.25 * float(loss(before, torch.arange(60)))
    assert found.rate == min(found.losses, key=found.losses.__getitem__)


def test_the_rate_is_kept_that_is_best_on_held_back_scenes() -> None:
    patches, depth = torch.randn(20, 2, 2, 3), torch.rand(20, 2, 2) + 0.5
    budget = Budget(steps=3, batch=2, rates=(1e-3, 1e30))
    assert (
        fit(lambda: DenseHead(patches, 1), depth_loss(patches, depth), [f"{k}" for k in range(20)], budget, 0).rate
        == 1e-3
    )
    with pytest.raises(ValueError, match="finite at none"):
        fit(
            lambda: DenseHead(patches, 1),
            lambda head, items: depth_loss(patches, depth)(head, items) * float("nan"),
            [f"{k}" for k in range(20)],
            budget,
            0,
        )


def test_a_pose_head_finds_a_pose_and_its_quaternion_is_a_rotation() -> None:
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.normal(size=(200, 6))).float()
    turn = Rotation.from_rotvec(0.3 * tokens[:, :3].numpy()).as_quat()
    poses = torch.cat((torch.from_numpy(turn).float(), tokens[:, 3:]), 1)
    first = torch.zeros_like(tokens)
    loss = pose_loss(tokens, first, poses)
    found = fit(lambda: PoseHead(tokens), loss, [f"{k // 4}" for k in range(200)], Budget(), 0)
    with torch.no_grad():
        assert float(loss(found.head, torch.arange(200))) < 0.3 * float(loss(PoseHead(tokens), torch.arange(200)))
        torch.testing.assert_close(found.head(tokens, first)[:, :4].norm(dim=1), torch.ones(200))


def test_poses_are_relative_to_the_first_camera(rooms_folder: Path) -> None:
    samples, _ = read_rooms("held_out", folder=rooms_folder, rooms=1)
    found = relative_poses(samples).numpy()[0]
    c2w = samples[0].c2w
    assert c2w is not None
    for at in range(4):
        relative = np.linalg.inv(c2w[0]) @ c2w[at]
        np.testing.assert_allclose(found[at, 4:], relative[:3, 3], atol=1e-5)
        np.testing.assert_allclose(Rotation.from_quat(found[at, :4]).as_matrix(), relative[:3, :3], atol=1e-5)
    c2w[2, 0, 0] = np.nan
    with pytest.raises(ValueError, match="scene-0: a camera is missing or not finite"):
        relative_poses(samples)


def test_all_probes_of_backbone_and_pixels(rooms_folder: Path, backbone: Backbone) -> None:
    rooms = load_rooms(rooms_folder)
    found = {}
    for subject in (FrozenBackbone(backbone, "mine"), Pixels(8)):
        results = probe(subject, rooms, budget=QUICK)
        found[subject.name] = {(each.facts.protocol, each.measure): each for each in results}
    mine, pixels = found.values()
    assert list(mine) == list(pixels)
    assert {measure for _, measure in mine} == {
        *("floor", "walls", "colour", "shape", "miou", "abs_rel", "delta_1.25"),
        *("rotation_degrees", "translation_metres"),
    }
    assert {each.facts.unit for each in mine.values()} == {"room"}
    assert {len(each.groups) for each in mine.values()} <= {1, 2, 3}  # a label need not apply to every room
    again = probe(FrozenBackbone(backbone, "mine"), rooms, budget=QUICK)
    assert [each.value for each in again] == [each.value for each in mine.values()]


def test_others_are_read_by_the_same_heads_and_albums_hold_what_was_measured(
    rooms_folder: Path, backbone: Backbone
) -> None:
    rooms, mine = load_rooms(rooms_folder), FrozenBackbone(backbone, "mine")
    twin, small, albums = FrozenBackbone(backbone, "twin"), EightBits(mine), dict[str, list[Album]]()
    found = probe(mine, rooms, budget=QUICK, others=[twin, small], albums=albums)
    values = {
        name: {(each.facts.protocol, each.measure): each.value for each in found if each.facts.subject == name}
        for name in ("mine", "twin", small.name)
    }
    assert values["twin"] == values["mine"]
    depth = ("probe/depth (linear on patches, metres, not aligned)", "abs_rel")
    assert 0 < abs(values[small.name][depth] - values["mine"][depth]) < 0.02 * values["mine"][depth]
    assert list(albums) == ["mine"]
    by_kind = {album.kind: album for album in albums["mine"]}
    assert list(by_kind) == ["classes", "segmentation", "depth", "pose"]
    assert np.mean([each.score for each in by_kind["depth"].shown]) == pytest.approx(values["mine"][depth])
    floor = next(album for album in albums["mine"] if album.title == "floor")
    right = np.mean([each.guess == each.truth for each in floor.shown])
    assert right == values["mine"]["probe/linear (CLS and mean patch, un-augmented)", "floor"]
    for sample, shown in zip(rooms.test, by_kind["segmentation"].shown, strict=True):
        np.testing.assert_array_equal(shown.frames[0], sample.frames[-1])
    np.testing.assert_array_equal(by_kind["segmentation"].shown[1].truth, rooms.test_classes[1, -1])
    path = by_kind["pose"].shown[0]
    assert path.score == pytest.approx(float(np.linalg.norm(path.guess[1:] - path.truth[1:], axis=-1).mean()))


def test_the_iou_of_one_sample_is_over_its_own_classes() -> None:
    both, either = np.array([[2, 0, 0], [0, 0, 0]]), np.array([[4, 1, 0], [0, 0, 0]])
    assert own_iou(both, either) == [0.25, 0.0]


class Leaky(FrozenBackbone):
    """Learns a little from whatever it is shown."""

    def clips(self, frames: Tensor) -> Tokens:
        tokens = super().clips(frames)
        with torch.no_grad():
            self.backbone.norm.weight[0] += 1e-6
        return tokens


def test_a_backbone_that_learns_while_it_is_probed_gets_no_result(
    rooms_folder: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        probes, "pixel_classes", lambda samples, frames, reader: np.zeros((len(samples), 2, 32, 32), np.uint8)
    )
    with pytest.raises(NotFrozen, match=r"norm\.weight changed while it was measured"):
        probe(Leaky(backbone, "mine"), load_rooms(rooms_folder), budget=QUICK)


def test_tokens_are_those_of_the_chosen_frames(rooms_folder: Path) -> None:
    samples, _ = read_rooms("held_out", folder=rooms_folder)
    frames = np.array([[0, 1], [2, 3], [1, 3]])
    found = cache(Pixels(8), samples, frames)
    for row, sample in enumerate(samples):
        clip = torch.from_numpy(sample.frames[frames[row]]).permute(0, 3, 1, 2)
        torch.testing.assert_close(found.patches[row], Pixels(8).clips(clip[None]).patches[0])
    assert isinstance(found.cls, Tensor)
    assert not isinstance(found, nn.Module)
