"""Settings for the whole process, so that a user need not hand them through every estimator."""

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
    """The settings in force.

    Returns
    -------
    dict
        "cache": what an embedder with ``cache="auto"`` uses: "memory", a directory, an `EmbeddingCache`, or None.

    Examples
    --------
    >>> from skembed import config_context, get_config
    >>> with config_context(cache=None):
    ...     get_config()
    {'cache': None}
    """
    return {"cache": _settings["cache"] if "cache" in _settings else _from_environment()}


def set_config(*, cache: Any = _UNSET) -> None:
    """Change settings for this process and for processes that it starts from now on.

    Workers of joblib that run already do not notice; set it before the first search with ``n_jobs``, or in the
    environment variable SKEMBED_CACHE ("memory", "none" or a directory; empty is as unset).

    Parameters
    ----------
    cache : "memory", str, PathLike, EmbeddingCache or None
        What an embedder with ``cache="auto"`` uses. "memory" is the default: bounded, for this process. A path is
        a directory that processes and runs share.
    """
    if cache is _UNSET:
        return
    if not (cache is None or isinstance(cache, (str, os.PathLike, EmbeddingCache))):
        raise TypeError(f'cache={cache!r} is no cache. Use "memory", a directory, an EmbeddingCache, or None.')
    check_path(cache, "cache")
    _settings["cache"] = cache
    os.environ[_VARIABLE] = _for_environment(cache)


@contextmanager
def config_context(*, cache: Any = _UNSET) -> Iterator[None]:
    """`set_config` for a while. It holds for all threads of the process.

    Parameters
    ----------
    cache
        See `set_config`.
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
