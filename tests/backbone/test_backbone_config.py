"""Configs say what is wrong with them; frames become what DINOv3 saw."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
import torch
from lively import tiny

from interlace.backbone import PRESETS, BackboneConfig, normalise


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "hidden_size: found 0, allowed is a whole number >= 1"),
        ({"depth": 2.0}, "depth: found 2.0"),
        ({"heads": True}, "heads: found True"),
        ({"mlp_size": -1}, "mlp_size: found -1"),
        ({"patch_size": 0}, "patch_size: found 0"),
        ({"registers": -1}, "registers: found -1, allowed is a whole number >= 0"),
        ({"gated_mlp": 1}, "gated_mlp: found 1, allowed is true or false"),
        ({"query_value_bias": None}, "query_value_bias: found None"),
        ({"camera_token": "yes"}, "camera_token: found 'yes'"),
        ({"activation_checkpointing": 0}, "activation_checkpointing: found 0"),
        ({"attention": "dense"}, 'attention: found \'dense\', allowed is "causal" or "bidirectional"'),
        ({"rope": "3d"}, 'rope: found \'3d\', allowed is "image" or "rotary"'),
        ({"rope_base": 1}, "rope_base: found 1, allowed is a number > 1"),
        ({"rope_jitter": 0.5}, "rope_jitter: found 0.5, allowed is a number >= 1"),
        ({"rope_jitter": float("inf")}, "rope_jitter: found inf"),
        ({"drop_path": 1.0}, "drop_path: found 1.0"),
        ({"layer_norm_eps": 0}, "layer_norm_eps: found 0"),
        ({"layer_scale": float("nan")}, "layer_scale: found nan"),
        ({"hidden_size": 100, "heads": 3}, "hidden_size: 100 is not a multiple of heads = 3"),
        ({"hidden_size": 48, "heads": 2}, "heads: hidden_size / heads = 24 must be a multiple of 16"),
        ({"hidden_size": 36, "heads": 2, "rope": "image"}, "heads: hidden_size / heads = 18 must be a multiple of 4"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}[^\n]*$"):
        tiny(**changes)


def test_presets_are_streaming_backbones_and_json() -> None:
    assert list(PRESETS) == [
        "dinov3_vits16",
        "dinov3_vits16plus",
        "dinov3_vitb16",
        "dinov3_vitl16",
        "dinov3_vith16plus",
        "dinov3_vit7b16",
    ]
    for config in PRESETS.values():
        assert (config.attention, config.rope, config.camera_token, config.registers) == ("causal", "rotary", True, 4)
        assert BackboneConfig(**json.loads(json.dumps(config.to_json()))) == config


def test_tokens_of_a_frame() -> None:
    config = PRESETS["dinov3_vitl16"]
    assert config.tokens_per_frame(224, 224) == 202
    assert dataclasses.replace(config, camera_token=False).tokens_per_frame(512, 512) == 1029
    assert config.grid(32, 48) == (2, 3)
    for size in [(30, 32), (32, 0), (-16, 16)]:
        with pytest.raises(ValueError, match="multiples of patch_size = 16"):
            config.grid(*size)


def test_normalise_is_imagenet_s() -> None:
    frames = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 1, 3, 1, 1).expand(2, 4, 3, 16, 16)
    found = normalise(frames)
    assert found.dtype == torch.float32
    assert found.shape == frames.shape
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    for channel, value in enumerate(expected):
        torch.testing.assert_close(found[:, :, channel], torch.full((2, 4, 16, 16), value))
    for wrong in (frames.float(), torch.zeros(2, 16, 16, 3, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="expected uint8 frames"):
            normalise(wrong)
