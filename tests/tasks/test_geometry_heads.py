from __future__ import annotations

import math

import pytest
import torch
from geometry_scenes import SMALL, TINY, tiny_task
from transformers import DPTConfig
from transformers.models.dpt.modeling_dpt import DPTFeatureFusionStage

from interlace.backbone import PRESETS, Backbone, BackboneConfig
from interlace.tasks.geometry import Geometry, GeometryOptions, Prediction
from interlace.tasks.geometry.camera import CameraHead
from interlace.tasks.geometry.dpt import DualDPT, FusionChain, Reassemble, with_positions
from interlace.tasks.interface import TaskContext

FIELDS = ("depth", "confidence", "rays", "poses")


def patches(grid: tuple[int, int], size: int, *, count: int = 2, seed: int = 0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(count, *grid, size, generator=g) * 3 for _ in range(4)]


def test_large_has_depth_anything_3s_shapes() -> None:
    with torch.device("meta"):
        task = Geometry(GeometryOptions(size=224), TaskContext(PRESETS["dinov3_vitl16"], seed=0))
        levels = [torch.empty(2, 14, 14, 1024) for _ in range(4)]
        depth, confidence, rays = task.dpt(levels)
        poses = task.camera(torch.empty(1, 2, 1024))
    assert task.layers == (11, 15, 19, 23)
    assert depth.shape == confidence.shape == (2, 224, 224)
    assert rays.shape == (2, 112, 112, 6)
    assert poses.shape == (1, 2, 9)
    shapes = {name: tuple(parameter.shape) for name, parameter in task.named_parameters()}
    want = {
        "dpt.reassemble.norm.weight": (1024,),
        "dpt.reassemble.project.0.weight": (256, 1024, 1, 1),
        "dpt.reassemble.project.1.weight": (512, 1024, 1, 1),
        "dpt.reassemble.project.3.weight": (1024, 1024, 1, 1),
        "dpt.reassemble.resize.0.weight": (256, 256, 4, 4),
        "dpt.reassemble.resize.1.weight": (512, 512, 2, 2),
        "dpt.reassemble.resize.3.weight": (1024, 1024, 3, 3),
        "dpt.reassemble.adapt.1.weight": (256, 512, 3, 3),
        "dpt.depth_chain.fuse.0.skip.first.weight": (256, 256, 3, 3),
        "dpt.depth_chain.fuse.3.output.weight": (256, 256, 1, 1),
        "dpt.ray_chain.fuse.2.refine.second.bias": (256,),
        "dpt.depth_neck.weight": (128, 256, 3, 3),
        "dpt.depth_output.0.weight": (32, 128, 3, 3),
        "dpt.depth_output.2.weight": (2, 32, 1, 1),
        "dpt.ray_neck.0.weight": (128, 256, 3, 3),
        "dpt.ray_neck.1.weight": (256, 128, 3, 3),
        "dpt.ray_neck.4.weight": (128, 256, 3, 3),
        "dpt.ray_output.0.weight": (32, 128, 3, 3),
        "dpt.ray_output.1.weight": (32,),
        "dpt.ray_output.3.weight": (6, 32, 1, 1),
        "camera.hidden.0.weight": (1024, 1024),
        "camera.hidden.2.weight": (1024, 1024),
        "camera.translation.weight": (3, 1024),
        "camera.quaternion.weight": (4, 1024),
        "camera.fov.weight": (2, 1024),
    }
    assert {name: shapes[name] for name in want} == want
    assert "dpt.depth_chain.fuse.3.skip.first.weight" not in shapes  # the coarsest level is added to nothing


@pytest.mark.parametrize("patch", [8, 14, 16])
@pytest.mark.parametrize("grid", [(3, 5), (1, 1)])
def test_depth_has_the_frames_resolution_for_any_patch(patch: int, grid: tuple[int, int]) -> None:
    dpt = DualDPT(24, patch, widths=(8, 8, 16, 16), features=16, ray_neck=3)
    depth, confidence, rays = dpt(patches(grid, 24))
    assert depth.shape == confidence.shape == (2, grid[0] * patch, grid[1] * patch)
    assert rays.shape == (2, 8 * grid[0], 8 * grid[1], 6)
    assert bool((depth > 0).all())
    assert bool((confidence > 1).all())


