"""The configuration of an exported backbone, in transformers' form."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from ..config import BackboneConfig


class InterlaceConfig(PretrainedConfig):
    """``interlace``: the fields of :class:`BackboneConfig`.

    ``heads``: name of the heads that were exported along -> their class. ``licence``: that of the weights.
    """

    model_type = "interlace"

    def __init__(
        self,
        interlace: dict[str, Any] | None = None,
        heads: dict[str, str] | None = None,
        licence: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.interlace = interlace
        self.heads = heads or {}
        self.licence = licence
        super().__init__(**kwargs)

    def backbone(self) -> BackboneConfig:
        """The backbone's own configuration. Raises ValueError where there is none, or one that no backbone can have."""
        if self.interlace is None:
            raise ValueError("config.json: no 'interlace' object with the backbone's fields")
        return BackboneConfig(**self.interlace)

    @property
    def hidden_size(self) -> int:
        """Channels of every token."""
        return self.backbone().hidden_size

    @property
    def patch_size(self) -> int:
        """Pixels of a patch's side."""
        return self.backbone().patch_size

    @property
    def num_hidden_layers(self) -> int:
        """Blocks."""
        return self.backbone().depth

    @property
    def num_attention_heads(self) -> int:
        """Heads of a block."""
        return self.backbone().heads

    @property
    def fps(self) -> float | None:
        """Frame units of time in a second, where the backbone says so."""
        return self.backbone().fps
