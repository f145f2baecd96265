from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from geometry_scenes import SMALL, TINY, plane_scene, tiny_task
from matplotlib.figure import Figure
from PIL import Image
from pydantic import ValidationError

from interlace.backbone import Backbone, BackboneConfig, BackboneNoise
from interlace.data_recipes import Sample, generator
from interlace.tasks.geometry import Geometry, GeometryOptions, write_ply
from interlace.tasks.geometry.task import Item
from interlace.tasks.interface import Batch, Progress, TaskContext, Term

TERMS = ["depth", "depth_gradient", "confidence", "ray", "points", "camera"]
PROGRESS = Progress(step=0, steps=1, seed=0)


def scenes(count: int, **shape: int) -> list[Sample]:
    return [plane_scene(seed, **shape)[0] for seed in range(count)]


def items(task: Geometry, samples: list[Sample]) -> list[Item]:
    return [task.item(sample, generator(0, sample.key)) for sample in samples]


def losses(task: Geometry, backbone: Backbone, batch: Batch) -> dict[str, Term]:
    return task.losses(backbone, batch, teacher=None, progress=PROGRESS)


def objective(terms: dict[str, Term]) -> torch.Tensor:
    return torch.stack([term.weight * term.sum / term.count.clamp(min=1) for term in terms.values()]).sum()


def seeded(**options: object) -> tuple[Geometry, Backbone]:
    torch.manual_seed(0)
    return tiny_task(**options)


def test_a_batch_is_small_plain_and_of_the_same_draw_every_time() -> None:
    task, _ = tiny_task(flip=0.5, zoom=1.3)
    batch, again = (task.collate(items(task, scenes(3))) for _ in range(2))
    shapes = {
        name: (value.dtype, tuple(value.shape)) for name, value in batch.items() if isinstance(value, torch.Tensor)
    }
    assert shapes == {
        "frames": (torch.uint8, (3, 4, 3, 24, 32)),
        "depth": (torch.float32, (3, 4, 24, 32)),
        "intrinsics": (torch.float32, (3, 4, 3, 3)),
        "camera": (torch.float32, (3, 4, 4, 4)),
        "scaled": (torch.bool, (3,)),
        "posed": (torch.bool, (3,)),
        "metric": (torch.bool, (3,)),
    }
    assert all(torch.equal(batch[name], again[name]) for name in shapes)
    assert len(batch["noise"]) == 3
    assert torch.equal(batch["noise"].keep, again["noise"].keep)


def test_frames_chosen_before_decoding_are_the_item() -> None:
    task, _ = tiny_task(stride=(2, 3))
    sample = plane_scene(0, count=11)[0]
    chosen = task.frame_indices(sample.times, np.random.default_rng(5))
    assert chosen is not None
    assert len(chosen) == 4
    assert set(np.diff(chosen)) <= {2, 3}
    assert sample.depth is not None and sample.K is not None and sample.c2w is not None  # noqa: PT018
    cut = Sample(
        key=sample.key,
        source=sample.source,
        frames=sample.frames[chosen],
        times=sample.times[chosen],
        depth=sample.depth[chosen],
        K=sample.K[chosen],
        c2w=sample.c2w[chosen],
    )
    from_cut = task.item(cut, np.random.default_rng(0)).clip
    assert np.array_equal(from_cut.frames[3, :, 5, 7], task.item(cut, np.random.default_rng(1)).clip.frames[3, :, 5, 7])
    relative = np.linalg.inv(sample.c2w[chosen[0]]) @ sample.c2w[chosen]
    np.testing.assert_allclose(from_cut.camera[:, :3, :3], relative[:, :3, :3], atol=1e-6)
    short = task.frame_indices(np.arange(2.0), np.random.default_rng(0))
    assert short is not None
    assert short.tolist() == [0, 1]


def test_every_parameter_gets_a_gradient_from_the_first_step() -> None:
    task, backbone = seeded(ray_neck=5)
    terms = losses(task, backbone, task.collate(items(task, scenes(2))))
    assert list(terms) == TERMS
    objective(terms).backward()
    without = [name for name, each in task.named_parameters() if each.grad is None or not each.grad.any()]
    assert without == []
    reached = {name for name, each in backbone.named_parameters() if each.grad is not None and each.grad.any()}
    assert {"embedding.patch.weight", "embedding.camera_token", "blocks.1.mlp.up.weight", "norm.weight"} <= reached


def test_parts_of_a_batch_on_different_ranks_add_up() -> None:
    task, backbone = seeded()
    prepared = items(task, scenes(5))
    whole, first, second = (
        losses(task, backbone, task.collate(prepared[part])) for part in (slice(0, 5), slice(0, 2), slice(2, 5))
    )
    for name in TERMS:
        torch.testing.assert_close(first[name].sum + second[name].sum, whole[name].sum, rtol=1e-4, atol=1e-4)
        assert int(first[name].count + second[name].count) == int(whole[name].count)


