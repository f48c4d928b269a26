"""What the benchmarks share: works and ways, goals, the machine and its limits, and how results are shown."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "RESULTS",
    "Goal",
    "Way",
    "Work",
    "document",
    "machine",
    "matmul_peak",
    "print_table",
    "write",
]

RESULTS = Path(__file__).parent / "results"

#: Instruction sets that decide how fast a matrix multiplication can be.
_INSTRUCTION_SETS = (
    "avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_fp16",
    "neon", "asimd", "sve", "sve2", "bf16", "i8mm", "sme",
)  # fmt: skip
_BF16_UNITS = {"avx512_bf16", "amx_bf16", "bf16"}

Run = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Way:
    """One way to do a work.

    Parameters
    ----------
    name : str
        What the tables call it.
    build : callable
        Takes the work, loads everything, and returns a function that does it once and returns its rows.
    precision : {"float32", "bfloat16", "auto"}
        Whose peak its speed is compared with; "auto" is held to the higher one.
    comparable : bool
        Whether its rows mean the same as those of the work's reference.
    """

    name: str
    build: Callable[[Work], Run]
    precision: str = "float32"
    comparable: bool = True


@dataclass(frozen=True)
class Work:
    """Samples to embed, and the ways to do it.

    Parameters
    ----------
    name : str
        What the tables call it.
    samples : sequence
        Texts or paths, all different.
    backbone : Path
        Directory that all ways load.
    flops : float
        Floating-point operations that embedding the samples takes when nothing is padded.
    ways : tuple of Way
        The first is the reference of ratios and of cosines.
    """

    name: str
    samples: Sequence[Any]
    backbone: Path
    flops: float
    ways: tuple[Way, ...]


@dataclass(frozen=True)
class Goal:
    """Row of the table in benchmarks/README.md.

    Parameters
    ----------
    work, against : str
        Work that was measured, and what it is compared with.
    value : callable
        Takes the benchmark's JSON document; raises LookupError where that has not been measured.
    bound : float or None
        Value to reach. None is for rows that have no goal.
    unit : str
        Unit, written behind both numbers.
    at_most : bool
        True if less is better.
    digits : int
        Number of decimals shown.
    share : callable, default=None
        Takes the document; returns the part of the machine's measured peak that was reached.
    """

    work: str
    against: str
    value: Callable[[Mapping[str, Any]], float]
    bound: float | None = None
    unit: str = "x"
    at_most: bool = False
    digits: int = 1
    share: Callable[[Mapping[str, Any]], float] | None = None

    def met(self, value: float) -> bool:
        """Return True if the value reaches the goal, or if there is no goal."""
        if self.bound is None:
            return True
        return value <= self.bound if self.at_most else value >= self.bound


# -- the machine ------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """The machine by its features."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    instruction_sets = [name for name in _INSTRUCTION_SETS if capabilities.get(name)]
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "architecture": capabilities.get("architecture"),
        "instruction_sets": instruction_sets,
        "bf16_units": bool(_BF16_UNITS & set(instruction_sets)),
        "torch": torch.__version__.partition("+")[0],
    }


def matmul_peak(size: int = 2048, duration: float = 1.0) -> dict[str, float]:
    """GFLOP/s of the fastest square matrix multiplication within so many seconds, for each precision.

    By torch's own library and by oneDNN, whichever is faster.
    """
    import torch

    from skembed.backbones.accelerate.linear import multiply_by_onednn

    peaks = {}
    for name in ("float32", "bfloat16"):
        dtype = getattr(torch, name)
        plain = torch.nn.Linear(size, size, bias=False).to(dtype).requires_grad_(False)
        fast = torch.nn.Linear(size, size, bias=False).to(dtype).requires_grad_(False)
        multiply_by_onednn(fast)
        rows, times = torch.randn(size, size).to(dtype), []
        while sum(times) < duration:
            for layer in (plain, fast):
                start = time.perf_counter()
                layer(rows)
                times.append(time.perf_counter() - start)
        peaks[name] = 2 * size**3 / min(times) / 1e9
    return peaks


# -- results ----------------------------------------------------------------------------------------------


def document(benchmark: str, **content) -> dict[str, Any]:
    """What a benchmark writes: its content, when, and on what machine.

    With the peak of its products, where that is not known: processors with the same features differ in it.
    """
    return {
        "benchmark": benchmark,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        **({} if "peak_gflops" in content else {"peak_gflops": matmul_peak()}),
        **content,
    }


def write(results: Mapping[str, Any], path: Path) -> None:
    """Write the document, and end standard output with it in one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results))


def print_table(title: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as aligned columns; the first column is text."""
    rows = [{key: _shown(value) for key, value in row.items()} for row in rows]
    print(f"\n{title}")
    if not rows:
        return
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    first = next(iter(widths))
    for row in ({key: key for key in widths}, *rows):
        print(
            "  ".join(row[key].ljust(width) if key == first else row[key].rjust(width) for key, width in widths.items())
        )


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
