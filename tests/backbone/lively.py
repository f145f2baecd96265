"""Weights under which a wrong line shows, an independent backbone to compare with, and a watcher of large tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from interlace.backbone import Backbone, BackboneConfig

SMALLEST_CHANGE = 0.1  # of a block's input, in norm


def tiny(**changes: Any) -> BackboneConfig:
    """Two small blocks with everything switched on."""
    fields: dict[str, Any] = {"hidden_size": 32, "depth": 2, "heads": 2, "mlp_size": 48, "registers": 2, **changes}
    return BackboneConfig(**fields)


def frames(batch: int, length: int, height: int = 32, width: int = 48, seed: int = 0) -> Tensor:
    return torch.randn(batch, length, 3, height, width, generator=torch.Generator().manual_seed(seed))


def enliven(model: nn.Module, seed: int = 0) -> None:
    """Fresh weights of either library's model: no parameter is 0 or 1, and blocks, tokens and biases all matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                weight.uniform_(0.5, 1.5, generator=generator)
            elif "scale" in name:
                weight.uniform_(0.4, 0.8, generator=generator)
            elif "token" in name:
                weight.normal_(generator=generator)
            elif weight.ndim > 1:
                # Queries and keys are strong enough that attention is far from uniform.
                gain = 1.6 if any(part in name for part in ("query", "key", "q_proj", "k_proj")) else 1.0
                weight.normal_(0, gain / math.sqrt(weight[0].numel()), generator=generator)
            else:
                weight.normal_(0, 0.2, generator=generator)


def lively(config: BackboneConfig, seed: int = 0) -> Backbone:
    """A backbone with :func:`enliven`'s weights, of which every block changes its input by at least a tenth."""
    backbone = Backbone(config)
    enliven(backbone, seed)
    with assert_every_block_acts(backbone.blocks), torch.no_grad():
        backbone(frames(1, 2 if config.attention == "causal" else 1, 2 * config.patch_size, 2 * config.patch_size))
    return backbone


