"""Watch of samples behind a progress bar, which names slow ones and estimates the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["SampleWatch", "current_watch", "watching"]

#: Seconds after which a sample is named.
SLOW_AFTER = 5.0
#: Seconds between two looks at the samples.
_INTERVAL = 1.0

_current: ContextVar[SampleWatch | None] = ContextVar("sample_watch", default=None)


def current_watch() -> SampleWatch | None:
    """Return the watch of the work that this thread does; None where no bar is shown."""
    return _current.get()


@contextmanager
def watching(bar: Any, describe: Callable[[Any], str]) -> Iterator[SampleWatch | None]:
    """Watch the samples that are read and computed inside.

    Parameters
    ----------
    bar : tqdm
        A bar over samples; a disabled one needs no watch.
    describe : callable
        Takes a sample and returns a phrase such as "a PNG image of 10,534 x 16,000 pixels", or "".
    """
    if bar.disable:
        yield None
        return
    watch = SampleWatch(bar, describe)
    bar.seconds_left = watch.seconds_left
    token = _current.set(watch)
    ended = threading.Event()
    thread = threading.Thread(target=watch.name_slow_samples, args=(ended,), name="skembed-watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()
        _current.reset(token)


class SampleWatch:
    """Samples that are being read or computed, and what they cost so far.

    Parameters
    ----------
    bar : tqdm
        A bar over samples.
    describe : callable
        Takes a sample and returns a phrase, or "".
    """

    def __init__(self, bar: Any, describe: Callable[[Any], str]):
        self._bar, self._describe = bar, describe
        #: Index, sample and start of what threads read; under 0 of what the network computes.
        self._begun: dict[int, tuple[int, Any, float]] = {}
        self._named: tuple[int, Any, float] | None = None
        #: Lengths of samples that are prepared and not computed yet.
        self._lengths: dict[int, int] = {}
        self._n_prepared = self._length_prepared = self._length_done = 0
        self._seconds_preparing = self._seconds_computing = 0.0
        self._marked: float | None = None

    # -- slow samples -----------------------------------------------------------------------------------

    @contextmanager
    def reading(self, index: int, sample: Any) -> Iterator[None]:
        """Record that this thread reads a sample."""
        thread = threading.get_ident()
        self._begun[thread] = index, sample, time.monotonic()
        try:
            yield
        finally:
            self._end(thread)

    def computing(self, index: int | None, sample: Any = None) -> None:
        """Record that the network computes this sample alone, or several (None)."""
        before = self._begun.get(0)
        if before is not None and before[0] == index:
            return
        self._end(0)
        if index is not None:
            self._begun[0] = index, sample, time.monotonic()

    def _end(self, worker: int) -> None:
        ended = self._begun.pop(worker, None)
        if ended is not None and ended is self._named:
            self._named = None
            self._bar.set_postfix_str("", refresh=False)

    def name_slow_samples(self, ended: threading.Event) -> None:
        """Show the slowest sample on the bar until an event is set."""
        shown_at = 0.0
        while not ended.wait(_INTERVAL):
            begun = min(self._begun.copy().values(), key=lambda entry: entry[2], default=None)
            now = time.monotonic()
            if begun is None or now - begun[2] < SLOW_AFTER:
                continue
            index, sample, start = begun
            if begun is not self._named:
                phrase = self._describe(sample)
            # Without a terminal each state is a line of its own, of which there is one in `mininterval` seconds.
            elif now - shown_at < self._bar.mininterval:
                continue
            self._named, shown_at = begun, now
            self._bar.set_postfix_str(f"sample {index} has taken {now - start:.0f} s" + (phrase and f": {phrase}"))

    # -- expected time ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the clock, after work that happens only once."""
        self._marked = time.monotonic()

    def _lap(self) -> float:
        now = time.monotonic()
        before, self._marked = self._marked, now
        return 0.0 if before is None else now - before

    def prepared(self, indices: Sequence[int], lengths: Sequence[int]) -> None:
        """Record prepared samples and their lengths in tokens, frames or pixels."""
        self._seconds_preparing += self._lap()
        self._lengths.update(zip(indices, lengths, strict=True))
        self._n_prepared += len(indices)
        self._length_prepared += sum(lengths)

    def computed(self, indices: Iterable[int]) -> None:
        """Record that samples are computed."""
        self._seconds_computing += self._lap()
        self._length_done += sum(self._lengths.pop(index, 0) for index in indices)

    def seconds_left(self) -> float | None:
        """Return the time that remains, in seconds; None as long as nothing is computed.

        The network's time grows with the length of samples, which are computed from the longest to the shortest.
        """
        if not self._length_done or not self._n_prepared:
            return None
        n_unknown = max(0, self._bar.total - self._bar.n - len(self._lengths))
        length = sum(self._lengths.copy().values()) + n_unknown * self._length_prepared / self._n_prepared
        preparing = n_unknown * self._seconds_preparing / self._n_prepared
        return preparing + length * self._seconds_computing / self._length_done
