"""Weights come in, go out and come back without a key lost."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers
from lively import enliven, frames, lively, tiny
from safetensors.torch import load_file, save_file
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from interlace.backbone import Backbone, BackboneConfig, from_transformers, load, save, to_transformers
from interlace.backbone.weights import config_from_transformers


def dinov3(**changes: Any) -> DINOv3ViTModel:
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model = DINOv3ViTModel(DINOv3ViTConfig(**fields, num_register_tokens=2, **changes)).eval()
    enliven(model)
    return model


def state_of(model: DINOv3ViTModel) -> dict[str, torch.Tensor]:
    """Named as transformers 4.57 names it, whichever release is installed."""
    return {name.removeprefix("model."): tensor for name, tensor in model.state_dict().items()}


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As transformers 5 names them."""
    return {f"model.{name}" if name.startswith("layer.") else name: tensor for name, tensor in state.items()}


IMAGE = tiny(rope="image", camera_token=False, attention="bidirectional")


@pytest.mark.parametrize("changes", [{}, {"gated_mlp": True, "query_value_bias": False, "attention": "bidirectional"}])
def test_save_and_load_give_the_same_backbone(tmp_path: Path, changes: dict[str, Any]) -> None:
    backbone = lively(tiny(**changes, drop_path=0.1))
    save(backbone, tmp_path / "new" / "backbone")
    again = load(tmp_path / "new" / "backbone")
    assert again.config == backbone.config
    assert again.state_dict().keys() == backbone.state_dict().keys()
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert torch.equal(again(frames(1, 3)).patches, backbone(frames(1, 3)).patches)
    assert all(weight.requires_grad for weight in again.parameters())


def test_saved_weights_are_float32_and_the_config_is_json(tmp_path: Path) -> None:
    save(lively(tiny()).bfloat16(), tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields.pop("kind") == "interlace.backbone"
    assert BackboneConfig(**fields) == tiny()


def test_load_can_change_what_weights_do_not_depend_on(tmp_path: Path) -> None:
    save(lively(tiny()), tmp_path)
    assert load(tmp_path, drop_path=0.5, activation_checkpointing=True).config == tiny(
        drop_path=0.5, activation_checkpointing=True
    )
    with pytest.raises(ValueError, match=r"camera_token is False in the config and True in the weights"):
        load(tmp_path, camera_token=False)
    with pytest.raises(ValueError, match="colour is no field of BackboneConfig"):
        load(tmp_path, colour="red")


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    save(lively(tiny()), tmp_path)
    torch.manual_seed(5)
    load(tmp_path)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("release", ["4", "5"])
def test_transformers_folders_load(tmp_path: Path, release: str) -> None:
    model = dinov3()
    model.save_pretrained(tmp_path)
    if release == "5":
        save_file(renamed(load_file(tmp_path / "model.safetensors")), tmp_path / "model.safetensors")
    image = load(tmp_path, rope="image", camera_token=False)
    clip = frames(2, 1)
    torch.testing.assert_close(image(clip).cls[:, 0], model(clip[:, 0]).pooler_output, atol=1e-5, rtol=0)
    streaming = load(tmp_path)
    assert streaming.config == tiny(layer_scale=1.0)


def test_weights_in_several_files_load(tmp_path: Path) -> None:
    model = dinov3()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    whole = from_transformers(state_of(model), tiny())
    for name, tensor in load(tmp_path).state_dict().items():
        assert torch.equal(tensor, whole[name])
    next(tmp_path.glob("model-00002-*")).unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-.* no such file"):
        load(tmp_path)


def test_what_dinov3_lacks_is_made_the_same_in_every_process() -> None:
    state = state_of(dinov3())
    torch.manual_seed(1)
    one = from_transformers(state, tiny())
    torch.manual_seed(2)
    other = from_transformers(state, tiny())
    camera = one["embedding.camera_token"]
    assert torch.equal(camera, other["embedding.camera_token"])
    assert camera.shape == (2, 32)
    assert camera.std().item() == pytest.approx(0.02, rel=0.3)
    registers = one["embedding.register_tokens"]
    assert torch.equal(registers[0], state["embeddings.register_tokens"][0])
    assert torch.equal(registers[1], registers[0])
    registers[0].zero_()
    assert registers[1].any()


@pytest.mark.parametrize("release", ["4", "5"])
def test_weights_return_to_transformers(release: Literal["4", "5"]) -> None:
    state = state_of(dinov3(layerscale_value=0.5))
    config = dataclasses.replace(IMAGE, layer_scale=0.5)
    backbone = Backbone(config)
    backbone.load_state_dict(from_transformers(state, config))
    _, written = to_transformers(backbone, release=release)
    expected = renamed(state) if release == "5" else state
    assert written.keys() == expected.keys()
    for name, tensor in written.items():
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize("changes", [{}, {"gated_mlp": True, "query_value_bias": False}, {"attention": "causal"}])
def test_what_is_written_loads_into_transformers_class(tmp_path: Path, changes: dict[str, Any]) -> None:
    backbone = lively(dataclasses.replace(IMAGE, **changes))
    fields, state = to_transformers(backbone)
    (tmp_path / "config.json").write_text(json.dumps(fields))
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, report = DINOv3ViTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    release: Literal["4", "5"] = "5" if transformers.__version__.startswith("5.") else "4"
    DINOv3ViTModel(model.config).load_state_dict(to_transformers(backbone, release=release)[1])
    clip = frames(2, 1)
    with torch.no_grad():
        found, expected = model.eval()(clip[:, 0]).last_hidden_state, backbone(clip)
    torch.testing.assert_close(found[:, 0], expected.cls[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 3:], expected.patches[:, 0].flatten(1, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"gated_mlp": True, "drop_path": 0.1, "rope_jitter": 1.0, "rope_base": 10.0}])
