"""One thread for small products of NumPy's and SciPy's, which are slower on several.

The threads of a BLAS wait for their next product by spinning, for a tenth of a second and on all cores: steps of torch
in that time take half as long again, on two cores.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext

from threadpoolctl import ThreadpoolController

__all__ = ["SMALL", "one_blas_thread"]

#: Products and decompositions of matrices of fewer numbers are small.
SMALL = 1_000_000


@functools.cache
def _controller() -> ThreadpoolController:
    # To look for libraries takes milliseconds, as long as a small probe.
    import scipy.linalg  # noqa: F401  its library is another than NumPy's

    return ThreadpoolController()


def one_blas_thread(*, when: bool = True) -> AbstractContextManager:
    """Let NumPy's and SciPy's products run on one thread each.

    Parameters
    ----------
    when : bool
        Whether they are small; otherwise nothing is limited.

    Examples
    --------
    >>> import numpy as np
    >>> with one_blas_thread():
    ...     (np.ones((3, 4)) @ np.ones(4)).tolist()
    [4.0, 4.0, 4.0]
    """
    return _controller().limit(limits=1, user_api="blas") if when else nullcontext()
