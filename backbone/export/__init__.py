"""A backbone as a Hugging Face folder that needs torch, transformers and safetensors, and no Interlace."""

from .folder import Heads, new_folder, write_model
from .sources import flatten

__all__ = ["Heads", "flatten", "new_folder", "write_model"]
