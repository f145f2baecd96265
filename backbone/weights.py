"""DINOv3 weights under the names of `transformers`, read and written without a key lost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from .config import BackboneConfig
from .model import Backbone

_OUTSIDE = {
    "embeddings.cls_token": "embedding.cls_token",
    "embeddings.mask_token": "embedding.mask_token",
    "embeddings.register_tokens": "embedding.register_tokens",
    "embeddings.patch_embeddings.weight": "embedding.patch.weight",
    "embeddings.patch_embeddings.bias": "embedding.patch.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
}
_INSIDE = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attention.q_proj.weight": "attention.query.weight",
    "attention.q_proj.bias": "attention.query.bias",
    "attention.k_proj.weight": "attention.key.weight",
    "attention.v_proj.weight": "attention.value.weight",
    "attention.v_proj.bias": "attention.value.bias",
    "attention.o_proj.weight": "attention.output.weight",
    "attention.o_proj.bias": "attention.output.bias",
    "layer_scale1.lambda1": "scale1.factor",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.gate_proj.weight": "mlp.gate.weight",
    "mlp.gate_proj.bias": "mlp.gate.bias",
    "mlp.up_proj.weight": "mlp.up.weight",
    "mlp.up_proj.bias": "mlp.up.bias",
    "mlp.down_proj.weight": "mlp.down.weight",
    "mlp.down_proj.bias": "mlp.down.bias",
    "layer_scale2.lambda1": "scale2.factor",
}
_CAMERA = "embedding.camera_token"


def from_transformers(state: Mapping[str, Tensor], config: BackboneConfig) -> dict[str, Tensor]:
    """A backbone's state from a ``DINOv3ViTModel``'s, whose blocks are named ``layer.N.`` or ``model.layer.N.``.

    What DINOv3 lacks is made: its registers are copied into both slots of a causal backbone, and the camera token is
    drawn from N(0, 0.02) by a generator of its own with seed 0, so that it is the same in every process.

    Raises ValueError, naming them, for keys that are missing, left over or of another shape.
    """
    names = {re.sub(r"^model\.layer\.", "layer.", name): name for name in state}
    expected = _names(config)
    _raise_on_difference(expected.keys(), names.keys())
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Backbone(config).state_dict().items()}
    result = {}
    for theirs, ours in expected.items():
        tensor = state[names[theirs]].detach().float()
        if ours == "embedding.register_tokens":
            tensor = tensor.expand(config.slots, -1, -1)
        elif ours in ("embedding.cls_token", "embedding.mask_token"):
            tensor = tensor.flatten()
        if tensor.shape != shapes[ours]:
            raise ValueError(f"weights: {names[theirs]} is {list(tensor.shape)}, the config needs {list(shapes[ours])}")
        result[ours] = tensor.clone(memory_format=torch.contiguous_format)
    if config.camera_token:
        generator = torch.Generator().manual_seed(0)
        result[_CAMERA] = torch.randn(shapes[_CAMERA], generator=generator) * 0.02
    return result


def our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a ``DINOv3ViTModel`` under this backbone's names, shapes as they are; others are left out."""
    renamed = {}
    for name, tensor in state.items():
        block = re.fullmatch(r"(?:model\.)?layer\.(\d+)\.(.*)", name)
        ours = _OUTSIDE.get(name) if block is None else _INSIDE.get(block[2])
        if ours is not None:
            renamed[ours if block is None else f"blocks.{block[1]}.{ours}"] = tensor
    return renamed


