"""Progress over samples: a bar on a terminal and in notebooks, lines in files and logs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm.auto import tqdm

__all__ = ["is_showing", "loading", "progress_bar", "sample_progress", "showing"]

#: Seconds before a bar is shown at all: work that is done by then needs none.
DELAY = 0.5
#: Seconds between two lines where there is no terminal.
LINE_INTERVAL = 30.0

_showing: ContextVar[bool] = ContextVar("showing", default=False)


@contextmanager
def showing(shown: bool = True) -> Iterator[None]:
    """Show the bars of all work inside, as an estimator with ``verbose=1`` does for its fit.

    Parameters
    ----------
    shown : bool, default=True
        False changes nothing.
    """
    token = _showing.set(shown or _showing.get())
    try:
        yield
    finally:
        _showing.reset(token)


def is_showing() -> bool:
    """Return True inside `showing`."""
    return _showing.get()


def sample_progress(total: int, description: str | None) -> tqdm:
    """Return a progress bar over samples, to be used as a context manager.

    Parameters
    ----------
    total : int
        Number of samples.
    description : str or None
        Shown before the bar; None shows no bar.
    """
    return _bar(total, description, "sample", shown=description is not None)


def progress_bar(total: int, description: str, unit: str = "sample", *, leave: bool = True) -> tqdm:
    """Return a progress bar as a context manager, visible only inside `showing`.

    Parameters
    ----------
    total : int
        Number of units.
    description : str
        Shown before the bar.
    unit : str, default="sample"
        Name of the counted things.
    leave : bool, default=True
        True if a terminal keeps the bar after the end.
    """
    return _bar(total, description, unit, shown=is_showing(), leave=leave)


def _bar(total: int, description: str | None, unit: str, *, shown: bool, leave: bool = True) -> tqdm:
    shared: dict[str, Any] = {"total": total, "desc": description, "unit": unit}
    shared |= {"delay": DELAY, "disable": not shown, "leave": leave}
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return _Bar(**shared)
    return _Bar(**shared, file=_Lines(sys.stderr), mininterval=LINE_INTERVAL, maxinterval=LINE_INTERVAL)


@contextmanager
def loading(bar: tqdm, name: str) -> Iterator[None]:
    """Show on a bar that a network is being loaded, and start its clock afterwards.

    Parameters
    ----------
    bar : tqdm
        Bar from `sample_progress`.
    name : str
        Name of the network.
    """
    if bar.disable:
        yield
        return
    description = bar.desc.removesuffix(": ")
    timer = threading.Timer(DELAY, bar.set_description, (f"loading {name}",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
    bar.set_description(description, refresh=False)
    # The estimate and the delay count from here: what came before happens once.
    bar.unpause()
    bar.start_t = bar.last_print_t


class _Bar(tqdm):
    """Progress bar that estimates time by the cost of samples instead of their number."""

    #: Returns the seconds that remain, or None.
    seconds_left: Callable[[], float | None] | None = None

    @property
    def format_dict(self) -> dict[str, Any]:
        values = super().format_dict
        if self.seconds_left is not None and (seconds := self.seconds_left()):
            values["rate"] = (self.total - self.n) / seconds
        return values


class _Lines:
    """Text stream on which each state of a bar is a new line."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            self._stream.write(line + "\n")

    def flush(self) -> None:
        self._stream.flush()
