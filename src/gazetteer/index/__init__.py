"""The index: exact search over sharded embeddings, its files, and a saved one as a library."""

from gazetteer.index.flat import FlatShard
from gazetteer.index.loading import load_rows
from gazetteer.index.manifest import (
    EncoderIdentity,
    IndexIdentity,
    Manifest,
    identity_mismatches,
    read_manifest,
)
from gazetteer.index.search import ShardedIndex
from gazetteer.index.searcher import Searcher, open_index
from gazetteer.index.shards import Shard, ShardBuilder, shard_range
from gazetteer.index.storage import save_index

__all__ = [
    "EncoderIdentity",
    "FlatShard",
    "IndexIdentity",
    "Manifest",
    "Searcher",
    "Shard",
    "ShardBuilder",
    "ShardedIndex",
    "identity_mismatches",
    "load_rows",
    "open_index",
    "read_manifest",
    "save_index",
    "shard_range",
]
