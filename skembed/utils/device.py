"""Device and precision of a network, and recognition of errors of memory and devices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = [
    "cpu_features",
    "is_device_fault",
    "is_out_of_memory",
    "move",
    "resolve_device",
    "resolve_precision",
]

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

#: What backends say when memory ran out without raising torch.OutOfMemoryError.
_OUT_OF_MEMORY = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate",
    "DefaultCPUAllocator: not enough memory",
)

#: What backends say of a device that failed, and of tensors that are not all on one device.
_DEVICE_FAULTS = (
    "CUDA error",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "HIP error",
    "device-side assert",
    "on the same device",
    "on the expected device",
)


def resolve_device(device: str) -> torch.device:
    """Return the device of that name; "auto" takes the first of CUDA, XPU, MPS and CPU.

    Raises
    ------
    ValueError
        If torch does not know the name, or this machine does not have the device.
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
        raise ValueError(f'Unknown device {device!r}. Use "auto", "cpu", "cuda", "cuda:1", "mps" or "xpu".') from error
    here = accelerators.get(resolved.type, lambda: _computes_on(resolved))
    if not here():
        raise ValueError(f'device={device!r} is not available on this machine. Use device="auto" or "cpu".')
    n_devices = _count_devices(resolved.type)
    if n_devices is not None and resolved.index is not None and resolved.index >= n_devices:
        first, last = f'"{resolved.type}:0"', f'"{resolved.type}:{n_devices - 1}"'
        raise ValueError(
            f"device={device!r} is not available on this machine, which has {n_devices} {resolved.type} "
            f"device{'s' if n_devices > 1 else ''}. Use {first}{f' to {last}' if n_devices > 1 else ''}."
        )
    return resolved


def _count_devices(kind: str) -> int | None:
    """Return the number of accelerators of a kind; None for other kinds."""
    counts: dict[str, Callable[[], int]] = {
        "cuda": torch.cuda.device_count,
        "xpu": torch.xpu.device_count,
        "mps": lambda: 1,
    }
    return counts[kind]() if kind in counts else None


def _computes_on(device: torch.device) -> bool:
    """Return True if a device without a check of its own can hold tensors with values."""
    if device.type in ("cpu", "meta"):  # tensors on "meta" have no values
        return device.type == "cpu"
    try:
        torch.empty(1, device=device)
    # NotImplementedError, RuntimeError or what the library of the device raises.
    except Exception:
        return False
    return True


def resolve_precision(precision: str, device: torch.device, *, keeps_in_half: bool = True) -> torch.dtype:
    """Return the dtype of the weights.

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
    """Return the processor's features by torch's names; empty if torch cannot tell."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


@functools.cache
def _multiplies_bfloat16() -> bool:
    found = cpu_features()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


def move(batch: dict[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return a batch on the device, its floating tensors in the dtype of the weights."""
    if device.type == "cuda":
        # From pinned memory the copy runs beside the computation of the batch before.
        batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
    return {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None, non_blocking=device.type == "cuda")
        for name, tensor in batch.items()
    }


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an exception says that memory ran out, on any backend."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _OUT_OF_MEMORY)


def is_device_fault(error: BaseException) -> bool:
    """Return True if an exception says that a device failed or that devices differ.

    Memory that ran out is not meant; see `is_out_of_memory`.
    """
    if is_out_of_memory(error):
        return False
    if isinstance(error, getattr(torch, "AcceleratorError", ())):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _DEVICE_FAULTS)
