"""On what the backbone is trained: recipes, sources, shards, order and mixing."""

from .media import DataError
from .randomness import generator
from .sample import FIELDS, Episode, Sample, Text
from .shards import SampleWriter, ShardReader

__all__ = ["FIELDS", "DataError", "Episode", "Sample", "SampleWriter", "ShardReader", "Text", "generator"]
