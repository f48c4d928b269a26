"""Map samples in threads, and stop early when the results take too much memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import torch

from skembed.backbones.base import Item

__all__ = ["bounded_map", "count_bytes"]

#: Samples per thread that are begun before the first of them is taken.
_AHEAD_PER_THREAD = 2


def count_bytes(sample: Sequence[Item]) -> int:
    """Return the bytes of the arrays of a prepared sample."""
    values = (value for item in sample for value in item.data.values())
    return sum(value.nbytes for value in values if isinstance(value, (np.ndarray, torch.Tensor)))


def bounded_map(
    pool: Executor | None,
    function: Callable[[Any], Any],
    samples: Iterable[Any],
    *,
    n_bytes: Callable[[Any], int],
    limit: int,
) -> Iterator[Any]:
    """Yield the results of a function in order, and stop once they take so many bytes.

    Parameters
    ----------
    pool : Executor or None
        Threads that call the function; None calls it in the current thread.
    function : callable
        Function of one sample.
    samples : iterable
        Samples. Those behind the limit are left out, but samples that have started are finished and yielded.
    n_bytes : callable
        Function that returns the size of a result in bytes.
    limit : int
        Bytes of results from which on no more samples are started.
    """
    remaining = iter(samples)
    pending: deque[Future] = deque()
    room = 1 if pool is None else _AHEAD_PER_THREAD * torch.get_num_threads()
    total, more = 0, True
    try:
        while True:
            while more and total < limit and len(pending) < room:
                try:
                    sample = next(remaining)
                except StopIteration:
                    more = False
                    break
                pending.append(_begin(pool, function, sample))
            if not pending:
                return
            result = pending.popleft().result()
            total += n_bytes(result)
            yield result
    finally:
        for future in pending:
            future.cancel()


def _begin(pool: Executor | None, function: Callable[[Any], Any], sample: Any) -> Future:
    if pool is not None:
        return pool.submit(function, sample)
    future: Future = Future()
    future.set_result(function(sample))
    return future
