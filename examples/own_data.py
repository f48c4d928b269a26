"""Reading a user's own folder or table, with one clear sentence where it cannot be used."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from skembed.exceptions import SkembedError

N_FOLDS = 5


class InputError(ValueError):
    """The data or an argument cannot be used; the message says why and what to do."""


@contextmanager
def clear_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Leave with usage, one message and exit code 2 where the input is at fault."""
    try:
        yield
    except (InputError, SkembedError, OSError) as error:
        parser.error(str(error))


def read_folder(path: Path, suffixes: Collection[str], kind: str) -> tuple[list[Path], list[str]]:
    """Return the files in the sub-folders of a folder, and the sub-folders' names as their classes.

    Parameters
    ----------
    path : Path
        Folder with one sub-folder per class.
    suffixes : collection of str
        Endings of the files to take, in lower case.
    kind : str
        What the files are, in the plural, such as "images".
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise InputError(f"'{path}' {what}; give a folder with one sub-folder of {kind} per class")
    folders = _visible(each for each in path.iterdir() if each.is_dir())
    inside = {folder: _visible(each for each in folder.iterdir() if each.is_file()) for folder in folders}
    files = [file for folder in folders for file in inside[folder] if file.suffix.lower() in suffixes]
    if not files:
        raise InputError(_why_empty(path, folders, suffixes, kind))
    others = Counter(file.suffix.lower() or "no ending" for folder in folders for file in inside[folder])
    _say_left_out({suffix: n for suffix, n in others.items() if suffix not in suffixes}, kind)
    used = {file.parent for file in files}
    for folder in folders:
        if folder not in used:
            print(f"Left out: the folder '{folder}', which has no {kind}.")
    return files, [file.parent.name for file in files]


def check_classes(labels: Collection[str]) -> None:
    """Raise InputError where there are too few classes, or a class is too small to be split into folds."""
    counts = Counter(labels)
    if len(counts) < 2:
        name = next(iter(counts), None)
        raise InputError(f"a classifier needs at least two classes, and all {len(labels)} samples are of '{name}'")
    small = [f"'{name}' ({n})" for name, n in sorted(counts.items(), key=lambda item: item[1]) if n < N_FOLDS]
    if small:
        named = ", ".join(small[:5]) + (f" and {len(small) - 5} more" if len(small) > 5 else "")
        raise InputError(
            f"{len(small)} of {len(counts)} classes have fewer than the {N_FOLDS} samples that {N_FOLDS}-fold "
            f"cross-validation needs: {named}; add samples, or leave these classes out"
        )


def check_writable(path: Path) -> Path:
    """Return a path for output, after a check that takes place before the work."""
    if path.is_dir():
        raise InputError(f"'{path}' is a folder; give the name of a file to write")
    if not path.absolute().parent.is_dir():
        raise InputError(f"the folder '{path.absolute().parent}' does not exist; make it first, or write elsewhere")
    return path


def _visible(paths) -> list[Path]:
    # Systems leave hidden files among a user's own, some of them with an image's ending: ._photo.jpg on macOS.
    return sorted(path for path in paths if not path.name.startswith("."))


def _why_empty(path: Path, folders: list[Path], suffixes: Collection[str], kind: str) -> str:
    def holds(pattern: str) -> Path | None:
        return next((file for file in path.glob(pattern) if file.suffix.lower() in suffixes), None)

    endings = ", ".join(sorted(suffixes))
    if deeper := holds("*/*/*"):
        folder = deeper.parent.parent
        return f"the {kind} in '{path}' are one level too deep; give a folder such as '{folder}' instead"
    if holds("*"):
        return f"the {kind} in '{path}' are not in sub-folders; put those of each class into a sub-folder of its name"
    if not folders:
        return f"'{path}' has no sub-folders; give a folder with one sub-folder of {kind} per class"
    return f"the sub-folders of '{path}' have no {kind} (files that end in {endings})"


def _say_left_out(others: dict[str, int], kind: str) -> None:
    if others:
        endings = ", ".join(sorted(others))
        n = sum(others.values())
        print(f"Left out: {n} {'file that is' if n == 1 else 'files that are'} not among the {kind} ({endings}).")
