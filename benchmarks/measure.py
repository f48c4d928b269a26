"""Ways timed in turn, in this process or each in one of its own, and what follows from their times."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.common import Goal, Way, Work
from benchmarks.data import workspace
from benchmarks.peers import MissingPeerError, peer

__all__ = ["Local", "PeakMemory", "Remote", "cosine_of", "last_json", "measure", "ratio_to", "serve", "share_of"]


# -- memory -----------------------------------------------------------------------------------------------


class PeakMemory:
    """The most memory that this process and its workers hold while a block runs.

    Attributes
    ----------
    above : float
        Megabytes above what was held at the start.
    """

    def __init__(self, interval: float = 0.01):
        self.interval = interval
        self.above = 0.0
        self._process = peer("psutil").Process()
        self._done = threading.Event()

    def __enter__(self) -> PeakMemory:
        gc.collect()
        self._baseline = self._held()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(self.interval):
            self.above = max(self.above, (self._held() - self._baseline) / 1e6)

    def _held(self) -> int:
        psutil = peer("psutil")
        held = self._process.memory_info().rss
        for worker in self._process.children(recursive=True):
            # What a worker shares with us is counted once; it may have ended meanwhile.
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                held += worker.memory_full_info().uss
        return held


# -- one way, ready to run --------------------------------------------------------------------------------


class Local:
    """A way in this process, loaded and warmed up."""

    memory: float | None = None

    def __init__(self, work: Work, way: Way):
        self._run = way.build(work)
        self.rows = self._run()

    def seconds(self) -> float:
        start = time.perf_counter()
        self._run()
        return time.perf_counter() - start

    def close(self) -> None:
        del self._run


class Remote:
    """A way in a process of its own, loaded and warmed up; it waits while others run.

    Parameters
    ----------
    work, way : Work and Way
        What the process is to find again by their names.
    command : list of str
        Starts the process, which is to call `serve`.
    """

    def __init__(self, work: Work, way: Way, command: list[str]):
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command, "--serve", work.name, way.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = self._answer()
        if "missing" in ready:
            self.close()
            raise MissingPeerError(ready["missing"])
        self.memory = ready["memory"]
        self.rows = np.load(ready["rows"])

    def seconds(self) -> float:
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"A way ended with exit code {self._process.wait()}; its message is above.")
        return json.loads(line)


def serve(work: Work, way: Way) -> None:
    """Be the process behind a `Remote`: load and warm up, then run once for each line on standard input."""
    # Whatever a library prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # Libraries that most ways need do not count as any way's memory.
    import timm  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    try:
        with PeakMemory() as memory:
            local = Local(work, way)
    except MissingPeerError as error:
        print(json.dumps({"missing": str(error)}), file=answers)
        return
    path = workspace() / f"rows-{os.getpid()}.npy"
    np.save(path, local.rows)
    print(json.dumps({"memory": memory.above, "rows": str(path)}), file=answers)
    for _ in sys.stdin:
        print(json.dumps({"seconds": local.seconds()}), file=answers)


def last_json(command: list[str], **arguments) -> dict[str, Any]:
    """What a process of its own prints last, read as JSON."""
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True, check=True, **arguments)
    return json.loads(done.stdout.splitlines()[-1])


# -- all ways of a work -----------------------------------------------------------------------------------


def measure(
    work: Work, repeats: int, start: Callable[[Work, Way], Local | Remote] = Local
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Time all ways of a work in turn.

    Parameters
    ----------
    work : Work
        Samples and ways.
    repeats : int
        Runs of each way, after its warm-up.
    start : callable
        Makes a way ready: `Local`, or something that returns a `Remote`.

    Returns
    -------
    rows : list of dict
        One for each way, the reference first.
    skipped : list of dict
        Ways that need what is not installed.
    """
    ready: dict[Way, Local | Remote] = {}
    skipped = []
    for way in work.ways:
        try:
            ready[way] = start(work, way)
        except MissingPeerError as error:
            skipped.append({"work": work.name, "way": way.name, "why": str(error)})
    seconds: dict[Way, list[float]] = {way: [] for way in ready}
    for _ in range(repeats):
        for way, runner in ready.items():
            seconds[way].append(runner.seconds())
    reference = ready.get(work.ways[0])
    rows = [_row(work, way, runner, seconds[way], reference) for way, runner in ready.items()]
    for runner in ready.values():
        runner.close()
    if reference is not None:
        for row in rows:
            row["ratio"] = rows[0]["seconds"] / row["seconds"]
    return rows, skipped


def _row(work, way, runner, seconds, reference) -> dict[str, Any]:
    median = statistics.median(seconds)
    cosine = None
    if reference is not None and way.comparable and way is not work.ways[0]:
        cosine = _cosine(reference.rows, runner.rows)
    return {
        "work": work.name,
        "way": way.name,
        "n": len(work.samples),
        "seconds": median,
        "all_seconds": seconds,
        "per_second": len(work.samples) / median,
        "ratio": None,
        "precision": way.precision,
        "gflops": work.flops / median / 1e9,
        "cosine_mean": None if cosine is None else float(cosine.mean()),
        "cosine_min": None if cosine is None else float(cosine.min()),
        "memory_mb": runner.memory,
    }


def _cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left, right = left.astype(np.float64), right.astype(np.float64)
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


# -- goals ------------------------------------------------------------------------------------------------


def _found(document: Mapping[str, Any], work: str, way: str) -> Mapping[str, Any]:
    """The row of a way; LookupError where there is none."""
    rows = [row for row in document["results"] if row["work"] == work and row["way"] == way]
    return rows[0]


def ratio_to(work: str, ours: str, *others: str) -> Callable[[Mapping[str, Any]], float]:
    """Return a function of a document: how many times faster we are than the fastest of the others."""

    def value(document: Mapping[str, Any]) -> float:
        fastest = min(_found(document, work, other)["seconds"] for other in others)
        return fastest / _found(document, work, ours)["seconds"]

    return value


def share_of(work: str, way: str) -> Callable[[Mapping[str, Any]], float]:
    """Return a function of a document: the part of the machine's peak that a way reaches."""
    return lambda document: _found(document, work, way)["share_of_peak"]


def cosine_of(work: str, ours: str, reference: str) -> tuple[Goal, Goal]:
    """What the default precision owes to the float32 of the work's reference: the mean and the least cosine."""

    def value(key: str) -> Callable[[Mapping[str, Any]], float]:
        return lambda document: _found(document, work, ours)[key]

    return (
        Goal(f"{work}, precision auto: cosine, mean", reference, value("cosine_mean"), 0.9999, unit="", digits=5),
        Goal(f"{work}, precision auto: cosine, least", reference, value("cosine_min"), 0.999, unit="", digits=5),
    )
