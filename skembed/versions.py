"""Versions of everything that a result depends on, for bug reports."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

__all__ = ["show_versions"]

_PACKAGES = (
    "scikit-learn", "numpy", "scipy", "torch", "torchvision", "torchaudio", "timm", "transformers", "tokenizers",
    "huggingface_hub", "safetensors", "peft", "openvino", "Pillow", "soundfile", "soxr", "narwhals", "pandas", "polars",
    "matplotlib", "joblib", "threadpoolctl",
)  # fmt: skip


def show_versions() -> None:
    """Print the versions of all libraries that results depend on, and the accelerators.

    Paste the output into bug reports.

    Examples
    --------
    >>> from skembed import show_versions
    >>> show_versions()  # doctest: +ELLIPSIS
    System
        python: ...
    """
    import skembed

    print("System")
    _print_rows({"python": sys.version.split()[0], "executable": sys.executable, "machine": platform.platform()})
    print("\nPackages")
    _print_rows({"skembed": skembed.__version__, **{name: _version(name) for name in _PACKAGES}})
    print("\nDevices")
    _print_rows(_devices())


def _print_rows(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:>{max(width, 10)}}: {value}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, str]:
    import torch

    count = torch.cuda.device_count()
    names = [torch.cuda.get_device_name(i) for i in range(count)]
    return {
        "cpu threads": str(torch.get_num_threads()),
        "cuda": ", ".join(names) or "none",
        "mps": "yes" if torch.backends.mps.is_available() else "no",
    }
