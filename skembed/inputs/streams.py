"""File objects that users pass: streams, closed files, and files that fail in reading."""

from __future__ import annotations

import inspect
import io
import os
import threading
from typing import Any

from skembed.exceptions import DecodeError
from skembed.inputs.decode import reason

__all__ = ["CheckedFile", "as_seekable", "lock_of", "reading_error"]

#: Bytes of a stream that cannot seek, which is read into memory.
_MAX_STREAM_BYTES = 512 * 2**20
_BLOCK_BYTES = 2**20

#: Two threads must not read one file object at the same time. Objects that share a lock only wait for each other.
_LOCKS = tuple(threading.Lock() for _ in range(16))


def lock_of(sample: Any) -> threading.Lock:
    """Return the lock of an object, so that several threads can read the same sample."""
    return _LOCKS[id(sample) // 16 % len(_LOCKS)]


def as_seekable(file: Any) -> Any:
    """Return a binary file at its start that can seek.

    Parameters
    ----------
    file : file object
        One that can seek is returned itself. What is left of a stream that cannot, such as a pipe or the response of
        a server, is read into memory.

    Raises
    ------
    DecodeError
        If the file is closed, opened as text or for writing only, asynchronous, no file of bytes, a stream that was
        read before or has more than 512 MB, or if reading it fails.
    """
    _check_state(file)
    can_seek = _call(getattr(file, "seekable", lambda: hasattr(file, "seek")))
    if not can_seek:
        return _buffered(file)
    _call(file.seek, 0)
    _check_block(_call(file.read, 16))
    _call(file.seek, 0)
    return file


def _check_state(file: Any) -> None:
    name = type(file).__name__
    if getattr(file, "closed", False) is True:
        raise DecodeError(f"this {name} is closed. Open it again, or give its path or bytes.")
    if isinstance(file, io.TextIOBase):
        raise DecodeError(f"this {name} is opened as text. Open the file as bytes, with mode 'rb', or give its path.")
    if inspect.iscoroutinefunction(file.read):
        raise DecodeError(f"this {name} is read with await. Give its bytes: await sample.read().")
    readable = getattr(file, "readable", None)
    if callable(readable) and not _call(readable):
        raise DecodeError(f"this {name} is not open for reading. Open the file with mode 'rb', or give its path.")


def _check_block(block: Any) -> None:
    if isinstance(block, str):
        raise DecodeError("this file is opened as text. Open it as bytes, with mode 'rb', or give its path.")
    if not isinstance(block, (bytes, bytearray, memoryview)):
        raise DecodeError(
            f"reading this file returned {type(block).__name__} instead of bytes. Give a file that is opened with "
            "mode 'rb', or its path."
        )


def _buffered(file: Any) -> io.BytesIO:
    """Return what is left of a stream, in memory."""
    content = io.BytesIO()
    while True:
        block = _call(file.read, _BLOCK_BYTES)
        _check_block(block)
        if not block:
            break
        if content.write(block) and content.tell() > _MAX_STREAM_BYTES:
            raise DecodeError(
                f"this stream cannot seek, and has more than the {_MAX_STREAM_BYTES // 2**20} MB that are read into "
                "memory. Save it as a file, and give the path."
            )
    if not content.tell():
        raise DecodeError(
            "nothing is left in this stream, which can be read only once. Give a path or bytes for what is read again."
        )
    content.seek(0)
    return content


def _call(method: Any, *arguments: Any) -> Any:
    """Call a method of a user's file object."""
    try:
        return method(*arguments)
    except MemoryError:
        raise
    # The code of foreign file objects raises anything.
    except Exception as error:
        raise reading_error(error) from error


def reading_error(error: Exception) -> DecodeError:
    """Return the DecodeError for a file whose reading failed."""
    return DecodeError(
        f"reading the file failed with {type(error).__name__}: {reason(error)[:300]}. Check the disk or the "
        "connection, and try again."
    )


class CheckedFile:
    """File for libsndfile that keeps the exceptions of `read` and `seek`.

    libsndfile would take an exception for the end of the file.

    It has no name, since soundfile would prefer the ending of a name to what is in the file.

    Parameters
    ----------
    file : binary file object
        A file that can seek.

    Attributes
    ----------
    error : BaseException or None
        First exception that was raised in reading. From then on the file is at its end.
    """

    def __init__(self, file: Any):
        self._file = file
        self.error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, or fewer at the end of the file alone."""
        blocks: list[bytes] = []
        missing = size
        while block := self._guarded(b"", self._file.read, missing):
            blocks.append(block)
            missing -= len(block)
            if size < 0 or missing <= 0:
                break
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._guarded(0, self._file.tell)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position; ignore those before the start, which damaged recordings ask for."""
        before = 0
        if whence != os.SEEK_SET and offset < 0:
            before = self.tell() if whence == os.SEEK_CUR else self._guarded(0, self._file.seek, 0, os.SEEK_END)
        if before + offset < 0:
            return self.tell()
        return self._guarded(0, self._file.seek, offset, whence)

    def _guarded(self, otherwise: Any, method: Any, *arguments: Any) -> Any:
        if self.error is not None:
            return otherwise
        try:
            return method(*arguments)
        # cffi would print what is raised here, Ctrl-C too, and go on.
        except BaseException as error:
            self.error = error
            return otherwise

    def raise_error(self, path: str | None) -> None:
        """Raise the exception that stopped the reading, if there was one."""
        if self.error is None:
            return
        if isinstance(self.error, MemoryError) or not isinstance(self.error, Exception):
            raise self.error
        raise DecodeError(reading_error(self.error).message, path=path) from self.error
