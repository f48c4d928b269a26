"""Reading a column of texts and a column of classes from a table."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from own_data import InputError

SEPARATED = {".csv", ".tsv", ".tab", ".txt"}
PARQUET = {".parquet", ".pq"}
COMPRESSIONS = {".gz", ".bz2", ".xz", ".zip", ".zst"}
TEXT_NAMES = {"text", "texts", "sentence", "document"}
LABEL_NAMES = {"label", "labels", "class", "category", "target", "topic"}


class TextTable(NamedTuple):
    """Texts, their classes, and the names of the columns that they come from."""

    texts: list[str]
    labels: list[str]
    text: str
    label: str
    others: list[str]


def read_texts(path: Path, text: str | None, label: str | None) -> TextTable:
    """Read texts and classes from a table; columns given as None are chosen by name and content."""
    frame = _read(path)
    for option, name in (("--text", text), ("--label", label)):
        if name is not None and name not in frame:
            raise InputError(f"{option} {name!r} is not a column of '{path}', which has {_listed(frame)}")
    if len(frame.columns) < 2:
        raise InputError(f"'{path}' has one column only, {_listed(frame)}; it needs texts and classes")
    if frame.empty:
        raise InputError(f"'{path}' has the columns {_listed(frame)} but no rows")
    text = _text_column(frame, label) if text is None else text
    label = _label_column(frame, text) if label is None else label
    if text == label:
        raise InputError(f"--text and --label both name {text!r}; choose two of the columns {_listed(frame)}")
    others = [name for name in frame if name not in (text, label)]
    texts, labels = _complete(frame, text, label)
    _check_labels(labels, label, others)
    return TextTable(texts, labels, text, label, others)


def _read(path: Path) -> pd.DataFrame:
    """Every cell as text, empty where it is missing."""
    if not path.is_file():
        what = "is a folder" if path.exists() else "does not exist"
        raise InputError(f"'{path}' {what}; give a CSV, TSV or Parquet file")
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in COMPRESSIONS]
    suffix = suffixes[-1] if suffixes else ""
    if suffix not in SEPARATED | PARQUET:
        raise InputError(f"'{path}' ends in '{path.suffix}'; save the table as a CSV, TSV or Parquet file")
    try:
        frame = pd.read_parquet(path) if suffix in PARQUET else _read_separated(path)
    except UnicodeDecodeError:
        raise InputError(f"'{path}' is not encoded in UTF-8; save it as 'CSV UTF-8'") from None
    except pd.errors.EmptyDataError:
        raise InputError(f"'{path}' is empty") from None
    except (ValueError, ImportError) as error:
        raise InputError(f"'{path}' cannot be read as a table ({' '.join(str(error).split())})") from error
    return frame.rename(columns=str).astype("string").fillna("")


def _read_separated(path: Path) -> pd.DataFrame:
    options = {"encoding": "utf-8-sig", "index_col": False, "dtype": str, "keep_default_na": False}
    # The separator is the one that makes most columns of the header; the first of them where none is there.
    headers = {sep: pd.read_csv(path, sep=sep, nrows=0, **options).columns for sep in (",", "\t", ";", "|")}
    separator = max(headers, key=lambda sep: len(headers[sep]))
    with warnings.catch_warnings():
        # pandas only warns where rows are longer than the header, and cuts them.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(path, sep=separator, **options)
        except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{reason}; put texts that hold {separator!r} into double quotes") from error


def _text_column(frame: pd.DataFrame, label: str | None) -> str:
    """The column that is called text, or the one with the longest cells."""
    candidates = [name for name in frame if name != label]
    named = [name for name in candidates if name.lower() in TEXT_NAMES]
    return named[0] if len(named) == 1 else max(candidates, key=lambda name: frame[name].str.len().mean())


def _label_column(frame: pd.DataFrame, text: str) -> str:
    """The only other column, or the only one that is called label or whose values repeat as classes do."""
    candidates = [name for name in frame if name != text]
    if len(candidates) == 1:
        return candidates[0]
    repeated = [name for name in candidates if 2 <= frame[name].nunique() <= len(frame) / 5]
    named = [name for name in repeated or candidates if name.lower() in LABEL_NAMES]
    for choices in (named, repeated):
        if len(choices) == 1:
            return choices[0]
    raise InputError(f"which column holds the classes is not clear; give --label, one of {_listed(frame[candidates])}")


def _complete(frame: pd.DataFrame, text: str, label: str) -> tuple[list[str], list[str]]:
    """Texts and classes of the rows that have both, with a word on the others."""
    texts, labels = frame[text], frame[label].str.strip()
    no_text, no_label = (texts.str.strip() == "").to_numpy(), (labels == "").to_numpy()
    bad = no_text | no_label
    if bad.all():
        raise InputError(f"no row has both a text in {text!r} and a class in {label!r}")
    if bad.any():
        print(
            f"Left out: {bad.sum()} of {len(frame)} rows, {no_text.sum()} without a text and "
            f"{(no_label & ~no_text).sum()} without a class; the first is row {bad.argmax() + 1}."
        )
    return texts[~bad].tolist(), labels[~bad].tolist()


def _check_labels(labels: list[str], label: str, others: list[str]) -> None:
    if label in labels:
        print(f"The first line was read as column names, but {label!r} is also a class: does the file have a header?")
    n_values = len(set(labels))
    if n_values <= max(2, len(labels) / 2):
        return
    numbers = pd.to_numeric(pd.Series(labels), errors="coerce").notna().all()
    kind = "different numbers instead of classes" if numbers else "different values, too many for classes"
    hint = f"; give --label, one of {', '.join(map(repr, others))}" if others else ""
    raise InputError(f"column {label!r} has {n_values} {kind}, in {len(labels)} rows{hint}")


def _listed(frame: pd.DataFrame) -> str:
    return ", ".join(map(repr, frame.columns))