def to_transformers(
    backbone: Backbone, *, release: Literal["4", "5"] = "4"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The ``DINOv3ViTConfig`` fields and the float32 state of an image model, named as transformers 4.57 or 5 names it.

    transformers has one frame, no camera token and no time: a backbone with ``rope = "rotary"`` or a camera token is
    refused with ValueError. Of a causal backbone the registers of the first frame are written, which are all that one
    frame uses.
    """
    config = backbone.config
    if config.rope != "image" or config.camera_token:
        raise ValueError(
            f'to_transformers: transformers\' DINOv3 has neither a camera token nor time; rope is "{config.rope}", '
            f"camera_token is {config.camera_token}"
        )
    ours = backbone.state_dict()
    state = {}
    for theirs, name in _names(config).items():
        tensor = ours[name].detach().cpu().float()
        if name == "embedding.register_tokens":
            tensor = tensor[:1]
        elif name in ("embedding.cls_token", "embedding.mask_token"):
            tensor = tensor.view(1, 1, -1)
        if release == "5":
            theirs = re.sub(r"^layer\.", "model.layer.", theirs)
        state[theirs] = tensor.clone(memory_format=torch.contiguous_format)
    return _transformers_config(config), state


def config_from_transformers(fields: Mapping[str, Any]) -> BackboneConfig:
    """The streaming backbone (causal, "rotary", camera token) of a ``DINOv3ViTConfig``'s fields.

    Raises ValueError for an image model that this backbone cannot compute, or a field that is missing.
    """
    ours = {
        "hidden_size": "hidden_size",
        "num_hidden_layers": "depth",
        "num_attention_heads": "heads",
        "intermediate_size": "mlp_size",
        "use_gated_mlp": "gated_mlp",
        "query_bias": "query_value_bias",
        "patch_size": "patch_size",
        "num_register_tokens": "registers",
        "rope_theta": "rope_base",
        "drop_path_rate": "drop_path",
        "layer_norm_eps": "layer_norm_eps",
        "layerscale_value": "layer_scale",
    }
    fixed: dict[str, Any] = {"num_channels": 3, "key_bias": False, "proj_bias": True, "mlp_bias": True}
    missing = sorted({*ours, *fixed, "value_bias", "hidden_act", "pos_embed_rescale"} - set(fields))
    if missing:
        raise ValueError(f"the DINOv3 config lacks {', '.join(missing)}")
    fixed |= {"value_bias": fields["query_bias"], "hidden_act": "silu" if fields["use_gated_mlp"] else "gelu"}
    for name, allowed in fixed.items():
        if fields[name] != allowed:
            raise ValueError(f"{name}: found {fields[name]!r}, this backbone has {allowed!r}")
    rescale = fields["pos_embed_rescale"]
    jitter = 1.0 if rescale is None else rescale
    return BackboneConfig(**{name: fields[theirs] for theirs, name in ours.items()}, rope_jitter=jitter)


def build(config: BackboneConfig, state: Mapping[str, Tensor]) -> Backbone:
    """A backbone whose weights are the tensors of ``state``, without drawing initial ones first.

    Raises ValueError, naming it, for every key that is missing or left over, or one of another shape.
    """
    with torch.device("meta"):
        backbone = Backbone(config)
    own = backbone.state_dict()
    _raise_on_difference(own.keys(), state.keys())
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise ValueError(f"weights: {name} is {list(tensor.shape)}, the config needs {list(own[name].shape)}")
    backbone.load_state_dict(dict(state), assign=True)
    return backbone


def _names(config: BackboneConfig) -> dict[str, str]:
    """transformers' name -> ours, for every weight that both have."""
    names = dict(_OUTSIDE)
    for index in range(config.depth):
        for theirs, ours in _INSIDE.items():
            if "gate" in ours and not config.gated_mlp:
                continue
            if ours in ("attention.query.bias", "attention.value.bias") and not config.query_value_bias:
                continue
            names[f"layer.{index}.{theirs}"] = f"blocks.{index}.{ours}"
    return names


def _raise_on_difference(expected: Any, found: Any) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        parts = [f"missing {', '.join(missing)}"] * bool(missing) + [f"left over {', '.join(extra)}"] * bool(extra)
        raise ValueError(f"weights do not fit the config: {'; '.join(parts)}")


def _transformers_config(config: BackboneConfig) -> dict[str, Any]:
    return {
        "model_type": "dinov3_vit",
        "architectures": ["DINOv3ViTModel"],
        "image_size": 224,
        "num_channels": 3,
        "patch_size": config.patch_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "hidden_act": "silu" if config.gated_mlp else "gelu",
        "use_gated_mlp": config.gated_mlp,
        "query_bias": config.query_value_bias,
        "key_bias": False,
        "value_bias": config.query_value_bias,
        "proj_bias": True,
        "mlp_bias": True,
        "num_register_tokens": config.registers,
        "layer_norm_eps": config.layer_norm_eps,
        "layerscale_value": config.layer_scale,
        "rope_theta": config.rope_base,
        "drop_path_rate": config.drop_path,
        "pos_embed_rescale": config.rope_jitter if config.rope_jitter > 1 else None,
    }