def test_every_clip_goes_through_the_backbone_with_its_own_noise() -> None:
    task, backbone = seeded()
    batch = task.collate(items(task, scenes(2)))
    own, none, turned = (
        losses(task, backbone, {**batch, "noise": noise})["depth"].sum.item()
        for noise in (batch["noise"], None, BackboneNoise.cat([items(task, scenes(2))[n].noise for n in (1, 0)]))
    )
    assert abs(own - none) > 1e-4 * abs(own)
    assert abs(own - turned) > 1e-4 * abs(own)


def test_degenerate_batches_are_finite() -> None:
    task, backbone = seeded()
    blank, sky, repeated = scenes(3)
    assert blank.depth is not None
    assert sky.sky is not None
    blank.depth[:] = np.nan
    sky.sky[:] = True
    repeated.frames[:], repeated.metric = 7, False
    for samples in ([blank], [blank, sky], [blank, repeated], [plane_scene(5, count=1)[0]]):
        task.zero_grad()
        terms = losses(task, backbone, task.collate(items(task, samples)))
        assert list(terms) == TERMS
        assert all(math.isfinite(term.sum.item()) for term in terms.values())
        objective(terms).backward()
        assert all(each.grad is not None and bool(torch.isfinite(each.grad).all()) for each in task.parameters())
    only_blank = losses(task, backbone, task.collate(items(task, [blank])))
    assert [int(only_blank[name].count) for name in TERMS] == [0, 0, 0, 4 * 24 * 32 * 3, 0, 4 * 6]
    assert task.signals()["valid_share"] == 0


def test_a_rank_without_samples_runs_the_same_modules_and_counts_nothing() -> None:
    task, backbone = seeded()
    terms = losses(task, backbone, task.collate([]))
    assert list(terms) == TERMS
    assert [int(term.count) for term in terms.values()] == [0] * 6
    assert [term.sum.item() for term in terms.values()] == [0] * 6
    objective(terms).backward()
    for each in task.parameters():
        assert each.grad is not None
        assert not each.grad.any()


def test_unknown_metric_scale_is_recorded_and_changes_no_loss() -> None:
    task, backbone = seeded()
    results = []
    for metric in (True, False):
        sample = plane_scene(1)[0]
        sample.metric = metric
        batch = task.collate(items(task, [sample]))
        assert batch["metric"].tolist() == [metric]
        results.append(objective(losses(task, backbone, batch)).item())
        assert task.signals()["metric_share"] == float(metric)
    assert results[0] == results[1]


def test_one_clip_can_be_learned() -> None:
    """Depth and poses of a clip are in reach of the heads: nothing is laid out wrongly."""
    task, backbone = seeded(frames=3)
    sample = plane_scene(3, count=3)[0]
    batch = task.collate([task.item(sample, generator(0, "one"))])
    batch["noise"] = None
    optimizer = torch.optim.Adam([*task.parameters(), *backbone.parameters()], lr=2e-3)
    blind = task.fit_blind([sample])
    before = {each.name: each.values[0] for each in task.evaluate(backbone, [sample, sample], blind)}
    history = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = objective(losses(task, backbone, batch))
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    after = {each.name: each.values[0] for each in task.evaluate(backbone, [sample, sample], blind)}
    assert history[-1] < 0.2 * history[0]
    assert after["delta_1.25"] > 0.97
    for name in ("abs_rel", "rotation_degrees", "translation_error"):
        assert after[name] < 0.5 * before[name]


def test_evaluation_sets_the_model_beside_both_blind_guesses() -> None:
    task, backbone = seeded()
    samples = scenes(5)
    samples[2].depth[:] = 0  # type: ignore[index]
    with torch.no_grad():
        measures = {each.name: each for each in task.evaluate(backbone, samples, task.fit_blind(scenes(4)))}
    assert {name: each.better for name, each in measures.items()} == {
        "abs_rel": "lower",
        "delta_1.25": "higher",
        "rotation_degrees": "lower",
        "translation_error": "lower",
    }
    for name, each in measures.items():
        has_none = name != "rotation_degrees"
        for values in (each.values, each.fixed, each.swapped):
            assert values.shape == (5,)
            assert values.dtype == np.float64
            assert np.isnan(values).tolist() == [False, False, has_none, False, False]


def test_swapped_frames_are_of_another_sample() -> None:
    """Two paths of a room lie side by side: what is swapped in lies half the list away, of the same truth otherwise."""
    task, backbone = seeded()
    samples = scenes(4)
    blind = task.fit_blind(samples)
    swapped = task.evaluate(backbone, samples, blind)[0].swapped
    for index, sample in enumerate(samples):
        stolen = plane_scene(index)[0]
        stolen.frames = samples[(index + 2) % 4].frames
        want = task.evaluate(backbone, [stolen, sample], blind)[0].values[0]
        assert swapped[index] == pytest.approx(want, rel=1e-5)