@contextmanager
def assert_every_block_acts(blocks: nn.ModuleList) -> Iterator[None]:
    """Both branches of every block that runs inside change what they are added to by at least a tenth."""
    changes: list[float] = []

    def measure(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        changes.append(float((output - args[0]).norm() / args[0].norm()))

    handles = [block.register_forward_hook(measure) for block in blocks]
    yield
    for handle in handles:
        handle.remove()
    assert len(changes) >= len(blocks)
    assert min(changes) >= SMALLEST_CHANGE, changes


def blocks_of(dinov3: nn.Module) -> nn.ModuleList:
    """The blocks of a transformers DINOv3, where release 4 and where release 5 keeps them."""
    blocks = getattr(dinov3, "layer", None)
    if blocks is None:
        blocks = dinov3.model.layer
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def naive(
    backbone: Backbone,
    clip: Tensor,
    times: Tensor | None = None,
    sees: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The backbone once more in float64, from its state alone: patches as matrices, positions as complex numbers,
    attention as one dense masked softmax.

    ``sees``: [T, T] bool, may frame (row) see frame (column); causal if None. Returns the normalised tokens
    [B, T, tokens, D] and each block's raw ones.
    """
    config = backbone.config
    state = {name: tensor.detach().double() for name, tensor in backbone.state_dict().items()}
    batch, length, _, height, width = clip.shape
    size = config.patch_size
    rows, columns = height // size, width // size
    if times is None:
        times = torch.arange(length).expand(batch, -1)
    if sees is None:
        sees = torch.arange(length)[:, None] >= torch.arange(length)
    kernel = state["embedding.patch.weight"].flatten(1)
    cells = clip.double().view(batch, length, 3, rows, size, columns, size).permute(0, 1, 3, 5, 2, 4, 6).flatten(4)
    patches = (cells @ kernel.T + state["embedding.patch.bias"]).flatten(2, 3)
    sequence = []
    for frame in range(length):
        slot = 0 if frame == 0 else -1
        prefix = [state["embedding.cls_token"][None]]
        if config.camera_token:
            prefix.append(state["embedding.camera_token"][slot][None])
        prefix.append(state["embedding.register_tokens"][slot])
        sequence.append(torch.cat([torch.cat(prefix).expand(batch, -1, -1), patches[:, frame]], 1))
    x = torch.cat(sequence, 1)
    tokens = x.shape[1] // length
    turn = torch.stack([_turn(config, float(t), rows, columns) for t in times.flatten()])  # [B*T, tokens, half]
    turn = turn.view(batch, 1, length * tokens, -1)
    mask = sees.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
    raw = []
    for index in range(config.depth):
        block = {name.split(".", 2)[2]: w for name, w in state.items() if name.startswith(f"blocks.{index}.")}
        x = x + block["scale1.factor"] * _attend(config, block, _norm(config, block, "norm1", x), turn, mask)
        x = x + block["scale2.factor"] * _mlp(config, block, _norm(config, block, "norm2", x))
        raw.append(x.view(batch, length, tokens, -1))
    return _norm(config, state, "norm", x).view(batch, length, tokens, -1), raw


def _turn(config: BackboneConfig, time: float, rows: int, columns: int) -> Tensor:
    """[tokens, half] unit complex numbers of one frame."""
    quarter = config.head_dim // 4
    numbers = torch.ones(config.prefix_tokens + rows * columns, 2 * quarter, dtype=torch.complex128)
    for row in range(rows):
        for column in range(columns):
            for index in range(2 * quarter):
                centre = (row + 0.5) / rows if index < quarter else (column + 0.5) / columns
                coordinate, period = 2 * centre - 1, index % quarter
                if config.rope == "rotary" and index % 4 == 3:
                    coordinate, period = time / 16, index // 4
                angle = 2 * math.pi * coordinate / config.rope_base ** (period / quarter)
                place = config.prefix_tokens + row * columns + column
                numbers[place, index] = complex(math.cos(angle), math.sin(angle))
    return numbers


def _norm(config: BackboneConfig, state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + config.layer_norm_eps).sqrt()
    return centred / deviation * state[f"{name}.weight"] + state[f"{name}.bias"]


def _linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    y = x @ state[f"{name}.weight"].T
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def _attend(config: BackboneConfig, state: dict[str, Tensor], x: Tensor, turn: Tensor, mask: Tensor) -> Tensor:
    query, key, value = (
        _linear(state, f"attention.{name}", x).unflatten(-1, (config.heads, -1)).transpose(1, 2)
        for name in ("query", "key", "value")
    )
    query, key = _turned(query, turn), _turned(key, turn)
    scores = query @ key.transpose(2, 3) / math.sqrt(config.head_dim)
    weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
    return _linear(state, "attention.output", (weights @ value).transpose(1, 2).flatten(2))


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    turned = torch.complex(first, second) * turn
    return torch.cat([turned.real, turned.imag], -1)


def _mlp(config: BackboneConfig, state: dict[str, Tensor], x: Tensor) -> Tensor:
    up = _linear(state, "mlp.up", x)
    if config.gated_mlp:
        gate = _linear(state, "mlp.gate", x)
        return _linear(state, "mlp.down", gate * torch.sigmoid(gate) * up)
    return _linear(state, "mlp.down", up * 0.5 * (1 + torch.erf(up / math.sqrt(2))))


class Watcher(TorchDispatchMode):
    """Sees every tensor that an operator makes while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.shapes.extend((str(func), tuple(leaf.shape)) for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result

    def squares(self, length: int) -> list[tuple[str, tuple[int, ...]]]:
        """The tensors whose last two sizes are ``length`` x ``length``, or that are as large as such a one."""
        return [
            (name, shape)
            for name, shape in self.shapes
            if shape[-2:] == (length, length) or math.prod(shape) >= length * length
        ]