def test_the_fusion_chain_is_transformers() -> None:
    torch.manual_seed(0)
    ours = FusionChain(16)
    theirs = DPTFeatureFusionStage(DPTConfig(fusion_hidden_size=16, neck_hidden_sizes=[16] * 4))
    for level, layer in enumerate(reversed(theirs.layers)):  # theirs turns the pyramid around
        layer.align_corners = False
        block = ours.fuse[level]
        pairs = [(layer.projection, block.output), (layer.residual_layer2, block.refine)]
        pairs += [] if block.skip is None else [(layer.residual_layer1, block.skip)]
        for reference, own in pairs:
            state = {
                k.replace("convolution1", "first").replace("convolution2", "second"): v
                for k, v in reference.state_dict().items()
            }
            own.load_state_dict(state)
    pyramid = [torch.randn(2, 16, 2 * side, 3 * side) for side in (8, 4, 2, 1)]
    want = theirs(pyramid)[-1]
    torch.testing.assert_close(ours(pyramid), want, rtol=1e-5, atol=1e-5)


def test_depth_and_ray_chains_share_the_pyramid_only() -> None:
    dpt = DualDPT(24, 8, widths=(8, 8, 16, 16), features=16, ray_neck=5)
    depth, confidence, rays = dpt(patches((2, 2), 24))
    named = dict(dpt.named_parameters())
    for outputs, foreign in (((depth.sum() + confidence.sum()), "ray_"), (rays.sum(), "depth_")):
        gradients = torch.autograd.grad(outputs, list(named.values()), allow_unused=True, retain_graph=True)
        reached = {name for name, gradient in zip(named, gradients, strict=True) if gradient is not None}
        assert reached == {name for name in named if not name.startswith(foreign)}


