"""The index: exact search over sharded embeddings, and its files."""

from gazetteer.index.flat import FlatShard
from gazetteer.index.search import ShardedIndex
from gazetteer.index.shards import Shard, ShardBuilder, shard_range
from gazetteer.index.storage import (
    EncoderIdentity,
    IndexIdentity,
    Manifest,
    identity_mismatches,
    load_rows,
    read_manifest,
    save_index,
)

__all__ = [
    "EncoderIdentity",
    "FlatShard",
    "IndexIdentity",
    "Manifest",
    "Shard",
    "ShardBuilder",
    "ShardedIndex",
    "identity_mismatches",
    "load_rows",
    "read_manifest",
    "save_index",
    "shard_range",
]
