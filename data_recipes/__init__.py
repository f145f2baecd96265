"""On what the backbone is trained: recipes, sources, shards, order and mixing."""

from .randomness import generator
from .sample import FIELDS, Sample, Text

__all__ = ["FIELDS", "Sample", "Text", "generator"]
