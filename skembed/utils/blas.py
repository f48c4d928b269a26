"""Single-threaded products of NumPy and SciPy, which are faster for small matrices.

The threads of a BLAS wait for their next product by spinning, for a tenth of a second and on all cores: steps of torch
in that time take half as long again, on two cores.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import ThreadpoolController

__all__ = ["SMALL", "SMALL_PRODUCT", "one_blas_thread"]

#: Matrices of fewer numbers are small, also to be decomposed; so are products of fewer multiplications.
SMALL, SMALL_PRODUCT = 1_000_000, 20_000_000


#: Whoever leaves puts back what was there before: of two Python threads, the second would put back the first's limit.
_turn = threading.RLock()


@functools.cache
def _controller() -> ThreadpoolController:
    # To look for libraries takes milliseconds, as long as a small probe.
    import scipy.linalg  # noqa: F401  its library is another than NumPy's

    return ThreadpoolController().select(user_api="blas")


@contextmanager
def one_blas_thread(*, when: bool = True) -> Iterator[None]:
    """Run the products of NumPy and SciPy on one thread each.

    With most libraries the limit holds for the whole process. One Python thread sets it at a time, and others run
    under it meanwhile.

    Parameters
    ----------
    when : bool
        True if products are small. If False, nothing is limited.

    Examples
    --------
    >>> import numpy as np
    >>> with one_blas_thread():
    ...     (np.ones((3, 4)) @ np.ones(4)).tolist()
    [4.0, 4.0, 4.0]
    """
    if not when or not _turn.acquire(blocking=False):
        yield
        return
    try:
        with _controller().limit(limits=1):
            yield
    finally:
        _turn.release()
