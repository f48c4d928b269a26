"""Audio decoders as torchcodec and `datasets` have them."""

from __future__ import annotations

from numbers import Real
from typing import Any

__all__ = ["declared_duration", "is_decoder"]


def is_decoder(sample: Any) -> bool:
    """Return True for an object that decodes a recording."""
    return hasattr(sample, "get_all_samples")


def declared_duration(decoder: Any) -> float | None:
    """Return the seconds that a decoder read in its source's header; None for a decoder that cannot tell."""
    metadata = getattr(decoder, "metadata", None)
    duration = getattr(metadata, "duration_seconds_from_header", None)
    can_seek = hasattr(decoder, "get_samples_played_in_range")
    return float(duration) if can_seek and isinstance(duration, Real) else None
