"""Vision-language alignment with a small language decoder."""

from .options import BlindOptions, CaptioningOptions, DecoderShape
from .task import Captioning

__all__ = ["BlindOptions", "Captioning", "CaptioningOptions", "DecoderShape"]
