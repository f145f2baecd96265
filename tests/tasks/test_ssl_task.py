"""The whole task: its batches, its loss against a sample-by-sample transcription, its teacher and its schedules."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny_ssl
import torch
from pydantic import ValidationError
from test_ssl_losses import naive_dino, naive_gram, naive_ibot, naive_koleo, naive_sinkhorn
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from interlace.backbone import BackboneConfig, BackboneNoise, from_transformers, normalise, weights
from interlace.data_recipes import generator
from interlace.tasks.interface import Progress, TaskContext, Term
from interlace.tasks.ssl import Ssl, SslOptions
from interlace.tasks.ssl.heads import DinoHead

LENGTHS = [1, 5, 1, 3]


def noise_row(noise: BackboneNoise, row: int) -> BackboneNoise:
    return BackboneNoise(noise.rope_scale[row : row + 1], noise.keep[row : row + 1])


def dense(head: DinoHead, features: Tensor) -> Tensor:
    """The whole scores of a head."""
    scores = head(features)
    return scores.rows @ scores.prototypes.T


def naive_losses(task: Ssl, backbone: Any, teacher: Any, items: list, progress: Progress) -> dict[str, Tensor]:
    """Every crop of every sample alone through the backbone, then appendix A's formulas; means, before the weights."""
    o = task.options
    seen, local, whole, hidden, taught, crop_of, gram = [[], []], [[], []], [[], []], [], [], [], []
    ordered = [item for kind in ("image", "clip") for item in items if item.group == kind]
    for number, item in enumerate(ordered):
        length = item.views.global_crops.shape[1]
        for crop in range(2):
            frames = normalise(torch.from_numpy(item.views.global_crops[crop]))[None]
            mask = torch.from_numpy(item.masks[crop])[None, None].repeat(1, length, 1, 1)
            student = backbone(frames, mask=mask, noise=noise_row(item.global_noise, crop))
            with torch.no_grad():
                target = teacher.backbone(frames)
            seen[crop].append(student.cls[0].mean(0))
            whole[crop].append(target.cls[0].mean(0))
            hidden.append(student.patches[mask])
            taught.append(target.patches[mask])
            crop_of += [2 * number + crop] * int(mask.sum())
            if item.group == "image":
                anchor = teacher.gram(frames).patches.detach()
                gram.append((student.patches.flatten(1, 3)[0], anchor.flatten(1, 3)[0]))
        for crop in range(o.local_crops):
            frames = normalise(torch.from_numpy(item.views.local_crops[crop]))[None]
            features = backbone(frames, noise=noise_row(item.local_noise, crop))
            local[crop].append(features.cls[0].mean(0))

    temperature = task.teacher_temperature(progress)
    with torch.no_grad():
        logits = dense(teacher.heads["dino_head"], torch.stack([torch.stack(crop) for crop in whole]))
        targets = naive_sinkhorn(logits.flatten(0, 1), temperature, 3).view_as(logits)
        patch_targets = naive_sinkhorn(dense(teacher.heads["ibot_head"], torch.cat(taught)[None])[0], temperature, 3)
    scores = [dense(task.dino_head, torch.stack([torch.stack(crop) for crop in crops])) for crops in (seen, local)]
    dino, pairs = naive_dino(*scores, targets, o.student_temperature)
    crops = 2 * len(ordered)
    ibot = naive_ibot(
        dense(task.ibot_head, torch.cat(hidden)[None])[0], patch_targets, crop_of, crops, o.student_temperature
    )
    ours, theirs = (torch.stack(part) for part in zip(*gram, strict=True))
    return {
        "dino": dino / pairs,
        "ibot": ibot / crops,
        "koleo": sum(naive_koleo(torch.stack(crop)) for crop in seen) / crops,
        "gram": naive_gram(ours, theirs) / ours.shape[1] ** 2 / len(ours),
    }


def losses(
    task: Ssl, backbone: Any, teacher: Any, items: list, progress: Progress = tiny_ssl.HALFWAY
) -> dict[str, Term]:
    return task.losses(backbone, task.collate(items), teacher=teacher, progress=progress)


def test_losses_equal_a_transcription_sample_by_sample() -> None:
    task, backbone, teacher = tiny_ssl.build(image_mask_probability=0.7)
    items = tiny_ssl.items(task, LENGTHS)
    assert any(item.masks.any() for item in items if item.group == "image")
    terms = losses(task, backbone, teacher, items)
    naive = naive_losses(task, backbone, teacher, items, tiny_ssl.HALFWAY)
    assert list(terms) == list(naive)
    for name, expected in naive.items():
        torch.testing.assert_close(terms[name].sum / terms[name].count, expected, rtol=1e-6, atol=1e-9)
    weights = {"dino": 1.0, "ibot": 1.0, "koleo": 0.1, "gram": 1.0}
    assert {name: term.weight for name, term in terms.items()} == weights
    ours = tiny_ssl.gradients(task, backbone, tiny_ssl.total(terms))
    theirs = tiny_ssl.gradients(task, backbone, sum(weights[name] * naive[name] for name in naive))
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-8, msg=lambda text, n=name: f"{n}: {text}")


