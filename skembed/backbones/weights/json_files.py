"""Reading of JSON files with unchecked content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skembed.exceptions import BackboneReadError

__all__ = ["invalid_entry", "read_json"]


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's content, or {} if there is no such file.

    Raises
    ------
    BackboneReadError
        If the file cannot be read, or is not JSON.
    """
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BackboneReadError(f"{path} cannot be read ({error.strerror}). Change its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise BackboneReadError(
            f"{path} is not valid JSON ({type(error).__name__}: {str(error)[:100]}). Download the backbone again."
        ) from error


def invalid_entry(path: Path, entry: str, value: Any, allowed: str) -> BackboneReadError:
    """Return the error for an entry of a JSON file that has a wrong type or value.

    Parameters
    ----------
    path : Path
        The file.
    entry : str
        Name of the entry, as a user finds it in the file.
    value : object
        Value of the entry in the file.
    allowed : str
        Description of allowed values, such as "a string".
    """
    return BackboneReadError(
        f"{path} has {entry}={str(value)[:60]!r}, which must be {allowed}. Download the backbone again."
    )
