"""Audio decoders of torchcodec and `datasets`."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

__all__ = ["declared_duration", "decode_start", "is_decoder"]


def is_decoder(sample: Any) -> bool:
    """Return True for an object that decodes a recording."""
    return hasattr(sample, "get_all_samples")


def declared_duration(decoder: Any) -> float | None:
    """Return the duration in seconds from a decoder's header; None if it gives none."""
    metadata = getattr(decoder, "metadata", None)
    duration = getattr(metadata, "duration_seconds_from_header", None)
    return float(duration) if isinstance(duration, Real) else None


def decode_start(decoder: Any, seconds: float) -> Any:
    """Return the samples of the first seconds, or all if a decoder cannot read less.

    A header may be silent or wrong about the length, and a small file may last for hours.
    """
    if math.isfinite(seconds) and hasattr(decoder, "get_samples_played_in_range"):
        return decoder.get_samples_played_in_range(0, seconds)
    return decoder.get_all_samples()