def test_pictures_and_points_are_drawn(tmp_path: Path) -> None:
    task, backbone = seeded()
    samples = scenes(2)
    samples[1].depth = samples[1].K = samples[1].c2w = None  # a film of which nothing else is known
    drawn = task.pictures(backbone, samples, tmp_path, "start")
    assert [path.name for path in drawn] == [
        f"start_geometry_planes_00000{index}_{kind}.png" for index in (0, 1) for kind in ("depth", "camera")
    ]
    for path in drawn:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert min(pixels.shape[:2]) > 200
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    measured, film = (Image.open(path) for path in drawn[::2])
    assert (measured.height, measured.width) == (film.height, 2 * film.width)  # no columns of a truth that is not there
    assert (tmp_path / "start_geometry_planes_000000.ply").stat().st_size > 15 * 4 * 24 * 32


def test_pictures_tell_their_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, backbone = seeded()
    known, unscaled, film = scenes(3)
    unscaled.metric = False
    film.depth = film.K = film.c2w = None
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, dpi: drawn.append(figure))
    task.pictures(backbone, [known, unscaled, film], tmp_path, "end")
    units = ["metres", "the clip's scale", "the prediction's unit"]
    bars = [{axis.get_xlabel() for axis in figure.axes} - {""} for figure in drawn[::2]]
    assert bars == [{unit, "share of the depth"} for unit in units[:2]] + [{units[2]}]
    assert [figure.axes[0].get_xlabel() for figure in drawn[1::2]] == [f"right, {unit}" for unit in units]
    truth = drawn[1].axes[0].lines[0].get_xdata()
    forward = np.linalg.inv(known.c2w[0]) @ known.c2w[:, :, 3:]
    np.testing.assert_allclose(truth, forward[[0, -1], 0, 0] if len(truth) == 2 else forward[:, 0, 0], atol=1e-4)


def test_ply_can_be_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points, colours = rng.normal(size=(7, 3)), rng.integers(0, 256, (7, 3), dtype=np.uint8)
    points[4, 1] = np.nan
    write_ply(tmp_path / "cloud.ply", points, colours)
    header, _, body = (tmp_path / "cloud.ply").read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 6"]
    types = {"float": "<f4", "uchar": "u1"}
    layout = np.dtype([(line.split()[2], types[line.split()[1]]) for line in lines if line.startswith("property")])
    read = np.frombuffer(body, layout)
    keep = np.arange(7) != 4
    np.testing.assert_allclose(np.stack([read[axis] for axis in "xyz"], 1), points[keep], rtol=1e-6)
    assert np.array_equal(np.stack([read[name] for name in ("red", "green", "blue")], 1), colours[keep])
    with pytest.raises(ValueError, match="uint8 colours"):
        write_ply(tmp_path / "cloud.ply", points, points)


def test_the_predicted_points_are_written_with_their_colours(tmp_path: Path) -> None:
    task, backbone = seeded()
    sample = scenes(1)[0]
    task.pictures(backbone, [sample], tmp_path, "end")
    body = (tmp_path / "end_geometry_planes_000000.ply").read_bytes().partition(b"end_header\n")[2]
    read = np.frombuffer(body, [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    clip = task.item(sample, np.random.default_rng(0)).clip
    assert np.array_equal(read["rgb"][24 * 32 + 5], clip.frames[1, :, 0, 5])


def test_options_that_no_model_can_have_are_refused() -> None:
    assert Geometry.check(GeometryOptions(size=(24, 32), **SMALL), TINY) == []  # type: ignore[arg-type]
    wrong = GeometryOptions(size=(20, 32), layers=(0, 1, 2, 3), **SMALL)  # type: ignore[arg-type]
    bare = BackboneConfig(**{**TINY.to_json(), "camera_token": False})
    assert [key for key, _ in Geometry.check(wrong, bare)] == ["size", "layers", ""]
    with pytest.raises(ValueError, match=r"size: .*patch_size = 8.*layers: .*blocks from 0 to 1.*camera_token"):
        Geometry(wrong, TaskContext(bare, seed=0))
    for bad in ({"stride": (3, 2)}, {"features": 12}, {"widths": (6, 8, 8, 8)}, {"ray_neck": 2}, {"zoom": 0.5}):
        with pytest.raises(ValidationError):
            GeometryOptions(size=32, **bad)  # type: ignore[arg-type]


def test_tokens_of_a_sample() -> None:
    options = GeometryOptions(size=224)
    large = BackboneConfig(hidden_size=64, depth=1, heads=2, mlp_size=64)
    assert Geometry.tokens_per_sample(options, large) == 16 * (1 + 1 + 4 + 14 * 14)
    assert options.height_width == (224, 224)


def test_heads_can_be_saved_and_options_written() -> None:
    task, backbone = seeded()
    other, _ = tiny_task()
    other.load_state_dict(task.state_dict())
    frames = torch.randn(1, 2, 3, 24, 32)
    features = backbone(frames, layers=task.layers)
    assert torch.equal(other.read(features).points(), task.read(features).points())
    assert all(isinstance(value, torch.Tensor) for value in task.state_dict().values())
    written = json.loads(task.options.model_dump_json())
    assert GeometryOptions.model_validate_json(json.dumps(written)) == task.options