def test_every_trained_part_gets_a_gradient() -> None:
    task, backbone, teacher = tiny_ssl.build()
    terms = losses(task, backbone, teacher, tiny_ssl.items(task, LENGTHS))
    for name, gradient in tiny_ssl.gradients(task, backbone, tiny_ssl.total(terms)).items():
        assert gradient.abs().max() > 0 or "camera" in name, name


# Batches


def test_a_batch_has_both_groups_and_masks_as_indices() -> None:
    task, _, _ = tiny_ssl.build()
    items = tiny_ssl.items(task, LENGTHS)
    batch = task.collate(items)
    assert list(batch) == ["image", "clip"]
    for name, length, count in (("image", 1, 2), ("clip", 3, 2)):
        group = batch[name]
        assert group["count"] == count
        assert group["global"].shape == (2 * count, length, 3, 32, 32)
        assert group["local"].shape == (2 * count, length, 3, 16, 16)
        assert group["global"].dtype == group["local"].dtype == torch.uint8
        assert group["mask"].shape == (2 * count, length, 4, 4)
        flat = torch.zeros(group["mask"].numel(), dtype=torch.bool)
        flat[group["masked"]] = True
        assert torch.equal(flat.view_as(group["mask"]), group["mask"])
        per_crop = group["mask"].flatten(1).sum(1)
        weights = torch.zeros(len(flat)).masked_scatter_(flat, group["weight"]).view(2 * count, -1).sum(1)
        torch.testing.assert_close(weights, (per_crop > 0).float())
        assert len(group["global_noise"]) == len(group["local_noise"]) == 2 * count
    assert (batch["clip"]["mask"] == batch["clip"]["mask"][:, :1]).all()


def test_samples_keep_their_order_within_a_group() -> None:
    task, _, _ = tiny_ssl.build()
    items = tiny_ssl.items(task, LENGTHS)
    batch = task.collate(items)
    for name, places in (("image", (0, 2)), ("clip", (1, 3))):
        expected = np.concatenate([items[place].views.global_crops for place in places])
        assert np.array_equal(batch[name]["global"].numpy(), expected)


def test_items_and_batches_travel_between_processes() -> None:
    task, _, _ = tiny_ssl.build()
    item = pickle.loads(pickle.dumps(tiny_ssl.items(task, [3])[0]))
    assert pickle.loads(pickle.dumps(task.collate([item])))["clip"]["count"] == 1


def test_frames_are_chosen_before_decoding() -> None:
    task, _, _ = tiny_ssl.build()
    for length in (4, 9, 50):
        chosen = task.frame_indices(np.arange(length) / 10, generator(0, length))
        assert chosen.shape == (3,)
        assert (np.diff(chosen) >= 0).all()
        assert set(chosen) <= set(range(length))
    assert task.frame_indices(np.zeros(1), generator(0, "image")) is None
    assert task.frame_indices(np.arange(3) / 10, generator(0, "whole")) is None


# Degenerate batches


def test_one_sample_has_no_koleo_and_finite_gradients() -> None:
    task, backbone, teacher = tiny_ssl.build()
    terms = losses(task, backbone, teacher, tiny_ssl.items(task, [1]))
    assert (terms["koleo"].sum.item(), terms["koleo"].count.item()) == (0, 0)
    assert terms["dino"].count.item() == 2 + 2 * 2
    for gradient in tiny_ssl.gradients(task, backbone, tiny_ssl.total(terms)).values():
        assert torch.isfinite(gradient).all()


def test_without_any_masked_patch_ibot_is_zero_and_the_rest_is_there() -> None:
    task, backbone, teacher = tiny_ssl.build(image_mask_probability=0.0)
    terms = losses(task, backbone, teacher, tiny_ssl.items(task, [1, 1]))
    assert (terms["ibot"].sum.item(), terms["ibot"].count.item()) == (0, 4)
    found = tiny_ssl.gradients(task, backbone, tiny_ssl.total(terms))
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    assert found["dino_head.mlp.0.weight"].abs().max() > 0
    assert found["ibot_head.mlp.0.weight"].abs().max() == 0


