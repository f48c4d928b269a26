"""Temporary seeds of torch's random numbers, after which the user's state is restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the random numbers of the CPU and of one device.

    `torch.manual_seed` would seed all devices there are, and give a process without accelerators a list of calls to
    make, longer each time, should one appear.

    Parameters
    ----------
    seed : int
    device : torch.device

    Examples
    --------
    >>> before = torch.get_rng_state()
    >>> with seeded(0, torch.device("cpu")):
    ...     first = torch.rand(3)
    >>> with seeded(0, torch.device("cpu")):
    ...     bool((torch.rand(3) == first).all())
    True
    >>> bool((torch.get_rng_state() == before).all())
    True
    """
    accelerator = None if device.type == "cpu" else torch.get_device_module(device)
    state = torch.get_rng_state()
    other = None if accelerator is None else accelerator.get_rng_state(device)
    try:
        torch.default_generator.manual_seed(seed)
        if accelerator is not None:
            # Its own manual_seed is for the current device, which may be another.
            accelerator.set_rng_state(torch.Generator(device).manual_seed(seed).get_state(), device)
        yield
    finally:
        torch.set_rng_state(state)
        if accelerator is not None:
            accelerator.set_rng_state(other, device)
