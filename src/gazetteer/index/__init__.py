"""The index: exact search over sharded embeddings, and its files."""

from gazetteer.index.search import ShardedIndex
from gazetteer.index.shards import shard_range
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
    "IndexIdentity",
    "Manifest",
    "ShardedIndex",
    "identity_mismatches",
    "load_rows",
    "read_manifest",
    "save_index",
    "shard_range",
]