def test_samples_that_are_the_same_give_finite_losses_and_gradients() -> None:
    task, backbone, teacher = tiny_ssl.build()
    terms = losses(task, backbone, teacher, tiny_ssl.items(task, [1]) * 3)
    for term in terms.values():
        assert torch.isfinite(term.sum)
    koleo = tiny_ssl.gradients(task, backbone, terms["koleo"].sum)
    assert all(gradient.abs().max() == 0 for gradient in koleo.values())
    found = tiny_ssl.gradients(task, backbone, tiny_ssl.total(terms))
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


def test_clips_alone_have_no_gram() -> None:
    task, backbone, teacher = tiny_ssl.build()
    terms = losses(task, backbone, teacher, tiny_ssl.items(task, [3, 3]))
    assert (terms["gram"].sum.item(), terms["gram"].count.item()) == (0, 0)


def test_gram_off_has_no_term_and_no_frozen_copy() -> None:
    task, backbone, teacher = tiny_ssl.build(gram=False)
    assert list(losses(task, backbone, teacher, tiny_ssl.items(task, [1, 3]))) == ["dino", "ibot", "koleo"]
    assert not any(name.startswith("gram") for name, _ in teacher.named_parameters())


def test_bf16_autocast_is_close_to_single_precision() -> None:
    task, backbone, teacher = (module.float() for module in tiny_ssl.build())
    items = tiny_ssl.items(task, LENGTHS)
    plain = losses(task, backbone, teacher, items)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = losses(task, backbone, teacher, items)
    for name, term in mixed.items():
        assert term.sum.dtype == torch.float32
        torch.testing.assert_close(term.sum, plain[name].sum, rtol=0.05, atol=0.05)


# Teacher and schedules


@pytest.mark.parametrize("kind", ["dinov3", "backbone"])
def test_teacher_is_two_separate_copies_without_gradients(kind: str) -> None:
    task, backbone, _ = tiny_ssl.build(gram_teacher=kind)
    teacher = task.build_teacher(backbone)
    followed = {f"backbone.{name}": p for name, p in backbone.named_parameters()}
    followed |= {f"heads.{name}": p for name, p in task.named_parameters()}
    frozen = {f"gram.{name}": p for name, p in backbone.named_parameters()}
    if kind == "dinov3":
        del frozen["gram.embedding.camera_token"]
    copies = dict(teacher.named_parameters(remove_duplicate=False))
    assert set(copies) == set(followed) | set(frozen)
    for name, original in (followed | frozen).items():
        assert torch.equal(copies[name], original)
        assert not copies[name].requires_grad
    storages = [p.data_ptr() for p in copies.values()]
    assert len({*storages, *(p.data_ptr() for p in followed.values())}) == len(copies) + len(followed)


def test_gram_anchors_to_the_initial_backbone() -> None:
    config = replace(tiny_ssl.CONFIG, drop_path=0.0, rope_jitter=1.0)
    task, backbone, _ = tiny_ssl.build(config, image_mask_probability=0.0, gram_teacher="backbone")
    teacher = task.build_teacher(backbone)
    items = tiny_ssl.items(task, [1, 1])
    assert losses(task, backbone, teacher, items)["gram"].sum < 1e-20
    with torch.no_grad():
        for parameter in teacher.backbone.parameters():
            parameter.add_(1)
    assert losses(task, backbone, teacher, items)["gram"].sum < 1e-20
    with torch.no_grad():
        backbone.blocks[0].mlp.up.weight.add_(torch.randn_like(backbone.blocks[0].mlp.up.weight))
    assert losses(task, backbone, teacher, items)["gram"].sum > 1e-4


def test_the_gram_teacher_is_the_dinov3_that_training_begins_with() -> None:
    """Not the streaming backbone made of it, whose positions and tokens it was not trained with."""
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    dinov3 = DINOv3ViTModel(DINOv3ViTConfig(**fields, patch_size=8, num_register_tokens=1)).eval()
    with torch.no_grad():
        for parameter in dinov3.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    config = replace(tiny_ssl.CONFIG, layer_norm_eps=dinov3.config.layer_norm_eps)
    backbone = weights.build(config, from_transformers(dinov3.state_dict(), config))
    task = Ssl(tiny_ssl.options(), TaskContext(config, seed=0))
    frames = normalise(torch.randint(0, 256, (3, 1, 3, 32, 24), dtype=torch.uint8))
    with torch.no_grad():
        anchor = task.build_teacher(backbone).gram(frames).patches[:, 0].flatten(1, 2)
        streaming = backbone(frames).patches[:, 0].flatten(1, 2)
        expected = dinov3(frames[:, 0]).last_hidden_state[:, 2:]
    torch.testing.assert_close(anchor, expected, atol=1e-5, rtol=0)
    assert (streaming - expected).abs().max() > 0.1


