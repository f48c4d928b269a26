"""Every sample is embedded once: rows by what their samples contain."""

from skembed.cache.embedding_cache import CacheInfo, EmbeddingCache, resolve_cache

__all__ = ["CacheInfo", "EmbeddingCache", "resolve_cache"]
