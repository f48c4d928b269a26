"""Caches of rows, found by the content of their samples, to embed each sample once.

embedding_cache.py   `EmbeddingCache`, the public class, and the caches that parameters name
memory.py            rows in memory, least recently used first out
sqlite.py            rows in an SQLite file, for local disks
shards.py            rows in immutable files, for network filesystems; filesystem.py tells the two apart
codec.py             one row as bytes with a checksum
open_files.py        bound on the files that are open at a time
"""

from skembed.cache.embedding_cache import CacheInfo, EmbeddingCache, resolve_cache

__all__ = ["CacheInfo", "EmbeddingCache", "resolve_cache"]
