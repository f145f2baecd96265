"""The configuration of an exported vision-language model, in transformers' form."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from interlace.backbone.config import BackboneConfig

from ..sight import Sight


class InterlaceVlmConfig(PretrainedConfig):
    """``interlace``: the fields of :class:`BackboneConfig`. ``sight``: those of :class:`Sight`.

    ``text_config``: the language model's own. ``licence``: that of backbone and projector. ``llm_licence``: that of
    the language model.
    """

    model_type = "interlace_vlm"
    sub_configs = {"text_config": AutoConfig}  # type: ignore[dict-item]  # noqa: RUF012

    def __init__(
        self,
        interlace: dict[str, Any] | None = None,
        sight: dict[str, Any] | None = None,
        text_config: Any = None,
        licence: str | None = None,
        llm_licence: str | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(text_config, dict):
            fields = dict(text_config)
            text_config = CONFIG_MAPPING[fields.pop("model_type")](**fields)
        self.interlace = interlace
        self.sight = sight
        self.text_config = text_config
        self.licence = licence
        self.llm_licence = llm_licence
        super().__init__(**kwargs)

    def backbone(self) -> BackboneConfig:
        """The backbone's own configuration. Raises ValueError where there is none, or one that no backbone can have."""
        if self.interlace is None:
            raise ValueError("config.json: no 'interlace' object with the backbone's fields")
        return BackboneConfig(**self.interlace)

    def how_it_sees(self) -> Sight:
        """How images and videos are looked at. Raises ValueError where it is not said."""
        if self.sight is None:
            raise ValueError("config.json: no 'sight' object that says how images and videos are looked at")
        return sight_of(self.sight)


def sight_of(fields: dict[str, Any]) -> Sight:
    """A :class:`Sight` out of JSON, which has lists for tuples."""
    return Sight(**{**fields, "grids": tuple((rows, columns) for rows, columns in fields["grids"])})
