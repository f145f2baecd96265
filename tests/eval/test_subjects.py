"""Subjects: a backbone as it was loaded, and the pixels beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from interlace.backbone import Backbone, load, normalise, save
from interlace.eval.frozen import NotFrozen, digest
from interlace.eval.subjects import EightBits, FrozenBackbone, Pixels, initialised, open_subject


def frames(count: int, size: tuple[int, int] = (16, 24)) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, *size), dtype=np.uint8))


def test_a_stream_says_what_the_whole_clip_says(backbone: Backbone) -> None:
    subject, clip = FrozenBackbone(backbone, "mine"), frames(5)
    whole = subject.clips(clip[None])
    for at, tokens in enumerate(subject.stream(clip)):
        for name in ("patches", "cls", "camera"):
            torch.testing.assert_close(getattr(tokens, name)[0, 0], getattr(whole, name)[0, at], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole.patches, backbone(normalise(clip[None])).patches)


def test_a_backbone_that_cannot_stream_sees_frames_alone(backbone: Backbone) -> None:
    torch.manual_seed(0)
    blind = FrozenBackbone(Backbone(replace(backbone.config, attention="bidirectional")), "image")
    clip = frames(3)
    for frame, tokens in zip(clip, blind.stream(clip), strict=True):
        torch.testing.assert_close(tokens.patches, blind.clips(frame[None, None]).patches)


def test_a_dinov3_is_measured_as_it_was_published(tmp_path: Path) -> None:
    """Every frame of a clip, by itself, is what transformers' own model says of it."""
    config = DINOv3ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        patch_size=8,
        num_register_tokens=2,
        layerscale_value=1.0,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    published = DINOv3ViTModel(config).eval()
    published.save_pretrained(tmp_path / "dinov3")
    subject, clips = open_subject(tmp_path / "dinov3"), torch.stack((frames(3), frames(3).flip(0)))
    with torch.no_grad():
        pixels = normalise(clips).flatten(0, 1)
        said = published(pixel_values=pixels).last_hidden_state.unflatten(0, (2, 3))
    whole = subject.clips(clips)
    torch.testing.assert_close(whole.cls, said[:, :, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole.camera, whole.cls)
    torch.testing.assert_close(whole.patches.flatten(2, 3), said[:, :, 3:], atol=1e-5, rtol=1e-4)
    for at, tokens in enumerate(subject.stream(clips[0])):
        torch.testing.assert_close(tokens.patches[0, 0], whole.patches[0, at], atol=1e-5, rtol=1e-4)
    assert (said[0, 0] - said[0, 1]).abs().mean() > 0.1
    save(load(tmp_path / "dinov3"), tmp_path / "mine")  # what a run makes of it before it trains
    assert open_subject(tmp_path / "mine").backbone.config.attention == "causal"


def test_eight_bits_are_a_stream_of_the_same_weights(backbone: Backbone) -> None:
    exact, clips = FrozenBackbone(backbone, "mine"), torch.stack((frames(5), frames(5).flip(0)))
    small = EightBits(exact)
    assert (small.name, small.digest) == ("mine, 8-bit keys and values", exact.digest)
    whole, found = exact.clips(clips), small.clips(clips)
    error = (found.patches - whole.patches).norm() / whole.patches.norm()
    assert 1e-6 < error < 0.02
    for at, tokens in enumerate(small.stream(clips[1])):
        torch.testing.assert_close(tokens.patches[0, 0], found.patches[1, at])
    sighted = FrozenBackbone(Backbone(replace(backbone.config, attention="bidirectional")), "image")
    with pytest.raises(ValueError, match="image: 8-bit keys and values need a backbone that streams"):
        EightBits(sighted)


def test_pixels_are_cut_as_patches_are() -> None:
    clip = frames(2)
    tokens = Pixels(8).clips(clip[None])
    assert tokens.patches.shape == (1, 2, 2, 3, 3 * 64)
    torch.testing.assert_close(tokens.patches[0, 1, 1, 2], (clip[1, :, 8:16, 16:24] / 255 - 0.5).flatten())
    with pytest.raises(ValueError, match="both sides must be multiples of 8"):
        Pixels(8).clips(frames(1, (15, 16))[None])


def test_a_run_or_a_folder_opens_and_keeps_its_name(backbone: Backbone, tmp_path: Path) -> None:
    save(backbone, tmp_path / "run" / "backbone")
    for place in (tmp_path / "run", tmp_path / "run" / "backbone"):
        subject = open_subject(place)
        assert (subject.name, subject.digest) == ("run", digest(backbone))
    with pytest.raises(ValueError, match="nowhere"):
        open_subject(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="device 'toaster'"):
        open_subject(tmp_path / "run", "toaster")


def test_the_untrained_one_is_where_a_run_begins(backbone: Backbone) -> None:
    assert initialised(backbone.config, 0).digest == digest(backbone)


def test_a_subject_that_changes_is_refused(backbone: Backbone) -> None:
    subject = FrozenBackbone(backbone, "mine")
    with pytest.raises(NotFrozen, match=r"norm\.bias changed"), subject.held(), torch.no_grad():
        backbone.norm.bias[0] += 1e-6
