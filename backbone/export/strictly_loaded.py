"""What every exported model has in common: its weights are all there, or it is not loaded."""

from __future__ import annotations

from typing import Any

from torch import nn


class StrictlyLoaded:
    """Comes before ``PreTrainedModel`` among a model's bases."""

    _supports_sdpa = True
    _no_split_modules = ["Block"]  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing to do: modules draw their own first weights, and :meth:`from_pretrained` leaves none missing."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As of any model of transformers, but strict: ValueError, naming them, for weights missing or left over."""
        asked, source = kwargs.pop("output_loading_info", False), pretrained_model_name_or_path
        loaded: Any = super()
        model, report = loaded.from_pretrained(source, *args, output_loading_info=True, **kwargs)
        wrong = {key: sorted(report[f"{key}_keys"]) for key in ("missing", "unexpected") if report[f"{key}_keys"]}
        if wrong:
            told = "; ".join(f"{key}: {', '.join(names)}" for key, names in wrong.items())
            raise ValueError(f"{source}: weights do not fit the config: {told}")
        return (model, report) if asked else model
