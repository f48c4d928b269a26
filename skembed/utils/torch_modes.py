"""Shield skembed's computations from torch modes that the calling code switched on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["standard_modes"]

_DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def standard_modes() -> Iterator[None]:
    """Run with torch's default modes, such as gradients and float32, and without autocast.

    `precision` and `device` alone decide how a network is computed. A surrounding ``torch.autocast`` would store rows
    of another precision in the cache, and a surrounding ``torch.no_grad`` would make training impossible.

    Examples
    --------
    >>> with torch.no_grad(), standard_modes():
    ...     torch.is_grad_enabled()
    True
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device_type in _DEVICE_TYPES:
            if torch.is_autocast_enabled(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        if torch.get_default_dtype() != torch.float32:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        # A device context slows every call of torch, so it is entered only where another default is set.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
