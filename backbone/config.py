"""What shape a backbone has. Pure data: a recipe, a checkpoint and a test can all hold one."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

Attention = Literal["causal", "bidirectional"]
Rope = Literal["image", "rotary"]


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The shape and behaviour of a :class:`~interlace.backbone.Backbone`; every field is a JSON value.

    ``attention``: with "causal" the tokens of frame t see all tokens of frames <= t, with "bidirectional" every
    token sees every token of its clip. ``rope``: "image" is DINOv3's two-dimensional layout; "rotary" gives two of
    eight angle indices to time (OmniStream section 3.2), as a true rotation.

    ``gated_mlp`` is SwiGLU (SiLU gate), otherwise GELU. ``query_value_bias`` is off in DINOv3 7B only; keys never
    have a bias. ``layer_scale`` is the initial value. ``rope_jitter`` j scales positions log-uniformly in [1/j, j]
    and ``drop_path`` drops a branch of a block for a sample, both only where a forward is given a
    :class:`~interlace.backbone.BackboneNoise`; 1.0 and 0.0 turn them off. ``fps`` says how many frame units of time a
    second is, for those who know when a frame was taken; it changes no computation, and None leaves it open.

    Raises ValueError, naming the field, for a value that no backbone can have.
    """

    hidden_size: int
    depth: int
    heads: int
    mlp_size: int
    gated_mlp: bool = False
    query_value_bias: bool = True
    patch_size: int = 16
    registers: int = 4
    camera_token: bool = True
    attention: Attention = "causal"
    rope: Rope = "rotary"
    rope_base: float = 100.0
    rope_jitter: float = 2.0
    drop_path: float = 0.0
    layer_norm_eps: float = 1e-5
    layer_scale: float = 1e-5
    activation_checkpointing: bool = False
    fps: float | None = None

    def __post_init__(self) -> None:
        for name in ("hidden_size", "depth", "heads", "mlp_size", "patch_size"):
            _require(_is_int(getattr(self, name)) and getattr(self, name) >= 1, name, self, "a whole number >= 1")
        _require(_is_int(self.registers) and self.registers >= 0, "registers", self, "a whole number >= 0")
        for name in ("gated_mlp", "query_value_bias", "camera_token", "activation_checkpointing"):
            _require(isinstance(getattr(self, name), bool), name, self, "true or false")
        _require(self.attention in ("causal", "bidirectional"), "attention", self, '"causal" or "bidirectional"')
        _require(self.rope in ("image", "rotary"), "rope", self, '"image" or "rotary"')
        _require(_is_real(self.rope_base) and self.rope_base > 1, "rope_base", self, "a number > 1")
        _require(_is_real(self.rope_jitter) and self.rope_jitter >= 1, "rope_jitter", self, "a number >= 1")
        _require(_is_real(self.drop_path) and 0 <= self.drop_path < 1, "drop_path", self, "a number in [0, 1)")
        _require(_is_real(self.layer_norm_eps) and self.layer_norm_eps > 0, "layer_norm_eps", self, "a number > 0")
        _require(_is_real(self.layer_scale), "layer_scale", self, "a finite number")
        _require(self.fps is None or (_is_real(self.fps) and self.fps > 0), "fps", self, "a number > 0, or nothing")
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size: {self.hidden_size} is not a multiple of heads = {self.heads}")
        # "rotary" gives every fourth index of a quarter of the head to time, so a quarter must hold whole fours.
        multiple = 16 if self.rope == "rotary" else 4
        if self.head_dim % multiple:
            raise ValueError(
                f"heads: hidden_size / heads = {self.head_dim} must be a multiple of {multiple} "
                f'for rope = "{self.rope}"'
            )

    @property
    def is_image_model(self) -> bool:
        """Whether this is DINOv3 itself, which knows no time: it is meant to be shown one frame at a time."""
        return self.attention == "bidirectional" and self.rope == "image" and not self.camera_token

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.heads

    @property
    def prefix_tokens(self) -> int:
        """Tokens of a frame before its patches: CLS, camera (if any), registers."""
        return 1 + int(self.camera_token) + self.registers

    @property
    def slots(self) -> int:
        """Versions of the camera token and the registers: first frame and later frames, where order has a meaning."""
        return 2 if self.attention == "causal" else 1

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches (rows, columns) of a frame of ``height`` x ``width`` pixels. ValueError if they are not whole."""
        if height < 1 or width < 1 or height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"frames of {height} x {width} pixels: both sides must be multiples of patch_size = {self.patch_size}"
            )
        return height // self.patch_size, width // self.patch_size

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Tokens of one frame of ``height`` x ``width`` pixels, prefix tokens included."""
        rows, columns = self.grid(height, width)
        return self.prefix_tokens + rows * columns

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; ``BackboneConfig(**fields)`` gives the config back."""
        return dataclasses.asdict(self)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _require(good: bool, name: str, config: BackboneConfig, allowed: str) -> None:
    if not good:
        raise ValueError(f"{name}: found {getattr(config, name)!r}, allowed is {allowed}")


#: DINOv3's sizes as streaming backbones (causal, three-dimensional positions, camera token). Weights of the image
#: models load into them: see :func:`interlace.backbone.load`.
PRESETS: dict[str, BackboneConfig] = {
    "dinov3_vits16": BackboneConfig(hidden_size=384, depth=12, heads=6, mlp_size=1536),
    "dinov3_vits16plus": BackboneConfig(hidden_size=384, depth=12, heads=6, mlp_size=1536, gated_mlp=True),
    "dinov3_vitb16": BackboneConfig(hidden_size=768, depth=12, heads=12, mlp_size=3072),
    "dinov3_vitl16": BackboneConfig(hidden_size=1024, depth=24, heads=16, mlp_size=4096),
    "dinov3_vith16plus": BackboneConfig(hidden_size=1280, depth=32, heads=20, mlp_size=5120, gated_mlp=True),
    "dinov3_vit7b16": BackboneConfig(
        hidden_size=4096, depth=40, heads=32, mlp_size=8192, gated_mlp=True, query_value_bias=False
    ),
}
