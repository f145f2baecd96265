"""A vision-language model on a frozen backbone."""

from .options import VlmOptions
from .task import Vlm

__all__ = ["Vlm", "VlmOptions"]
