"""Where and in what precision a network runs, and how to tell that memory ran out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["cpu_features", "is_out_of_memory", "move", "resolve_device", "resolve_precision"]

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

#: What backends say when memory ran out without raising torch.OutOfMemoryError.
_OUT_OF_MEMORY = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate",
    "DefaultCPUAllocator: not enough memory",
)


def resolve_device(device: str) -> torch.device:
    """The device of that name; "auto" takes CUDA, XPU, MPS or the CPU, whichever is there first.

    Raises
    ------
    ValueError
        If the name is no device, or one that this machine lacks.
    """
    accelerators: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "xpu": torch.xpu.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if device == "auto":
        return torch.device(next((name for name, here in accelerators.items() if here()), "cpu"))
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f'device={device!r} is no device. Use "auto", "cpu", "cuda", "cuda:1", "mps" or "xpu".'
        ) from error
    here = accelerators.get(resolved.type)
    if here is not None and not here():
        raise ValueError(f'device={device!r} is not available on this machine. Use device="auto" or "cpu".')
    return resolved


def resolve_precision(precision: str, device: torch.device, *, keeps_in_half: bool = True) -> torch.dtype:
    """The dtype of the weights.

    "auto" is bfloat16 on GPUs and CPUs that compute faster in it, float16 on older GPUs, and float32 elsewhere.
    On a CPU that means Intel's matrix units (AMX) or AVX-512 with bfloat16 products, and a network that
    `keeps_in_half`; float16 is slow on all of them.
    """
    if precision != "auto":
        return _PRECISIONS[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and keeps_in_half and _multiplies_bfloat16():
        return torch.bfloat16
    return torch.float32


def cpu_features() -> Mapping[str, Any]:
    """What torch knows of this processor's instructions, by its names for them; nothing where it cannot tell."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


@functools.cache
def _multiplies_bfloat16() -> bool:
    found = cpu_features()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


def move(batch: dict[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A batch on the device, its floating tensors in the dtype of the weights."""
    if device.type == "cuda":
        # From pinned memory the copy runs beside the computation of the batch before.
        batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
    return {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None, non_blocking=device.type == "cuda")
        for name, tensor in batch.items()
    }


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any backend."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _OUT_OF_MEMORY)