def test_a_config_returns_from_transformers(changes: dict[str, Any]) -> None:
    config = dataclasses.replace(IMAGE, **changes)
    fields, _ = to_transformers(Backbone(config))
    streaming = dataclasses.replace(config, rope="rotary", camera_token=True, attention="causal")
    assert config_from_transformers(DINOv3ViTConfig(**fields).to_dict()) == streaming
    del fields["intermediate_size"]
    with pytest.raises(ValueError, match=r"the DINOv3 config lacks intermediate_size$"):
        config_from_transformers(fields)


@pytest.mark.parametrize("changes", [{"rope": "rotary"}, {"camera_token": True}])
def test_what_transformers_cannot_compute_is_not_written(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="neither a camera token nor time"):
        to_transformers(Backbone(dataclasses.replace(IMAGE, **changes)))


def test_every_missing_key_is_named() -> None:
    state = state_of(dinov3())
    for name in state:
        with pytest.raises(ValueError, match=f"missing {name}$"):
            from_transformers({key: tensor for key, tensor in state.items() if key != name}, tiny())


def test_every_left_over_key_is_named() -> None:
    state = state_of(dinov3())
    with pytest.raises(ValueError, match=r"left over layer.2.norm1.bias, pooler.weight$"):
        from_transformers({**state, "pooler.weight": torch.zeros(1), "layer.2.norm1.bias": torch.zeros(1)}, tiny())
    gated = state_of(dinov3(use_gated_mlp=True, hidden_act="silu"))
    with pytest.raises(ValueError, match=r"left over layer.0.mlp.gate_proj.bias"):
        from_transformers(gated, tiny())


def test_another_shape_is_named() -> None:
    state = state_of(dinov3())
    state["layer.1.mlp.up_proj.weight"] = torch.zeros(49, 32)
    with pytest.raises(ValueError, match=r"layer.1.mlp.up_proj.weight is \[49, 32\], the config needs \[48, 32\]"):
        from_transformers(state, tiny())


def test_our_own_folders_are_read_strictly(tmp_path: Path) -> None:
    save(lively(tiny()), tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    save_file({name: tensor for name, tensor in state.items() if name != "blocks.1.norm2.bias"}, path)
    with pytest.raises(ValueError, match=r"missing blocks.1.norm2.bias$"):
        load(tmp_path)
    save_file({**state, "head.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"left over head.weight$"):
        load(tmp_path)
    save_file({**state, "norm.bias": torch.zeros(33)}, path)
    with pytest.raises(ValueError, match=r"norm.bias is \[33\], the config needs \[32\]"):
        load(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"not a whole safetensors file"):
        load(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"model.safetensors: no such file"):
        load(tmp_path)


def test_what_is_no_backbone_s_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither a run, an export nor a backbone's folder: it has no recipe.yaml"):
        load(tmp_path)
    config = tmp_path / "config.json"
    for text, message in [
        ("{", "not JSON"),
        ("[]", "expected a JSON object"),
        ('{"model_type": "bert"}', "neither an Interlace backbone nor a DINOv3"),
        ('{"kind": "interlace.backbone", "depth": 1}', "hidden_size"),
        (json.dumps({"kind": "interlace.backbone", **tiny().to_json(), "colour": 1}), "colour"),
    ]:
        config.write_text(text)
        with pytest.raises(ValueError, match=message):
            load(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"key_bias": True}, {"mlp_bias": False}, {"proj_bias": False}, {"hidden_act": "relu"}, {"value_bias": False}],
)
def test_an_image_model_we_cannot_compute_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    dinov3(**changes).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"config\.json: {next(iter(changes))}: found"):
        load(tmp_path)
