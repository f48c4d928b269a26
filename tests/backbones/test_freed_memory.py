"""Freed memory stays with the process once a network was loaded."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from skembed.backbones.accelerate.memory import LARGEST_KEPT

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="what is learned here is glibc's own"
)

_MEASURE = """
import ctypes

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

allocator = ctypes.CDLL(None)
allocator.mallinfo2.restype = Info

def from_the_system(n_bytes):
    before = allocator.mallinfo2().hblkhd
    block = torch.empty(n_bytes, dtype=torch.uint8)
    return (allocator.mallinfo2().hblkhd - before) >= n_bytes
"""

_EMBED = """
from skembed.testing import ArrayEmbedder
ArrayEmbedder(device="cpu", cache=None).fit_transform([[0.0, 1.0], [1.0, 0.0]])
"""

_CALL = """
from skembed.backbones.accelerate.memory import keep_freed_memory
keep_freed_memory()
"""


def _fresh(code: str, sizes: list[int], **environment: str) -> list[str]:
    """Where blocks of these sizes come from after some code: "True" for what the system has to hand out."""
    script = f"import torch\n{_MEASURE}\n{code}\nprint(*map(from_the_system, {sizes}))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_blocks_stay_once_a_network_was_loaded():
    # Each size once: from a block that is freed glibc would learn by itself.
    sizes = [LARGEST_KEPT - 2**16, 100 * 2**20]
    assert _fresh(_EMBED, sizes) == ["False", "True"]


def test_what_the_environment_says_stays():
    assert _fresh(_CALL, [LARGEST_KEPT - 2**16], MALLOC_TRIM_THRESHOLD_="131072") == ["True"]
