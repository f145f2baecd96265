"""On what the backbone is trained: recipes, sources, shards, order and mixing."""

from .media import DataError
from .randomness import generator
from .sample import FIELDS, Sample, Text
from .shards import SampleWriter, ShardReader

__all__ = ["FIELDS", "DataError", "Sample", "SampleWriter", "ShardReader", "Text", "generator"]
