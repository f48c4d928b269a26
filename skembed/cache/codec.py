"""One row as bytes: what it is, whether it is whole, and its numbers. No pickle."""

from __future__ import annotations

import struct
from hashlib import blake2b

import numpy as np

__all__ = ["decode_row", "encode_row", "owner_of"]

_HEADER = struct.Struct("<4sI8s")  # magic and version, number of values, checksum
_MAGIC = b"SKE1"
_FLOAT32 = np.dtype("<f4")


def _checksum(owner: bytes, values: bytes) -> bytes:
    return blake2b(values, digest_size=8, key=owner[:64]).digest()


def encode_row(row: np.ndarray, owner: bytes) -> bytes:
    """A row as bytes.

    Parameters
    ----------
    row : ndarray of shape (n_features,), float32
        Numbers.
    owner : bytes
        What the row is stored under; part of the checksum, so that a row in the wrong place is noticed.

    Returns
    -------
    bytes
        16 bytes of header and four a number, little-endian.
    """
    values = np.ascontiguousarray(row, dtype=_FLOAT32).tobytes()
    return _HEADER.pack(_MAGIC, len(row), _checksum(owner, values)) + values


def decode_row(stored: object, owner: bytes) -> np.ndarray | None:
    """The row, or None where these are not the bytes that `encode_row` made for that owner.

    Examples
    --------
    >>> stored = encode_row(np.array([1.0, 2.0], dtype=np.float32), b"mine")
    >>> decode_row(stored, b"mine"), decode_row(stored, b"yours"), decode_row(stored[:-1], b"mine")
    (array([1., 2.], dtype=float32), None, None)
    """
    if not isinstance(stored, bytes) or len(stored) < _HEADER.size:
        return None
    magic, n_values, checksum = _HEADER.unpack_from(stored)
    values = stored[_HEADER.size :]
    if magic != _MAGIC or len(values) != n_values * _FLOAT32.itemsize or checksum != _checksum(owner, values):
        return None
    return np.frombuffer(values, dtype=_FLOAT32).astype(np.float32, copy=False)


def owner_of(namespace: str, key: bytes) -> bytes:
    """What a row is stored under, as `encode_row` takes it."""
    return (namespace.encode() + key)[-64:]
