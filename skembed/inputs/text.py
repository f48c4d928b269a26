"""Read one text, and detect names of files among texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from skembed.exceptions import DecodeError, InputWarning
from skembed.inputs.decode import is_missing
from skembed.utils.warnings import warn

__all__ = ["file_names", "read_text", "warn_of_file_names"]

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jfif", ".heic", ".heif", ".avif")
_RECORDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aiff", ".aif", ".au", ".wma", ".amr")
#: Texts that are looked at: each may be a question to a file system.
_LOOKED_AT = 32
#: Share of names of files from which on there is a warning: a table of files has the odd gap.
_MOSTLY = 0.9
#: Characters of the longest path that systems allow.
_LONGEST = 4096


def read_text(sample: Any) -> str:
    """Return a text as a str that can be tokenized.

    Parameters
    ----------
    sample : str
        Any text, the empty one included.

    Returns
    -------
    str

    Raises
    ------
    DecodeError
        If the sample is missing (None, NaN, NA), is not a str, or has lone surrogates.
    """
    if not isinstance(sample, str):
        raise DecodeError(_what_to_do(sample))
    try:
        sample.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DecodeError(
            f"the text has a lone surrogate at position {error.start}, which is not a character. "
            'Decode its source with errors="replace".'
        ) from error
    return str(sample)


def _what_to_do(sample: Any) -> str:
    if isinstance(sample, (bytes, bytearray)):
        return (
            'expected a str, got bytes. Decode a text first: sample.decode("utf-8"). For images use ImageEmbedder(), '
            "for recordings AudioEmbedder(), as embedder= of what you fit."
        )
    if is_missing(sample):
        return 'the text is missing. Fill it in, for instance with "", or leave it out.'
    if isinstance(sample, os.PathLike):
        return (
            f"expected a text, got a path ({os.fspath(sample)!r}). For images use ImageEmbedder(), for recordings "
            "AudioEmbedder(), as embedder= of what you fit; for a file of text pass what is written in it."
        )
    # Arrays, PIL images, pairs and dicts: what the other embedders take.
    if isinstance(sample, (tuple, dict)) or hasattr(sample, "shape") or hasattr(sample, "getpixel"):
        return (
            f"expected a text, got {type(sample).__name__}. For images use ImageEmbedder(), for recordings "
            "AudioEmbedder(), as embedder= of what you fit."
        )
    return f"expected a str, got {type(sample).__name__} ({str(sample)[:40]!r}). Convert it with str()."


def file_names(texts: Sequence[Any]) -> tuple[str, str] | None:
    """Return the kind of files that texts are names of, judged by a few of them.

    Parameters
    ----------
    texts : sequence
        Raw samples. At most 32 of them are looked at, from first to last.

    Returns
    -------
    (kind, first) or None
        "image" or "audio" by the endings of the names, or "" for existing files with other endings; and the first name.
        None if fewer than nine in ten are names of files. Web addresses do not count as names.

    Examples
    --------
    >>> file_names(["cats/1.jpg", "dogs/2.jpg"])
    ('image', 'cats/1.jpg')
    >>> file_names(["see 1.jpg for details", "report.pdf", "https://example.org/2.jpg"]) is None
    True
    """
    step = max(1, -(-len(texts) // _LOOKED_AT))
    looked_at = texts[::step]
    found = [(kind, text) for text in looked_at if (kind := _file_kind(text)) is not None]
    return found[0] if found and len(found) >= _MOSTLY * len(looked_at) else None


def _file_kind(text: Any) -> str | None:
    if not isinstance(text, str) or not text or len(text) > _LONGEST or "\n" in text or "://" in text:
        return None
    ending = os.path.splitext(text.replace("\\", "/"))[1].lower()
    if ending in _IMAGES:
        return "image"
    if ending in _RECORDINGS:
        return "audio"
    return "" if os.path.isfile(text) else None


def warn_of_file_names(texts: Sequence[Any]) -> None:
    """Warn once if texts are names of files, which another embedder ought to open.

    The warning points to the line that called this package.
    """
    found = file_names(texts)
    if found is None:
        return
    kind, first = found
    what = {"image": "image files", "audio": "recordings"}.get(kind, "files")
    warn(
        f"X looks like names of {what}, the first {first!r}. TextEmbedder embeds the names themselves, as texts, and "
        f"opens no file. A class that is part of the path would leak into the rows. {_WHICH[kind]} If you mean the "
        "names as texts, silence this with warnings.simplefilter('ignore', InputWarning).",
        InputWarning,
    )


_OTHERS = "in FineTuneClassifier, FineTuneRegressor and advise"
_RANKED = "and as a candidate in rank_backbones and BackboneSelector"
_WHICH = {
    "image": f"Use ImageEmbedder(), {_OTHERS} as embedder=ImageEmbedder(), {_RANKED}.",
    "audio": f"Use AudioEmbedder(), {_OTHERS} as embedder=AudioEmbedder(), {_RANKED}.",
    "": (
        "For images use ImageEmbedder() and for recordings AudioEmbedder(), "
        f"{_OTHERS} as embedder=, {_RANKED}; for files of text pass what is written in them."
    ),
}
