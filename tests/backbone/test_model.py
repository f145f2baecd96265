"""What the backbone computes: an independent float64 backbone, causality, tokens, noise and gradients."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from lively import frames, lively, naive, tiny
from torch import Tensor

from interlace.backbone import Backbone, BackboneNoise, Features


def tokens_of(features: Features) -> Tensor:
    """[B, T, tokens, D] in the order of the token layout."""
    parts = [features.cls[:, :, None], features.registers, features.patches.flatten(2, 3)]
    if features.camera is not None:
        parts.insert(1, features.camera[:, :, None])
    return torch.cat(parts, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gated_mlp": True, "camera_token": False},
        {"rope": "image", "query_value_bias": False},
        {"attention": "bidirectional", "registers": 0, "hidden_size": 64},
    ],
)
def test_equals_an_independent_backbone(changes: dict[str, Any]) -> None:
    backbone, clip = lively(tiny(**changes)), frames(2, 5)
    times = torch.tensor([[0.0, 1, 2, 3, 4], [3.5, 4, 9, 20, 1000]])
    sees = torch.ones(5, 5, dtype=torch.bool) if backbone.config.attention == "bidirectional" else None
    with torch.no_grad():
        found = backbone(clip, times=times, layers=[0, 1])
    expected, raw = naive(backbone, clip, times, sees)
    torch.testing.assert_close(tokens_of(found).double(), expected, atol=2e-5, rtol=0)
    for index, layer in found.layers.items():
        patches = raw[index][:, :, backbone.config.prefix_tokens :]
        torch.testing.assert_close(layer.flatten(2, 3).double(), patches, atol=5e-5, rtol=0)


def test_later_frames_change_nothing_earlier() -> None:
    backbone, clip = lively(tiny()), frames(2, 6)
    changed = clip.clone()
    changed[:, 4:] = frames(2, 2, seed=5)
    with torch.no_grad():
        one, other = tokens_of(backbone(clip)), tokens_of(backbone(changed))
    assert torch.equal(one[:, :4], other[:, :4])
    assert ((one[:, 4:] - other[:, 4:]).abs().amax(-1) > 1e-2).all()


def test_earlier_frames_change_every_later_token() -> None:
    backbone, clip = lively(tiny()), frames(1, 4)
    changed = clip.clone()
    changed[:, 0] = frames(1, 1, seed=5)[:, 0]
    with torch.no_grad():
        difference = tokens_of(backbone(clip)) - tokens_of(backbone(changed))
    assert (difference.abs().amax(-1) > 1e-4).all()


def test_a_bidirectional_backbone_sees_the_future() -> None:
    backbone, clip = lively(tiny(attention="bidirectional")), frames(1, 3)
    changed = clip.clone()
    changed[:, 2] = frames(1, 1, seed=5)[:, 0]
    with torch.no_grad():
        difference = tokens_of(backbone(clip)) - tokens_of(backbone(changed))
    assert (difference.abs().amax(-1) > 1e-4).all()


def test_shapes() -> None:
    found = lively(tiny())(frames(2, 3, 32, 64), layers=[1])
    assert found.patches.shape == (2, 3, 2, 4, 32)
    assert found.cls.shape == (2, 3, 32)
    assert found.camera is not None
    assert found.camera.shape == (2, 3, 32)
    assert found.registers.shape == (2, 3, 2, 32)
    assert found.layers[1].shape == (2, 3, 2, 4, 32)


def test_the_first_frame_has_its_own_camera_token_and_registers() -> None:
    backbone = lively(tiny())
    embedding = backbone.embedding
    tokens = embedding(frames(1, 4), (0,), None).unflatten(1, (4, -1))[0]
    assert embedding.camera_token is not None
    for frame, slot in [(0, 0), (1, 1), (3, 1)]:
        assert torch.equal(tokens[frame, 0], embedding.cls_token)
        assert torch.equal(tokens[frame, 1], embedding.camera_token[slot])
        assert torch.equal(tokens[frame, 2:4], embedding.register_tokens[slot])
    later = embedding(frames(1, 2), (7,), None).unflatten(1, (2, -1))[0]
    assert torch.equal(later[0, 1:4], tokens[1, 1:4])
    assert embedding.camera_token.shape == (2, 32)
    assert Backbone(tiny(attention="bidirectional")).embedding.register_tokens.shape == (1, 2, 32)


def test_masked_patches_hide_their_pixels() -> None:
    backbone, clip = lively(tiny()), frames(1, 2)
    mask = torch.zeros(1, 2, 2, 3, dtype=torch.bool)
    mask[0, 1, 1, 2] = True
    changed = clip.clone()
    changed[0, 1, :, 16:, 32:] += 3
    with torch.no_grad():
        one, other = backbone(clip, mask=mask), backbone(changed, mask=mask)
        assert torch.equal(tokens_of(one), tokens_of(other))
        assert not torch.allclose(tokens_of(one), tokens_of(backbone(clip)), atol=1e-2)
        backbone.embedding.mask_token.neg_()
        assert not torch.allclose(tokens_of(one), tokens_of(backbone(clip, mask=mask)), atol=1e-2)


def test_default_times_count_frames() -> None:
    backbone, clip = lively(tiny()), frames(2, 3)
    with torch.no_grad():
        assert torch.equal(backbone(clip).cls, backbone(clip, times=torch.arange(3).expand(2, -1)).cls)
        assert not torch.allclose(backbone(clip).cls, backbone(clip, times=torch.arange(3).expand(2, -1) * 3).cls)


def test_a_stream_may_begin_at_frame_one_million() -> None:
    backbone, clip = lively(tiny()), frames(1, 3)
    times = torch.arange(3)[None] + 1_000_000
    with torch.no_grad():
        found = tokens_of(backbone(clip, times=times))
    torch.testing.assert_close(found.double(), naive(backbone, clip, times)[0], atol=2e-5, rtol=0)


def test_activation_checkpointing_gives_equal_gradients() -> None:
    plain = lively(tiny())
    saving = lively(tiny(activation_checkpointing=True))
    keep = torch.tensor([[[True, True], [True, True]], [[False, True], [True, False]]])
    noise = BackboneNoise(torch.tensor([[0.7, 1.3], [1.6, 0.9]]), keep)
    gradients = []
    for backbone in (plain, saving):
        features = backbone(frames(2, 3), layers=[0], noise=noise, mask=torch.rand(2, 3, 2, 3) < 0)
        (features.patches.square().mean() + features.layers[0].square().mean()).backward()
        gradients.append({name: weight.grad for name, weight in backbone.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert gradient is not None
        assert other is not None
        assert torch.equal(gradient, other), name
        assert gradient.abs().max() > 0 or "mask" in name, name


def test_activation_checkpointing_keeps_fewer_activations() -> None:
    def saved(backbone: Backbone) -> int:
        weights = {weight.untyped_storage().data_ptr() for weight in backbone.parameters()}
        activations: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                activations[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            kept = backbone(frames(2, 3))
        assert kept.cls.requires_grad
        return sum(activations.values())

    config = tiny(depth=6)
    saving = dataclasses.replace(config, activation_checkpointing=True)
    assert saved(lively(saving)) < saved(lively(config)) / 4


def test_drop_path_drops_the_branches_of_its_samples() -> None:
    config = tiny(drop_path=0.25, depth=1)
    backbone, clip = lively(config), frames(4, 1)
    keep = torch.tensor([[[True, True]], [[False, True]], [[True, False]], [[False, False]]])
    noise = BackboneNoise(torch.ones(4, 2), keep)
    with torch.no_grad():
        found = backbone(clip, layers=[0], noise=noise).layers[0]
        entering = backbone.embedding(clip, (0,), None)[:, config.prefix_tokens :].view(4, 1, 2, 3, 32)
        assert torch.equal(found[3], entering[3])
        for sample, (first, second) in enumerate(keep[:3, 0].tolist()):
            plain = lively(config)
            plain.blocks[0].scale1.factor.mul_(first / 0.75)
            plain.blocks[0].scale2.factor.mul_(second / 0.75)
            expected = plain(clip[sample : sample + 1], layers=[0]).layers[0]
            torch.testing.assert_close(found[sample : sample + 1], expected, atol=1e-5, rtol=0)


def test_noise_of_one_and_no_drop_is_no_noise() -> None:
    backbone, clip = lively(tiny()), frames(2, 2)
    noise = BackboneNoise(torch.ones(2, 2), torch.ones(2, 2, 2, dtype=torch.bool))
    with torch.no_grad():
        torch.testing.assert_close(backbone(clip, noise=noise).cls, backbone(clip).cls, atol=1e-6, rtol=0)


def test_training_mode_alone_changes_nothing() -> None:
    backbone, clip = lively(tiny(drop_path=0.5)), frames(1, 2)
    with torch.no_grad():
        assert torch.equal(backbone.train()(clip).cls, backbone.eval()(clip).cls)


def test_noise_is_each_sample_s_own() -> None:
    config = tiny(drop_path=0.3, rope_jitter=2.0, depth=40)

    def rngs(seeds: range) -> list[np.random.Generator]:
        return [np.random.default_rng(seed) for seed in seeds]

    noise = BackboneNoise.draw(config, rngs(range(200)))
    parts = BackboneNoise.cat(
        [BackboneNoise.draw(config, rngs(range(70))), BackboneNoise.draw(config, rngs(range(70, 200)))]
    )
    assert len(noise) == 200
    assert torch.equal(noise.rope_scale, parts.rope_scale)
    assert torch.equal(noise.keep, parts.keep)
    assert noise.keep.shape == (200, 40, 2)
    assert noise.keep.float().mean().item() == pytest.approx(0.7, abs=0.02)
    scale = noise.rope_scale
    assert scale.dtype == torch.float32
    assert 0.5 <= scale.min() < 0.53
    assert 1.9 < scale.max() <= 2
    assert scale.log().mean().item() == pytest.approx(0, abs=0.06)
    assert (scale[:, 0] != scale[:, 1]).all()


def test_switched_off_noise_draws_as_many_numbers() -> None:
    ends = []
    for config in (tiny(drop_path=0.3), tiny(drop_path=0.0, rope_jitter=1.0)):
        rng = np.random.default_rng(0)
        noise = BackboneNoise.draw(config, [rng])
        ends.append(rng.random())
    assert ends[0] == ends[1]
    assert (noise.rope_scale == 1).all()
    assert noise.keep.all()


def test_jitter_reaches_the_positions() -> None:
    backbone, clip = lively(tiny()), frames(2, 3)
    keep = torch.ones(2, 2, 2, dtype=torch.bool)
    with torch.no_grad():
        found = backbone(clip, noise=BackboneNoise(torch.tensor([[0.5, 1.0], [2.0, 1.0]]), keep))
        expected = backbone(clip, times=torch.tensor([[0, 0.5, 1], [0, 2, 4]]))
    torch.testing.assert_close(found.cls, expected.cls, atol=1e-5, rtol=0)


def test_autocast_keeps_the_residual_stream_in_float32() -> None:
    backbone, clip = lively(tiny()), frames(2, 3)
    expected = backbone(clip)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = backbone(clip, layers=[0])
        assert backbone.embedding(clip, (0,), None).dtype == torch.float32
    assert found.patches.dtype == found.layers[0].dtype == torch.float32
    error = (found.patches - expected.patches).norm() / expected.patches.norm()
    assert 1e-5 < error < 0.03
    found.patches.sum().backward()
    assert all(weight.grad is None or weight.grad.dtype == torch.float32 for weight in backbone.parameters())


def test_a_whole_backbone_in_bfloat16_runs() -> None:
    backbone = lively(tiny(drop_path=0.5)).bfloat16()
    noise = BackboneNoise(torch.ones(1, 2), torch.ones(1, 2, 2, dtype=torch.bool))
    assert backbone(frames(1, 2), noise=noise).patches.dtype == torch.bfloat16


def test_initial_weights() -> None:
    torch.manual_seed(0)
    backbone = Backbone(tiny(hidden_size=64, mlp_size=256, layer_scale=0.25))
    block = backbone.blocks[0]
    for weight in (block.mlp.up.weight, block.attention.query.weight, backbone.embedding.patch.weight):
        # 0.02 where there are 1,024 inputs, and everywhere outputs as large as there
        assert weight.std().item() == pytest.approx(0.02 * math.sqrt(1024 / weight[0].numel()), rel=0.1)
    assert backbone.embedding.camera_token is not None
    assert backbone.embedding.camera_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert (block.scale1.factor == 0.25).all()
    assert not block.attention.query.bias.any()
    assert not backbone.embedding.mask_token.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": torch.zeros(1, 2, 3, 30, 32)}, "30 x 32 pixels: both sides must be multiples of patch_size = 16"),
        ({"frames": torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8)}, "normalise"),
        ({"frames": torch.zeros(2, 3, 32, 32)}, r"expected float \[B, T, 3, H, W\]"),
        ({"frames": torch.zeros(1, 0, 3, 32, 32)}, r"expected float \[B, T, 3, H, W\]"),
        ({"times": torch.zeros(2)}, r"times: expected \[B, T\] = \[1, 2\], found \[2\]"),
        ({"mask": torch.zeros(1, 2, 2, 2)}, r"mask: expected bool \[1, 2, 2, 2\], found torch.float32"),
        ({"mask": torch.zeros(1, 2, 4, dtype=torch.bool)}, r"mask: expected bool \[1, 2, 2, 2\]"),
        ({"layers": [0, 2]}, "layers: block 2 does not exist; blocks are 0 to 1"),
        ({"layers": [-1]}, "layers: block -1 does not exist"),
        ({"noise": BackboneNoise(torch.ones(2, 2), torch.ones(2, 2, 2))}, r"noise: expected keep \[1, 2, 2\]"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone(tiny())(**{"frames": torch.zeros(1, 2, 3, 32, 32), **arguments})


def test_configs_differ_where_they_should() -> None:
    """Every switch of the config reaches the computation."""
    clip = frames(1, 3)
    base = lively(tiny(camera_token=False))
    with torch.no_grad():
        for changes in ({"rope": "image"}, {"rope_base": 10.0}, {"layer_norm_eps": 0.5}):
            other = Backbone(dataclasses.replace(base.config, **changes))
            other.load_state_dict(base.state_dict())
            assert not torch.allclose(base(clip).cls, other(clip).cls, atol=1e-3), changes
