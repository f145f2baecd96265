"""The image model inside: equal to `transformers`' DINOv3 on the same weights, for every preset."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from lively import assert_every_block_acts, blocks_of, enliven, frames
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from interlace.backbone import PRESETS, Backbone, BackboneConfig, from_transformers, to_transformers
from interlace.backbone.weights import build

#: 7B keeps its width (168 million weights a block) and has one block here.
DEPTHS = {name: 1 if name == "dinov3_vit7b16" else 2 for name in PRESETS}
SIZES = [(16, 16), (64, 96), (112, 80)]


def image_model(config: BackboneConfig, **changes: Any) -> BackboneConfig:
    return dataclasses.replace(config, rope="image", camera_token=False, **changes)


def reference(config: BackboneConfig) -> DINOv3ViTModel:
    """transformers' class with its plainest attention, in evaluation mode and with lively weights."""
    fields, _ = to_transformers(Backbone(image_model(dataclasses.replace(config, hidden_size=64, heads=1, mlp_size=1))))
    fields |= {
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_size,
        "attn_implementation": "eager",
    }
    model = DINOv3ViTModel(DINOv3ViTConfig(**fields)).eval()
    enliven(model)
    return model


@pytest.mark.parametrize(
    "name",
    # 7B's block alone takes 2.5 GB in both libraries together.
    [pytest.param(name, marks=pytest.mark.slow) if name == "dinov3_vit7b16" else name for name in PRESETS],
)
def test_equals_transformers(name: str) -> None:
    config = dataclasses.replace(PRESETS[name], depth=DEPTHS[name])
    theirs = reference(config)
    state = theirs.state_dict()
    for attention in ("causal", "bidirectional"):
        ours_config = image_model(config, attention=attention)
        ours = build(ours_config, from_transformers(state, ours_config))
        for height, width in SIZES:
            image = frames(2, 1, height, width)
            with torch.no_grad(), assert_every_block_acts(blocks_of(theirs)):
                expected = theirs(image[:, 0]).last_hidden_state
            with torch.no_grad():
                found = ours(image)
            tokens = torch.cat([found.cls[:, :, None], found.registers, found.patches.flatten(2, 3)], 2)
            assert found.camera is None
            torch.testing.assert_close(tokens[:, 0], expected, atol=1e-5, rtol=0)


def test_layers_and_masked_patches_equal_transformers() -> None:
    config = dataclasses.replace(PRESETS["dinov3_vits16"], depth=3)
    theirs = reference(config)
    ours = build(image_model(config), from_transformers(theirs.state_dict(), image_model(config)))
    image, mask = frames(2, 1, 64, 48), torch.rand(2, 1, 4, 3, generator=torch.Generator().manual_seed(1)) < 0.4
    kept = []
    for layer in blocks_of(theirs):
        layer.register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.no_grad():
        expected = theirs(image[:, 0], bool_masked_pos=mask[:, 0].flatten(1)).last_hidden_state
        found = ours(image, mask=mask, layers=[0, 2])
    torch.testing.assert_close(found.patches[:, 0].flatten(1, 2), expected[:, 5:], atol=1e-5, rtol=0)
    assert sorted(found.layers) == [0, 2]
    for index, layer in found.layers.items():
        torch.testing.assert_close(layer[:, 0].flatten(1, 2), kept[index][:, 5:], atol=1e-5, rtol=1e-5)


def test_presets_count_the_published_parameters() -> None:
    """Millions of weights that DINOv3 publishes for its sizes (table 2: 21, 29, 86, 300, 840, 6,716)."""
    millions = {}
    for name, config in PRESETS.items():
        with torch.device("meta"):
            model = Backbone(image_model(config, attention="bidirectional"))
        millions[name.removeprefix("dinov3_")] = sum(weight.numel() for weight in model.parameters()) / 1e6
    published = {"vits16": 21, "vits16plus": 29, "vitb16": 86, "vitl16": 300, "vith16plus": 840, "vit7b16": 6716}
    for name, count in published.items():
        assert millions[name] == pytest.approx(count, rel=0.03)