def test_losses_without_a_teacher_say_so() -> None:
    task, backbone, _ = tiny_ssl.build()
    with pytest.raises(ValueError, match="needs the teacher"):
        losses(task, backbone, None, tiny_ssl.items(task, [1]))


def at(step: int, steps: int = 1000) -> Progress:
    return Progress(step=step, steps=steps, seed=0)


def test_momentum_is_a_cosine_to_one() -> None:
    task, _, _ = tiny_ssl.build()
    assert task.momentum(at(0)) == pytest.approx(0.994)
    assert task.momentum(at(250)) == pytest.approx(1 - 0.006 * (1 + math.cos(math.pi / 4)) / 2)
    assert task.momentum(at(500)) == pytest.approx(0.997)
    assert task.momentum(at(1000)) == pytest.approx(1.0)


def test_teacher_temperature_rises_linearly_then_stays() -> None:
    task, _, _ = tiny_ssl.build()
    assert [task.teacher_temperature(at(step)) for step in (0, 150, 300, 999)] == pytest.approx(
        [0.04, 0.055, 0.07, 0.07]
    )
    cold, _, _ = tiny_ssl.build(temperature_warmup=0.0)
    assert cold.teacher_temperature(at(0)) == 0.07


def test_temperature_reaches_the_losses() -> None:
    task, backbone, teacher = tiny_ssl.build()
    items = tiny_ssl.items(task, LENGTHS)
    early, late = (losses(task, backbone, teacher, items, at(step)) for step in (0, 999))
    for name, changes in (("dino", True), ("ibot", True), ("koleo", False), ("gram", False)):
        assert torch.equal(early[name].sum, late[name].sum) is not changes


# Signals


def test_signals_tell_collapse() -> None:
    task, backbone, teacher = tiny_ssl.build()
    assert task.signals() == {}
    items = tiny_ssl.items(task, [1] * 6)
    losses(task, backbone, teacher, items)
    healthy = task.signals()
    assert list(healthy) == ["feature_std", "feature_rank", "teacher_entropy"]
    assert all(not value.requires_grad and value.ndim == 0 for value in healthy.values())
    with torch.no_grad():  # a backbone that ignores its input
        for module in (backbone, teacher.backbone):
            module.norm.weight.zero_()
            module.norm.bias.uniform_(-1, 1)
    losses(task, backbone, teacher, items)
    collapsed = task.signals()
    assert healthy["feature_std"] > 0.1
    assert collapsed["feature_std"] < 1e-6
    assert healthy["feature_rank"] > 2
    assert collapsed["feature_rank"] < 1.01
    assert collapsed["teacher_entropy"] == pytest.approx(math.log(12), rel=1e-6)
    assert healthy["teacher_entropy"] < math.log(12) - 0.01


# Options


def test_defaults_fit_the_papers_backbone() -> None:
    config = BackboneConfig(hidden_size=1024, depth=24, heads=16, mlp_size=4096)
    assert Ssl.check(SslOptions(), config) == []
    with torch.device("meta"):
        large = Ssl(SslOptions(), TaskContext(config, seed=0))
    assert [tuple(layer.weight.shape) for layer in large.ibot_head.mlp[::2]] == [
        (2048, 1024),
        (2048, 2048),
        (256, 2048),
    ]
    assert large.dino_head.prototypes.weight.shape == (65536, 256)
    prefix = 1 + 1 + 4
    assert Ssl.tokens_per_sample(SslOptions(), config) == 16 * (2 * (14 * 14 + prefix) + 2 * (6 * 6 + prefix))


def test_check_names_every_wrong_size() -> None:
    config = BackboneConfig(hidden_size=64, depth=1, heads=1, mlp_size=64, patch_size=16)
    wrong = Ssl.check(SslOptions(global_size=100, local_size=9), config)
    assert [key for key, _ in wrong] == ["global_size", "local_size"]
    assert "use 96 or 112" in wrong[0][1]
    assert "use 16" in wrong[1][1]
    assert [key for key, _ in Ssl.check(SslOptions(global_size=16, local_size=16), config)] == ["global_size"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"unknown": 1},
        {"frames": 1},
        {"frames": 2.0},
        {"local_crops": 0},
        {"global_scale": (0.5, 0.2)},
        {"image_mask_ratio": (0.1, 1.5)},
        {"video_masks": ({"count": 0, "scale": 0.1}, {"count": 1, "scale": 0.5})},
        {"teacher_temperature": 0.0},
        {"momentum": 1.1},
        {"gram": 1},
    ],
    ids=str,
)
def test_impossible_options_are_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SslOptions(**wrong)
