"""State files: private to their owner, replaced in one step, and sealed by a digest.

A seal is a SHA-256 digest over a file's name, kind, version and content. It notices damage and edits by hand. It is
not a signature: whoever may write the file can compute its seal, too.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

__all__ = ["private_directory", "read_sealed_json", "replacing", "seal", "write_sealed_json"]

#: Seconds without a write after which a draft is taken for that of a killed process.
_STALE_DRAFT = 600
#: Bytes of the largest JSON file that is read; a card has a few hundred.
_LARGEST_JSON = 2**20


def private_directory(directory: Path) -> None:
    """Create a directory and its missing parents, accessible to their owner alone.

    Parameters
    ----------
    directory : Path
        Directories that exist already keep their permissions.

    Raises
    ------
    OSError
        If a directory cannot be created, or a file is in the way.
    """
    if directory.is_dir():
        return
    private_directory(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Provide a draft that replaces a file at the end of the block, unless the block raises.

    The draft has a random name, so that nobody can plant a link under it, and is accessible to its owner alone. Readers
    see the old file or the new one, also after a power failure.

    Parameters
    ----------
    path : Path
        The file to replace. A link of that name is replaced itself; its target stays as it is.

    Yields
    ------
    Path
        The draft, to be filled inside the block.
    """
    _remove_stale_drafts(path)
    draft = path.with_name(f".{path.name}-{secrets.token_hex(16)}.draft")
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600))
    try:
        yield draft
        # Libraries may have put a file of their own in its place.
        os.chmod(draft, 0o600)
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    _sync_directory(path.parent)


def _remove_stale_drafts(path: Path) -> None:
    with suppress(OSError):
        for name in os.listdir(path.parent):
            if name.startswith(f".{path.name}-") and name.endswith(".draft"):
                draft = path.with_name(name)
                if time.time() - draft.lstat().st_mtime > _STALE_DRAFT:
                    draft.unlink()


def _sync_directory(directory: Path) -> None:
    # Windows cannot open a directory, and not every network filesystem can sync one.
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def seal(path: Path, kind: str, version: int, parts: Iterable[bytes | memoryview]) -> str:
    """Return the seal of a state file.

    Parameters
    ----------
    path : Path
        Its last component is part of the seal, so that a file copied to another name is noticed.
    kind : str
        Content of the file.
    version : int
        Version of the content's layout.
    parts : iterable of bytes
        Content, in order.

    Returns
    -------
    str
        Hexadecimal digits.
    """
    digest = sha256(json.dumps([path.name, kind, version]).encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def write_sealed_json(path: Path, kind: str, version: int, content: dict[str, Any]) -> None:
    """Write a sealed JSON file, and create its directory if needed.

    Parameters
    ----------
    path : Path
        File to write or replace.
    kind, version
        See `seal`.
    content : dict
        Values that JSON has.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    private_directory(path.parent)
    record = {"content": content, "sha256": _json_seal(path, kind, version, content)}
    with replacing(path) as draft:
        draft.write_text(json.dumps(record), encoding="utf-8")


def read_sealed_json(path: Path, kind: str, version: int) -> dict[str, Any]:
    """Read a file that `write_sealed_json` wrote.

    Parameters
    ----------
    path, kind, version
        As they were given to `write_sealed_json`.

    Returns
    -------
    dict
        The content.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read.
    ValueError
        If the file is damaged, was edited, or is of another kind, name or version.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    with open(path, "rb") as file:
        data = file.read(_LARGEST_JSON + 1)
    if len(data) > _LARGEST_JSON:
        raise ValueError(f"it has more than {_LARGEST_JSON} bytes")
    try:
        record = json.loads(data)
        content, digest = record["content"], record["sha256"]
        is_whole = digest == _json_seal(path, kind, version, content)
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError("it is not in the form in which skembed writes it") from error
    if not is_whole or not isinstance(content, dict):
        raise ValueError("its content does not match its digest")
    return content


def _json_seal(path: Path, kind: str, version: int, content: Any) -> str:
    return seal(path, kind, version, [json.dumps(content, sort_keys=True).encode()])
