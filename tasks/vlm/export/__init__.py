"""A vision-language model as a Hugging Face folder that needs torch, transformers, safetensors and Pillow."""

from .folder import write_vlm

__all__ = ["write_vlm"]
