"""Settings of the whole process, so that a user need not pass them to every estimator."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from skembed.cache import EmbeddingCache
from skembed.utils.parameters import check_path

__all__ = ["config_context", "get_config", "set_config"]

_VARIABLE = "SKEMBED_CACHE"
_UNSET: Any = object()
_settings: dict[str, Any] = {}


def get_config() -> dict[str, Any]:
    """Return the current settings.

    Returns
    -------
    dict
        One entry, "cache": the cache of embedders with ``cache="auto"``, which is "memory", a directory, an
        `EmbeddingCache`, or None for no cache.

    See Also
    --------
    set_config : Change the settings for the rest of the process.
    config_context : Change the settings inside a ``with`` block.

    Examples
    --------
    >>> from skembed import config_context, get_config
    >>> with config_context(cache=None):
    ...     get_config()
    {'cache': None}
    """
    return {"cache": _settings["cache"] if "cache" in _settings else _from_environment()}


def set_config(*, cache: Any = _UNSET) -> None:
    """Change settings for this process and for processes that it starts afterwards.

    Parameters
    ----------
    cache : "memory", str, PathLike, EmbeddingCache or None
        Cache of all embedders with ``cache="auto"``. "memory", the default, keeps up to 512 MiB of rows until the
        process ends. Choose a directory to share rows between processes and to find them again in the next run, an
        `EmbeddingCache` to set another limit of memory, and None to compute every row each time. Without this argument
        nothing changes.

    Raises
    ------
    TypeError
        If `cache` is none of these.
    ValueError
        If `cache` is an empty path.

    See Also
    --------
    config_context : Change the settings inside a ``with`` block only.
    EmbeddingCache : A cache with a limit of its own, and with counts of hits and misses.

    Notes
    -----
    joblib workers that are already running keep the old settings. Call this before the first search with ``n_jobs``,
    or set the environment variable SKEMBED_CACHE to "memory", "none" or a directory (empty counts as unset).

    Examples
    --------
    >>> from skembed import config_context, get_config, set_config
    >>> with config_context():  # restores the settings at its end
    ...     set_config(cache=None)
    ...     get_config()
    {'cache': None}
    """
    if cache is _UNSET:
        return
    if not (cache is None or isinstance(cache, (str, os.PathLike, EmbeddingCache))):
        raise TypeError(f'cache={cache!r} is not a cache. Use "memory", a directory, an EmbeddingCache, or None.')
    check_path(cache, "cache")
    _settings["cache"] = cache
    os.environ[_VARIABLE] = _for_environment(cache)


@contextmanager
def config_context(*, cache: Any = _UNSET) -> Iterator[None]:
    """Change settings inside a ``with`` block, for all threads of the process.

    Parameters
    ----------
    cache : "memory", str, PathLike, EmbeddingCache or None
        Cache of embedders with ``cache="auto"``, as in `set_config`. The former setting returns with the end of the
        block.

    See Also
    --------
    set_config : Change the settings for the rest of the process.

    Examples
    --------
    >>> from skembed import TextEmbedder, config_context
    >>> with config_context(cache=None):  # every row is computed, as for timing
    ...     X = TextEmbedder(device="cpu").fit_transform(["a parcel", "a parcel"])
    >>> X.shape
    (2, 384)
    """
    settings, variable = dict(_settings), os.environ.get(_VARIABLE)
    set_config(cache=cache)
    try:
        yield
    finally:
        _settings.clear()
        _settings.update(settings)
        if variable is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = variable


def _from_environment() -> str | None:
    value = os.environ.get(_VARIABLE, "").strip() or "memory"
    return None if value.lower() == "none" else value


def _for_environment(cache: Any) -> str:
    if isinstance(cache, EmbeddingCache):
        return "memory" if cache.location is None else str(cache.location)
    return "none" if cache is None else os.fspath(cache) if cache == "memory" else os.path.abspath(os.fspath(cache))
