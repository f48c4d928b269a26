"""Allocator settings that keep memory in the process if it is needed again at once.

A network on a processor asks for the same few megabytes at each layer. glibc hands such blocks back to the system as
soon as they are free, and the system clears every page of them before it gives them out again: measured on two cores,
that was a fifth of the time of MiniLM in bfloat16 on texts of all lengths, and of EfficientNet-Lite0. torch has no
allocator of its own for processors, and what it may be given instead has to be there before Python starts.
"""

from __future__ import annotations

import functools
import sys

import torch

__all__ = ["LARGEST_KEPT", "keep_freed_memory"]

#: Bytes of the largest block that is kept: just below the 32 MiB beyond which glibc learns nothing from one.
LARGEST_KEPT = 31 * 2**20


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep up to 62 MiB of free memory, and serve blocks of up to 31 MiB.

    Done as glibc itself learns it, whoever frees such a block: one that is larger than its threshold becomes the
    threshold when it is freed, and twice its size what may stay free [1]_. Nothing is written to the block, so that it
    takes no memory. Thresholds that were set by the environment stay; elsewhere than on Linux nothing happens.

    References
    ----------
    .. [1] ``mallopt(3)``, on the dynamic threshold of ``M_MMAP_THRESHOLD``.
    """
    if sys.platform == "linux":
        torch.empty(LARGEST_KEPT, dtype=torch.uint8)
