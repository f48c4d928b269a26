"""Backbone directories as bytes, for estimators that carry their base weights."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from skembed.backbones.weights.bundled import cache_home, materialize_directory
from skembed.backbones.weights.files import decisive_files, fingerprint_directory
from skembed.backbones.weights.sentence_modules import has_module_list, module_folders
from skembed.exceptions import IntegrityError

__all__ = ["pack_directory", "unpack_directory"]


def pack_directory(directory: Path) -> bytes:
    """Return the deciding files of a directory as an uncompressed zip.

    Parameters
    ----------
    directory : Path
        With configuration and weights.
    """
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as archive:
        for folder in [] if has_module_list(directory) else module_folders(directory):
            # Its name says what it does, and it may be empty.
            archive.writestr(_entry(f"{folder}/"), b"")
        for path in decisive_files(directory):
            archive.writestr(_entry(path.relative_to(directory).as_posix()), path.read_bytes())
    return held.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    # A fixed time, so that the same files are the same bytes.
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))


def unpack_directory(archive: bytes, fingerprint: str) -> Path:
    """Write the directory again, below `cache_home`, once per machine.

    Parameters
    ----------
    archive : bytes
        Bytes from `pack_directory`.
    fingerprint : str
        Digest of the directory, from `fingerprint_directory`.

    Raises
    ------
    IntegrityError
        If the files are not those that were packed, or one of them would lie elsewhere.
    """

    def is_whole(directory: Path) -> bool:
        return directory.is_dir() and fingerprint_directory(directory) == fingerprint

    target = cache_home() / "unpacked" / fingerprint[:32]
    if is_whole(target):
        return target

    def write(directory: Path) -> None:
        with zipfile.ZipFile(io.BytesIO(archive)) as held:
            for name in held.namelist():
                path = (directory / name).resolve()
                if not path.is_relative_to(directory.resolve()):
                    raise IntegrityError(f"A packed backbone names the file {name!r}, outside of its directory.")
                (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
                if not name.endswith("/"):
                    path.write_bytes(held.read(name))
        if not is_whole(directory):
            raise IntegrityError(
                "The content of a packed backbone does not match its fingerprint. Load the estimator from another copy."
            )

    return materialize_directory(target, write, is_whole)
