"""The model ``interlace`` of lmms-eval: its entry point. lmms-eval comes with the extra ``[vlm]``."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """What lmms-eval registers: the model's name, and the class that it makes when the model is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="interlace", simple_class_path=f"{__package__}.lmms_model.InterlaceModel")