def test_the_size_of_raw_features_does_not_matter() -> None:
    """Blocks hand over their residual streams, of any size: the LayerNorm is what makes them comparable."""
    dpt = DualDPT(24, 8, widths=(8, 8, 16, 16), features=16, ray_neck=1)
    levels = patches((2, 3), 24)
    for a, b in zip(dpt(levels), dpt([100 * level for level in levels]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_positions_tell_cells_apart_and_turn_with_the_map() -> None:
    wide, tall = with_positions(torch.zeros(1, 8, 3, 5))[0], with_positions(torch.zeros(1, 8, 5, 3))[0]
    assert len({tuple(cell) for cell in wide.flatten(1).T.tolist()}) == 15
    torch.testing.assert_close(wide[:4], tall[4:].transpose(1, 2))
    assert float(wide.abs().max()) == pytest.approx(0.1, abs=0.01)
    double = with_positions(torch.zeros(1, 8, 300, 500))[0]
    torch.testing.assert_close(double[:, 150, 250], wide[:, 1, 2], atol=1e-3, rtol=0)  # the middle stays the middle


def test_the_camera_begins_at_the_first_frame_and_field_of_view_is_not_negative() -> None:
    head = CameraHead(32)
    poses = head(torch.randn(4, 3, 32))
    assert poses.shape == (4, 3, 9)
    torch.testing.assert_close(poses, torch.tensor([0, 0, 0, 1, 0, 0, 0, 1.0, 1.0]).expand(4, 3, 9), atol=0.2, rtol=0)
    with torch.no_grad():
        head.fov.bias.fill_(-5)
    assert not head(torch.randn(4, 3, 32))[..., 7:].any()


def read(task: Geometry, backbone: Backbone, frames: torch.Tensor) -> Prediction:
    return task.read(backbone(frames, layers=task.layers))


@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1), (2, 3), (1, 4)])
def test_a_stream_gives_what_the_whole_clip_gives(chunks: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    task, backbone = tiny_task()
    frames = torch.randn(2, 5, 3, 24, 32)
    with torch.no_grad():
        whole = read(task, backbone, frames)
        with backbone.stream(2, 24, 32, max_frames=5) as stream:
            parts = [task.read(stream(chunk, layers=task.layers)) for chunk in frames.split(list(chunks), dim=1)]
    for name in FIELDS:
        got = torch.cat([getattr(part, name) for part in parts], dim=1)
        torch.testing.assert_close(got, getattr(whole, name), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([part.points() for part in parts], 1), whole.points(), rtol=1e-4, atol=1e-4)


def test_heads_are_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    task, backbone = tiny_task()
    features = backbone(torch.randn(1, 2, 3, 24, 32), layers=task.layers)
    plain = task.read(features)
    with torch.autocast("cpu", torch.bfloat16):
        under = task.read(features)
    for name in FIELDS:
        assert getattr(under, name).dtype == torch.float32
        assert torch.equal(getattr(under, name), getattr(plain, name))


def test_frames_computed_a_few_at_a_time_give_the_same_and_the_same_gradients() -> None:
    results = []
    for at_once in (None, 3):
        torch.manual_seed(0)
        task, backbone = tiny_task(dpt_frames=at_once)
        prediction = read(task, backbone, torch.randn(2, 4, 3, 24, 32, generator=torch.Generator().manual_seed(1)))
        (prediction.points().square().mean() + prediction.confidence.mean()).backward()
        gradients = [each.grad for module in (task.dpt, backbone.blocks) for each in module.parameters()]
        results.append(([getattr(prediction, name) for name in FIELDS], gradients))
    (one, one_gradients), (two, two_gradients) = results
    for a, b in zip([*one, *one_gradients], [*two, *two_gradients], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_features_without_what_the_heads_need_are_refused() -> None:
    task, backbone = tiny_task()
    frames = torch.randn(1, 1, 3, 24, 32)
    with pytest.raises(ValueError, match=r"lack blocks \[1\].*layers=\[0, 1, 1, 1\]"):
        task.read(backbone(frames, layers=(0,)))
    bare = Backbone(BackboneConfig(**{**TINY.to_json(), "camera_token": False}))
    with pytest.raises(ValueError, match="lack a camera token"):
        task.read(bare(frames, layers=task.layers))


@pytest.mark.parametrize(
    ("depth", "want"),
    [(24, (11, 15, 19, 23)), (12, (5, 7, 9, 11)), (6, (2, 3, 4, 5)), (4, (1, 2, 3, 3)), (1, (0, 0, 0, 0))],
)
def test_blocks_are_spread_over_the_depth(depth: int, want: tuple[int, ...]) -> None:
    assert GeometryOptions(size=32, **SMALL).layers_of(depth) == want  # type: ignore[arg-type]
    assert GeometryOptions(size=32, layers=(0, 1, 2, 3)).layers_of(depth) == (0, 1, 2, 3)


def test_depth_and_confidence_are_exponentials_and_rays_are_what_the_last_layer_says() -> None:
    dpt = DualDPT(24, 8, widths=(8, 8, 16, 16), features=16, ray_neck=1)
    with torch.no_grad():
        for layer, bias in ((dpt.depth_output[2], [0.3, -0.7]), (dpt.ray_output[3], [-2.0, -1, 0, 1, 2, 3])):
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor(bias))
        depth, confidence, rays = dpt(patches((2, 2), 24))
    torch.testing.assert_close(depth, torch.full_like(depth, math.exp(0.3)))
    torch.testing.assert_close(confidence, torch.full_like(confidence, 1 + math.exp(-0.7)))
    assert torch.equal(rays, torch.tensor([-2.0, -1, 0, 1, 2, 3]).expand_as(rays))


def test_the_shallowest_block_is_the_finest_level() -> None:
    task, backbone = tiny_task(layers=(0, 1, 1, 1))
    features = backbone(torch.randn(1, 2, 3, 24, 32), layers=task.layers)
    given: list[list[torch.Tensor]] = []
    task.dpt.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    task.read(features)
    for level, layer in zip(given[0], task.layers, strict=True):
        assert torch.equal(level, features.layers[layer][0])
    reassemble = Reassemble(24, (8, 8, 16, 16), 16)
    levels = patches((3, 5), 24)
    pyramid = reassemble(levels)
    assert [tuple(level.shape[-2:]) for level in pyramid] == [(12, 20), (6, 10), (3, 5), (2, 3)]
    for changed in range(4):
        others = [level.flip(0) if index == changed else level for index, level in enumerate(levels)]
        same = [torch.equal(one, other) for one, other in zip(pyramid, reassemble(others), strict=True)]
        assert same == [index != changed for index in range(4)]
