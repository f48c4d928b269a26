"""A grid search over a classifier on embedded texts: every text embedded once, against once a fold and candidate.

    python -m benchmarks.gridsearch [--texts 2000 300] [--repeats 3] [--only WAY ...] [--json FILE]

5 folds times 8 values of C and a refit, each search in a process of its own, all ways in turn; loading and a first
text are not timed. --texts are sizes: at the first only we run, since the others take many minutes there (--all
sizes to run them too), at the rest all. The classifier's own seconds are counted inside each search, and each search
is run with the default BLAS threads and with one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.common import RESULTS, Goal, document, machine, print_table, write
from benchmarks.measure import last_json
from benchmarks.peers import MissingPeerError
from benchmarks.searches import DISK, IDEAL, NO_CACHE, OURS, PIPELINE_MEMORY, WAYS, search

__all__ = ["GOALS", "main"]

BLAS = ("default", "1")
SECOND = "2nd process"


def _child(way: str, n: int, blas: str, store: str) -> None:
    try:
        found = search(WAYS[way], n, None if blas == "default" else int(blas), store)
    except MissingPeerError as error:
        found = {"missing": str(error)}
    print(json.dumps(found))


def _searches(way: str, n: int, blas: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The search of a way in a new process; where it keeps a store, a second one in another."""
    with tempfile.TemporaryDirectory(dir=data.workspace()) as store:
        command = ["-m", "benchmarks.gridsearch", "--child", way, str(n), blas, store]
        yield way, last_json(command)
        if WAYS[way].keeps:
            yield f"{way}, {SECOND}", last_json(command)


def _measure(ways: list[str], n: int, repeats: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    runs: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    missing: dict[str, str] = {}
    for blas in BLAS:
        for _ in range(repeats):
            for way in ways:
                if way in missing:
                    continue
                print(f"searching: {way}, {n} texts, BLAS threads {blas} ...", file=sys.stderr)
                for name, found in _searches(way, n, blas):
                    if "missing" in found:
                        missing[way] = found["missing"]
                        break
                    runs[name, blas].append(found)
    return [_row(name, blas, n, found) for (name, blas), found in runs.items()], missing


def _row(way: str, blas: str, n: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"way": way, "texts": n, "blas_threads": blas, "runs": runs}
    for key in ("seconds", "classifier_seconds", "score"):
        row[key] = statistics.median(run[key] for run in runs)
    row["beyond_seconds"] = statistics.median(run["seconds"] - run["classifier_seconds"] for run in runs)
    return row


def _print(rows: list[dict[str, Any]]) -> None:
    for n in sorted({row["texts"] for row in rows}, reverse=True):
        for blas in BLAS:
            chosen = [row for row in rows if row["texts"] == n and row["blas_threads"] == blas]
            ideal = next((row["seconds"] for row in chosen if row["way"] == IDEAL), None)
            shown = [
                {
                    "way": row["way"],
                    "seconds": row["seconds"],
                    "x ideal": ideal and row["seconds"] / ideal,
                    "classifier": row["classifier_seconds"],
                    "beyond": row["beyond_seconds"],
                    "best score": row["score"],
                }
                for row in chosen
            ]
            print_table(f"{n} texts, 5 folds x 8 candidates, BLAS threads: {blas}", shown)
    print()


# -- goals ------------------------------------------------------------------------------------------------


def _at_most_texts(document: Mapping[str, Any], blas: str, key: str, *ways: str) -> list[float]:
    """One figure of each way, at the largest number of texts that all were run with."""
    found = {(row["texts"], row["way"]): row[key] for row in document["results"] if row["blas_threads"] == blas}
    sizes = [n for n in {n for n, _ in found} if all((n, way) in found for way in ways)]
    if not sizes:
        raise LookupError(ways)
    return [found[max(sizes), way] for way in ways]


def _beyond_ideal(blas: str, way: str) -> Callable[[Mapping[str, Any]], float]:
    def value(document):
        ours, ideal = _at_most_texts(document, blas, "seconds", way, IDEAL)
        return ours / ideal

    return value


def _times_less(blas: str, ours: str, other: str) -> Callable[[Mapping[str, Any]], float]:
    def value(document):
        mine, theirs = _at_most_texts(document, blas, "beyond_seconds", ours, other)
        return theirs / mine

    return value


def _goals() -> Iterator[Goal]:
    for blas in BLAS:
        threads = "default BLAS threads" if blas == "default" else "one BLAS thread"
        name = f"GridSearchCV, 5 folds x 8 candidates, {threads}"
        ideal = "the ideal: one transform, and the classifier's own search"
        yield Goal(f"{name}: whole search", ideal, _beyond_ideal(blas, OURS), 1.15, at_most=True, digits=2)
        yield Goal(f"{name}: whole search, disk cache", ideal, _beyond_ideal(blas, DISK), 1.15, at_most=True, digits=2)
        beyond = f"{name}: seconds beyond the classifier's"
        for other in ("embetter", "skrub", "sentence-transformers", NO_CACHE):
            yield Goal(beyond, other, _times_less(blas, OURS, other), 30)
        yield Goal(beyond, f"{PIPELINE_MEMORY} around a peer", _times_less(blas, OURS, PIPELINE_MEMORY), 8)
        yield Goal(
            f"{beyond}, in a second process",
            f"{PIPELINE_MEMORY} around a peer, in a second process",
            _times_less(blas, f"{DISK}, {SECOND}", f"{PIPELINE_MEMORY}, {SECOND}"),
            8,
        )


GOALS = tuple(_goals())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gridsearch", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--texts", type=int, nargs="+", default=[2000, 300], help="sizes; others than we skip the first"
    )
    parser.add_argument("--all", action="store_true", help="run everybody with all sizes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--json", type=Path, default=RESULTS / "gridsearch.json")
    parser.add_argument("--child", nargs=4, metavar=("WAY", "N", "BLAS", "STORE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        way, n, blas, store = options.child
        return _child(way, int(n), blas, store)
    data.workspace()
    print(f"{machine()}; texts={options.texts}, repeats={options.repeats}")
    rows, missing = [], {}
    for i, n in enumerate(options.texts):
        alone = i == 0 and len(options.texts) > 1 and not options.all
        ways = [way for way in options.only if not (alone and WAYS[way].slow)]
        found, absent = _measure(ways, n, options.repeats)
        rows += found
        missing |= absent
    _print(rows)
    for way, why in missing.items():
        print(f"{way} is skipped: {why}")
    source = data.labelled_texts(1)[2]
    write(document("gridsearch", repeats=options.repeats, data=source, results=rows, skipped=missing), options.json)


if __name__ == "__main__":
    main()
