"""Progress bars over samples: on a terminal and in notebooks a bar, in files and logs a line now and then."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

__all__ = ["loading", "sample_progress"]

#: Seconds before a bar is shown at all: work that is done by then needs none.
DELAY = 0.5
#: Seconds between two lines where there is no terminal.
LINE_INTERVAL = 30.0


def sample_progress(total: int, description: str | None) -> tqdm:
    """Return a progress bar over samples, to be used as a context manager.

    Parameters
    ----------
    total : int
        Number of samples.
    description : str or None
        Shown before the bar; None shows no bar.
    """
    shared = {"total": total, "desc": description, "unit": "sample", "delay": DELAY, "disable": description is None}
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return tqdm(**shared)
    return tqdm(**shared, file=_Lines(sys.stderr), mininterval=LINE_INTERVAL, maxinterval=LINE_INTERVAL)


@contextmanager
def loading(bar: tqdm, name: str) -> Iterator[None]:
    """Say on a bar that a network is loaded, if that takes more than a moment; its clock starts afterwards.

    Parameters
    ----------
    bar : tqdm
        What `sample_progress` returned.
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


class _Lines:
    """A text stream on which each state of a bar is a line of its own, instead of overwriting the last."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            self._stream.write(line + "\n")

    def flush(self) -> None:
        self._stream.flush()
