"""One row as bytes, with a header and a checksum and without pickle."""

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
    """Return a row as bytes.

    Parameters
    ----------
    row : ndarray of shape (n_features,), float32
        Row to encode.
    owner : bytes
        Namespace and key of the row. They are part of the checksum, so that a row in the wrong place is detected.

    Returns
    -------
    bytes
        Header of 16 bytes, then four bytes per number, little-endian.
    """
    values = np.ascontiguousarray(row, dtype=_FLOAT32).tobytes()
    return _HEADER.pack(_MAGIC, len(row), _checksum(owner, values)) + values


def decode_row(stored: object, owner: bytes) -> np.ndarray | None:
    """Return the row, or None if `encode_row` did not make these bytes for that owner.

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
    """Return the owner of a row for `encode_row`, from its namespace and key."""
    return (namespace.encode() + key)[-64:]
