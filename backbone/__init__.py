"""What is trained: a vision transformer over frames that streams."""

from .config import PRESETS, BackboneConfig
from .digest import NotFrozen
from .folder import LoadReport, load, load_as_published, load_with_report, save
from .frozen import FrozenBackbone
from .model import Backbone, Features
from .noise import BackboneNoise
from .preprocess import normalise
from .stream import Stream
from .weights import from_transformers, to_transformers

__all__ = [
    "PRESETS",
    "Backbone",
    "BackboneConfig",
    "BackboneNoise",
    "Features",
    "FrozenBackbone",
    "LoadReport",
    "NotFrozen",
    "Stream",
    "from_transformers",
    "load",
    "load_as_published",
    "load_with_report",
    "normalise",
    "save",
    "to_transformers",
]
