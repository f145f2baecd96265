"""An exported vision-language model: ``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.generation.utils import GenerationMixin

from interlace.backbone.export.strictly_loaded import StrictlyLoaded
from interlace.backbone.model import Backbone

from ..chat import VISUAL
from ..sight import Size, look
from .configuration_interlace_vlm import InterlaceVlmConfig


class InterlaceVlm(StrictlyLoaded, PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A language model that sees images and videos through a frozen backbone.

    Inputs are those that the processor makes: ``input_ids`` [B, L] with -1 where a visual token goes,
    ``attention_mask`` [B, L], ``pixel_values`` [N, 3, size, size] uint8 of all samples' views one after another,
    ``view_counts`` [B] how many of them are each sample's, and ``image_sizes`` [B, 2] (height, width) of an image, or
    zeros of a video or of nothing.
    """

    config_class = InterlaceVlmConfig
    main_input_name = "input_ids"

    def __init__(self, config: InterlaceVlmConfig) -> None:
        super().__init__(config)
        seen = config.backbone()
        self.sight = config.how_it_sees()
        self.backbone = Backbone(seen)
        self.llm: Any = AutoModelForCausalLM.from_config(config.text_config)
        width = self.llm.get_input_embeddings().weight.shape[1]
        self.projector = nn.Sequential(nn.Linear(seen.hidden_size, width), nn.GELU(), nn.Linear(width, width))
        self.newline = nn.Parameter(torch.zeros(width))
        self.post_init()

    def get_input_embeddings(self) -> Any:
        """The language model's."""
        return self.llm.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """The language model's."""
        return self.llm.get_output_embeddings()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        view_counts: Tensor | None = None,
        image_sizes: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The language model's own output, its ``logits`` [B, L, vocabulary] among it.

        Raises ValueError where visual tokens and their places differ in number.
        """
        embedded = self.embed(input_ids, pixel_values, view_counts, image_sizes)
        return self.llm(inputs_embeds=embedded, attention_mask=attention_mask, **kwargs)

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        view_counts: Tensor | None = None,
        image_sizes: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Answers' tokens [B, n], without the prompts; greedy unless asked otherwise.

        ``kwargs`` are those of any language model's ``generate``.
        """
        embedded = self.embed(input_ids, pixel_values, view_counts, image_sizes)
        given = {"generation_config": self.generation_config, **kwargs}
        return self.llm.generate(inputs_embeds=embedded, attention_mask=attention_mask, **given)

    def embed(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        view_counts: Tensor | None = None,
        image_sizes: Tensor | None = None,
    ) -> Tensor:
        """Inputs of the language model [B, L, E], visual tokens in their places."""
        embedded = self.llm.get_input_embeddings()(input_ids.clamp(min=0))
        places = input_ids == VISUAL
        visual = embedded.new_zeros(0, embedded.shape[-1])
        if pixel_values is not None and view_counts is not None and image_sizes is not None:
            sizes = [(int(height), int(width)) if height else None for height, width in image_sizes.tolist()]
            visual = torch.cat(self.see(pixel_values.split(view_counts.tolist()), sizes)).to(embedded.dtype)
        if (count := int(places.sum())) != len(visual):
            raise ValueError(
                f"input_ids: {count} places for {len(visual)} visual tokens; give all that the processor made"
            )
        return embedded.masked_scatter(places[..., None], visual)

    def see(self, views: Sequence[Tensor], sizes: Sequence[Size]) -> list[Tensor]:
        """Visual tokens [V, E] of each sample's views [n, 3, size, size] uint8."""
        with torch.no_grad():  # the backbone is frozen
            patches = look(self.backbone, views, sizes)
        flat = torch.cat([*(each.flatten(0, 2) for each in patches), patches[0].new_zeros(1, patches[0].shape[-1])])
        *found, _ = self.projector(flat).split([*(each[..., 0].numel() for each in patches), 1])
        grids = [tokens.unflatten(0, each.shape[:3]) for tokens, each in zip(found, patches, strict=True)]
        return [self.sight.tokens(grid, size, self.newline) for grid, size in zip(grids, sizes, strict=True)]
