"""Linear probes by DINOv3's protocols: native layouts, what is drawn, heads and errors against plain transcriptions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.io import savemat
from sklearn.metrics import jaccard_score
from torch import Tensor, nn

from interlace.backbone import Backbone
from interlace.data_recipes import DataError
from interlace.eval import dense_probe
from interlace.eval.album import Album
from interlace.eval.augment import distorted, random_box, resized_crop_box
from interlace.eval.dense_probe import (
    DenseBudget,
    DenseLinear,
    binned_depth,
    depth_errors,
    mirrored_depth,
    probe_depth,
    probe_segmentation,
    scale_invariant_loss,
    slide,
    window_places,
)
from interlace.eval.feed import Run
from interlace.eval.images import (
    ClassItems,
    Data,
    DepthItems,
    DepthRules,
    MaskItems,
    classified,
    measured,
    read_ade20k,
    read_ade_mask,
    read_imagenet,
    read_nyu,
    segmented,
)
from interlace.eval.linear_probe import RATES, LinearBudget, LinearHeads, probe_classes, tokens_of_images
from interlace.eval.probe import load_rooms
from interlace.eval.room_images import room_classes, room_depths, room_masks
from interlace.eval.rooms import IGNORED
from interlace.eval.subjects import FrozenBackbone, Pixels

WNIDS = ("n01440764", "n01443537")
RULES = DepthRules(crop=(16, 24), box=(2, 2, 30, 22), judged=(4, 4, 28, 20), size=(24, 32))


def image(path: Path, level: int, size: tuple[int, int] = (24, 32), mode: str = "RGB", noise: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grain = np.random.default_rng(level).integers(-noise, noise, (*size, 3))
    Image.fromarray(np.clip(level + grain, 0, 255).astype(np.uint8)).convert(mode).save(path, quality=95)


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    for place, name in enumerate(WNIDS):
        for number in (3, 12):
            file = tmp_path / "train" / name / f"{name}_{number}.JPEG"
            image(file, 60 + 120 * place, mode="L" if number == 3 else "CMYK")
    for number, place in ((1, 1), (2, 0), (3, 1)):
        image(tmp_path / "val" / WNIDS[place] / f"ILSVRC2012_val_{number:08d}.JPEG", 60 + 120 * place)
    return tmp_path


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    for split, names in (("training", ("ADE_train_1", "ADE_train_2")), ("validation", ("ADE_val_1", "ADE_val_2"))):
        for number, name in enumerate(names):
            image(tmp_path / "images" / split / f"{name}.jpg", 40 + 160 * number, (40, 56))
            mask = np.zeros((40, 56), np.uint8)
            mask[:, :20], mask[:, 20:40] = 1 + number, 150
            (tmp_path / "annotations" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(tmp_path / "annotations" / split / f"{name}.png")
    return tmp_path


@pytest.fixture
def nyu(tmp_path: Path) -> Path:
    for split, home, scenes in (
        ("train", "sync", ("kitchen_0028b", "office_0001a")),
        ("test", "official_splits/test", ("bathroom", "office")),
    ):
        lines = []
        for number, name in enumerate(scenes):
            folder = tmp_path / home / name
            image(folder / "rgb_00045.jpg", 60 + 140 * number, noise=2)
            depth = np.full((24, 32), 1500 + 1000 * number, np.uint16)
            depth[:, 8] = 0
            Image.fromarray(depth).save(folder / "sync_depth_00045.png")
            slash = "/" if split == "train" else ""
            lines.append(f"{slash}{name}/rgb_00045.jpg {slash}{name}/sync_depth_00045.png 518.8579")
        (tmp_path / f"nyudepthv2_{split}_files_with_gt.txt").write_text("\n".join(lines))
    return tmp_path


def test_imagenet_in_folders_and_flat_is_the_same(imagenet: Path) -> None:
    found = read_imagenet(imagenet)
    assert found.classes == WNIDS
    assert [found.test.read(index, None)[1] for index in range(3)] == [0, 1, 1]
    assert [each.known for each in found.train.pairs] == [0, 0, 1, 1]  # type: ignore[attr-defined]
    for file in sorted((imagenet / "val").glob("*/*.JPEG")):
        file.rename(imagenet / "val" / file.name)
    with pytest.raises(DataError, match=r"a flat val needs ILSVRC2012_validation_ground_truth\.txt and meta\.mat"):
        read_imagenet(imagenet)
    kit = imagenet / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    synsets = np.zeros(2, [("ILSVRC2012_ID", object), ("WNID", object)])
    synsets[0], synsets[1] = (1, WNIDS[1]), (2, WNIDS[0])  # its numbers are not the places of sorted names
    savemat(kit / "meta.mat", {"synsets": synsets})
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n1\n")
    flat = read_imagenet(imagenet)
    assert [flat.test.read(index, None)[1] for index in range(3)] == [1, 0, 1]
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n")
    with pytest.raises(DataError, match="2 labels of 3 images"):
        read_imagenet(imagenet)
    with pytest.raises(DataError, match="holds no folders of classes"):
        read_imagenet(kit)


def test_an_image_is_classified_by_its_middle_and_learned_from_crops(imagenet: Path) -> None:
    pixels = torch.zeros(3, 40, 80, dtype=torch.uint8)
    pixels[:, :, 20:60] = 200
    middle = classified(pixels, 28, 32, None)
    assert tuple(middle.shape) == (3, 28, 28)
    assert float(middle.float().mean()) > 195
    items = ClassItems(read_imagenet(imagenet).train.pairs, 16, 18)  # type: ignore[attr-defined]
    drawn = [items.read(0, np.random.default_rng(seed))[0] for seed in range(4)]
    assert all(tuple(each.shape) == (3, 16, 16) and each.dtype == torch.uint8 for each in drawn)
    assert len({each.numpy().tobytes() for each in drawn}) == 4
    assert items.read(1, None)[0].shape == (3, 16, 16)  # CMYK
    half = torch.zeros(3, 8, 8, dtype=torch.uint8)
    half[:, :, :4] = 255
    sides = [float(classified(half, 8, 9, np.random.default_rng(seed))[..., 0].float().mean()) for seed in range(40)]
    assert min(sides) < 50 < 200 < max(sides)  # mirrored at times


def test_boxes_of_crops_have_the_area_and_aspect_that_they_should() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([resized_crop_box(200, 300, rng) for _ in range(500)])
    wide, high = (boxes[:, 2] - boxes[:, 0]), (boxes[:, 3] - boxes[:, 1])
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 300
    assert boxes[:, 3].max() <= 200
    assert 0.07 < (wide * high / 60_000).min() < 0.12
    assert (wide * high / 60_000).max() > 0.8
    assert 0.72 < (wide / high).min() < 0.8 < 1.25 < (wide / high).max() < 1.37
    assert resized_crop_box(10, 1000, rng) == (493, 0, 506, 10)  # nothing fits: the middle


def test_heads_are_plain_sgd_at_a_rate_of_batch_over_256() -> None:
    rng = np.random.default_rng(0)
    budget = LinearBudget(steps=6, batch=8, rates=(0.1, 3.2))
    heads = LinearHeads(4, 3, budget, 0, "cpu")
    weights = [(head.weight.detach().double().numpy().copy(), np.zeros(3)) for head in heads.heads]
    assert abs(weights[0][0]).max() < 0.05
    momentum = [(np.zeros((3, 4)), np.zeros(3)) for _ in budget.rates]
    for step in range(6):
        x, y = rng.normal(size=(8, 4)).astype(np.float32), rng.integers(0, 3, 8)
        heads.learn(torch.from_numpy(x), torch.from_numpy(y))
        for place, rate in enumerate(budget.rates):
            W, b = weights[place]
            scores = x @ W.T + b
            share = np.exp(scores - scores.max(1, keepdims=True))
            share /= share.sum(1, keepdims=True)
            error = (share - np.eye(3)[y]) / 8
            velocity = (0.9 * momentum[place][0] + error.T @ x, 0.9 * momentum[place][1] + error.sum(0))
            now = rate * 8 / 256 * (1 + math.cos(math.pi * step / 6)) / 2
            weights[place] = (W - now * velocity[0], b - now * velocity[1])
            momentum[place] = velocity
    for head, (W, b) in zip(heads.heads, weights, strict=True):
        np.testing.assert_allclose(head.weight.detach().numpy(), W, atol=1e-5)
        np.testing.assert_allclose(head.bias.detach().numpy(), b, atol=1e-5)
    assert (len(RATES), RATES[0], RATES[-1], LinearBudget().steps) == (13, 1e-5, 1e-1, 12_500)


def test_images_are_streams_of_one_frame(backbone: Backbone) -> None:
    subject = FrozenBackbone(backbone, "mine")
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    cls, mean = tokens_of_images(subject, pixels)
    alone = subject.clips(pixels[1][None, None])
    torch.testing.assert_close(cls[1], alone.cls[0, 0])
    torch.testing.assert_close(mean[1], alone.patches[0, 0].mean((0, 1)))


@pytest.mark.parametrize("cached", [False, True])
def test_classes_are_learned_the_rate_is_picked_on_val_and_the_broken_named(imagenet: Path, cached: bool) -> None:
    (imagenet / "val" / WNIDS[1] / "ILSVRC2012_val_00000003.JPEG").write_bytes(b"no image")
    (imagenet / "train" / WNIDS[1] / f"{WNIDS[1]}_12.JPEG").write_bytes(b"")
    found = read_imagenet(imagenet)
    data = Data("I", found.classes, ClassItems(found.train.pairs, 16, 18), found.test, found.units)  # type: ignore[attr-defined]
    data.test.size, data.test.resize = 16, 18  # type: ignore[attr-defined]
    budget = LinearBudget(steps=20, batch=4, rates=(-5.0, 5.0))  # one unlearns
    albums: dict[str, list[Album]] = {}
    first, *more = probe_classes(Pixels(8), data, budget, cached=cached, albums=albums)
    assert (first.measure, first.value, first.n, first.of) == ("top-1", 1.0, 2, 3)
    assert "not an image" in first.facts.missing["ILSVRC2012_val_00000003"]
    assert first.facts.settings["left_out_of_training"] == 1
    assert first.facts.found["kept"] == "rate 5"
    assert "rate picked on val" in first.facts.protocol
    assert ("un-augmented" in first.facts.protocol) == cached
    ((album,),) = albums.values()
    assert [each.name for each in album.shown] == [name for name in data.test.names if "00000003" not in name]
    assert all(int(each.guess) == int(each.truth) and each.score > 0.5 for each in album.shown)
    assert all(each.frames.shape == (1, 16, 16, 3) for each in album.shown)
    assert [each.facts.protocol for each in more] == ["linear/knn (CLS, un-augmented, cached)"] * cached


def test_ade_masks_lose_their_zero(ade: Path, tmp_path: Path) -> None:
    found = read_ade_mask(ade / "annotations" / "training" / "ADE_train_2.png")
    assert set(np.unique(found)) == {1, 149, IGNORED}
    Image.fromarray(np.full((4, 4), 151, np.uint8)).save(tmp_path / "full.png")
    with pytest.raises(DataError, match="class 151; masks of the 150 classes are needed"):
        read_ade_mask(tmp_path / "full.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    with pytest.raises(DataError, match="an image of mode RGB; expected 8-bit grey values"):
        read_ade_mask(tmp_path / "rgb.png")
    with pytest.raises(DataError, match="holds no images; give ADEChallengeData2016"):
        read_ade20k(tmp_path / "annotations")


def test_a_mask_that_does_not_fit_its_image_is_named(ade: Path) -> None:
    mask = ade / "annotations" / "validation" / "ADE_val_2.png"
    Image.fromarray(np.ones((20, 28), np.uint8)).save(mask)
    with pytest.raises(DataError, match=r"ADE_val_2\.png: a mask \[20, 28\] that does not fit its image"):
        MaskItems(read_ade20k(ade).test.pairs, 32).read(1, None)  # type: ignore[attr-defined]


def test_a_mask_goes_where_its_image_goes() -> None:
    pixels = torch.full((3, 40, 56), 10, dtype=torch.uint8)
    pixels[:, 10:30, 5:20] = 250
    mask = (pixels[0] > 100).to(torch.uint8)
    whole, kept = segmented(pixels, mask, 32, None)
    assert tuple(whole.shape) == (3, 32, 45)
    assert kept is mask
    seen = 0
    for seed in range(20):
        found, classes = segmented(pixels, mask, 32, np.random.default_rng(seed))
        assert tuple(found.shape[1:]) == tuple(classes.shape) == (32, 32)
        light, valid = found.float().mean(0) > 125, classes != IGNORED
        agree = (light == (classes == 1))[valid]
        seen += int((classes == 1).any())
        assert agree.float().mean() > 0.9  # but for soft edges
        padding = found[:, ~valid]
        assert padding.numel() == 0 or torch.equal(padding.unique(dim=1)[:, 0], torch.tensor([124, 116, 104]).byte())
    assert seen > 10
    assert len({distorted(pixels, np.random.default_rng(seed)).numpy().tobytes() for seed in range(10)}) > 5


def test_windows_cover_the_image_and_are_averaged(backbone: Backbone) -> None:
    assert window_places(683, 512, 341) == [0, 171]
    assert window_places(512, 512, 341) == [0]
    assert window_places(1100, 512, 341) == [0, 341, 588]
    subject = FrozenBackbone(backbone, "mine")
    pixels = torch.randint(0, 256, (3, 16, 24), dtype=torch.uint8)
    head = DenseLinear(32, 5).eval()
    nn.init.normal_(head.linear.weight)
    found = slide(subject, head, pixels, 16, 11)
    expected, counts = torch.zeros(5, 16, 24), torch.zeros(24)
    for left in (0, 8):
        patches = subject.clips(pixels[None, None, :, :, left : left + 16].contiguous()).patches[:, 0]
        expected[:, :, left : left + 16] += F.interpolate(head(patches), (16, 16), mode="bilinear")[0]
        counts[left : left + 16] += 1
    torch.testing.assert_close(found, expected / counts)


def test_segmentation_is_summed_over_images(ade: Path) -> None:
    (ade / "annotations" / "validation" / "ADE_val_2.png").unlink()
    image(ade / "images" / "validation" / "ADE_val_3.jpg", 120, (40, 56))
    Image.fromarray(np.full((40, 56), 3, np.uint8)).save(ade / "annotations" / "validation" / "ADE_val_3.png")
    parts = read_ade20k(ade)
    train, test = (MaskItems(each.pairs, 32) for each in (parts.train, parts.test))  # type: ignore[attr-defined]
    data, albums = Data("A", parts.classes, train, test, parts.units), dict[str, list[Album]]()
    lines: list[str] = []
    budget = DenseBudget(steps=8, warmup=2, batch=2, rate=0.05)
    (found,) = probe_segmentation(Pixels(8), data, budget, Run(say=lines.append), size=32, albums=albums)
    ((album,),) = albums.values()
    truth = np.concatenate([each.truth.ravel() for each in album.shown])
    guess = np.concatenate([each.guess.ravel() for each in album.shown])
    valid = truth != IGNORED
    there = sorted(set(truth[valid]) | set(guess[valid]))
    expected = jaccard_score(truth[valid], guess[valid], labels=there, average="macro", zero_division=0)
    assert found.value == pytest.approx(expected)
    for each in album.shown:
        valid, classes = each.truth != IGNORED, {*each.truth[each.truth != IGNORED], *each.guess[each.truth != IGNORED]}
        own = jaccard_score(
            each.truth[valid], each.guess[valid], labels=sorted(classes), average="macro", zero_division=0
        )
        assert each.score == pytest.approx(own)
        assert each.frames.shape[:1] + each.frames.shape[3:] == (1, 3)
    assert (found.n, found.of, len(album.shown)) == (2, 3, 2)
    assert "no such file" in found.facts.missing["ADE_val_2"]
    assert any(line.startswith("left out validation/ADE_val_2") for line in lines)


def test_depth_counts_where_it_should(nyu: Path) -> None:
    items = DepthItems(read_nyu(nyu).test.pairs, RULES)  # type: ignore[attr-defined]
    pixels, depth = items.read(0, None)
    assert tuple(pixels.shape) == (3, 24, 32)
    expected = np.zeros((24, 32), np.float32)
    expected[4:20, 4:28] = 1.5
    expected[:, 8] = 0
    np.testing.assert_array_equal(depth.numpy(), expected)
    cropped, there = items.read(0, np.random.default_rng(0))
    assert (tuple(cropped.shape), tuple(there.shape)) == ((3, 16, 24), (16, 24))
    far = torch.tensor([[0.0005, 10.0], [10.1, 3.0]])
    rules = DepthRules(crop=(2, 2), box=None, judged=None, size=None)
    assert measured(torch.zeros(3, 2, 2).byte(), far, rules, None)[1].tolist() == [[0, 10], [0, 3]]
    with pytest.raises(DataError, match=r"depth \[24, 32\], image \[24, 32\], expected \(480, 640\)"):
        read_nyu(nyu).test.read(0, None)
    with pytest.raises(DataError, match=r"nyu_train.txt: no such list"):
        read_nyu(nyu / "sync")


def test_a_mirrored_crop_keeps_its_depth_in_place() -> None:
    ramp = torch.arange(1, 33.0).expand(24, 32) / 8
    pixels = (ramp * 50).to(torch.uint8).expand(3, 24, 32).contiguous()
    for seed in range(8):
        found, depth = measured(pixels, ramp, RULES, np.random.default_rng(seed))
        dark = found[0].float() / (depth * 50)
        assert float(dark.max() - dark.min()) < 0.2  # one brightness for all
        assert 0.7 < float(dark.mean()) < 1.3


def test_depth_is_a_mean_of_bins_and_errors_are_plain() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, 5, 3, 4))
    weights = np.maximum(scores, 0) + 0.1
    expected = (weights * np.linspace(0.5, 4, 5)[None, :, None, None]).sum(1) / weights.sum(1)
    np.testing.assert_allclose(binned_depth(torch.from_numpy(scores).float(), (0.5, 4)).numpy(), expected, rtol=1e-5)
    guess, truth = rng.uniform(1, 3, (4, 5)), rng.uniform(1, 3, (4, 5))
    truth[0] = 0
    seen, true = guess[1:].ravel(), truth[1:].ravel()
    rmse, relative, inside = depth_errors(guess, truth)
    assert rmse == pytest.approx(math.sqrt(sum((a - b) ** 2 for a, b in zip(seen, true, strict=True)) / 15))
    assert relative == pytest.approx(sum(abs(a - b) / b for a, b in zip(seen, true, strict=True)) / 15)
    assert inside == pytest.approx(sum(max(a / b, b / a) < 1.25 for a, b in zip(seen, true, strict=True)) / 15)
    g = np.log(seen + 1e-3) - np.log(true + 1e-3)
    loss = scale_invariant_loss(torch.from_numpy(guess), torch.from_numpy(truth))
    assert float(loss) == pytest.approx(math.sqrt(g.var(ddof=1) + 0.15 * g.mean() ** 2))
    assert float(scale_invariant_loss(torch.ones(2, 2), torch.zeros(2, 2))) == 0


def test_depth_is_averaged_with_its_mirror_image(backbone: Backbone) -> None:
    subject, head = FrozenBackbone(backbone, "mine"), DenseLinear(32, 8).eval()
    nn.init.normal_(head.linear.weight, std=1.0)
    pixels = torch.randint(0, 256, (3, 16, 24), dtype=torch.uint8)
    one, other = (mirrored_depth(subject, head, each, (16, 24), (0.1, 5), "cpu") for each in (pixels, pixels.flip(-1)))
    np.testing.assert_allclose(one, other[:, ::-1], rtol=1e-5)
    assert np.ptp(one) > 0.01


def test_depth_is_learned(nyu: Path) -> None:
    parts = read_nyu(nyu)
    train, test = (DepthItems(each.pairs, RULES) for each in (parts.train, parts.test))  # type: ignore[attr-defined]
    data = Data("N", (), train, test, parts.units, "folder")
    found = {
        steps: probe_depth(Pixels(8), data, DenseBudget(steps=steps, warmup=1, batch=2, rate=0.003))
        for steps in (1, 100)
    }
    assert [each.measure for each in found[100]] == ["rmse", "abs_rel", "delta_1.25"]
    assert found[100][0].value < 0.7 * found[1][0].value
    assert (found[100][0].n, found[100][0].facts.unit) == (2, "folder")
    (nyu / "official_splits/test/office/sync_depth_00045.png").write_bytes(b"")
    (rmse, *_) = probe_depth(Pixels(8), data, DenseBudget(steps=1, warmup=1, batch=2))
    assert (rmse.n, rmse.of) == (1, 2)
    assert "broken image" in rmse.facts.missing["office"]


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    budget = DenseBudget(steps=100, warmup=20)
    factors = [budget.factor(step) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 21)
    assert (factors[20], factors[60], factors[100]) == pytest.approx((1, 0.5, 0))
    assert (dense_probe.ADE20K.steps, dense_probe.ADE20K.warmup) == (40_000, 1_500)
    assert (dense_probe.NYU.steps, dense_probe.NYU.warmup) == (38_400, 12_800)


def test_rooms_stand_in(rooms_folder: Path, backbone: Backbone) -> None:
    rooms, subject = load_rooms(rooms_folder), FrozenBackbone(backbone, "mine")
    classes = room_classes(rooms, tuple("abcdefghijkl"))
    assert classes.aside is not None
    assert {name.rsplit("/", 2)[0] for name in classes.train.names}.isdisjoint(
        {name.rsplit("/", 2)[0] for name in classes.aside.names}
    )
    (found,) = probe_classes(subject, classes, LinearBudget(steps=2, batch=4))
    assert "rate picked on held-back rooms" in found.facts.protocol
    assert found.n == 3
    masks, size = room_masks(rooms)
    budget = DenseBudget(steps=2, warmup=1, batch=4)
    (miou,) = probe_segmentation(subject, masks, budget, size=size)
    assert (miou.n, size) == (3, 32)
    assert len(probe_depth(subject, room_depths(rooms), budget)) == 3


def test_a_crop_is_inside() -> None:
    rng: np.random.Generator = np.random.default_rng(0)
    for _ in range(20):
        left, top, right, bottom = random_box(10, 12, (8, 20), rng)
        assert (left, right, bottom - top) == (0, 12, 8)
        assert 0 <= top <= 2


def test_a_head_does_not_move_the_backbone(backbone: Backbone, rooms_folder: Path) -> None:
    before: dict[str, Tensor] = {name: each.clone() for name, each in backbone.state_dict().items()}
    masks, size = room_masks(load_rooms(rooms_folder, train=2, test=1))
    subject = FrozenBackbone(backbone, "mine")
    probe_segmentation(subject, masks, DenseBudget(steps=1, warmup=1, batch=2), size=size)
    assert all(torch.equal(before[name], each) for name, each in backbone.state_dict().items())
