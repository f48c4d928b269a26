"""Raw samples to embeddings, against what people would write themselves.

    python -m benchmarks.embed [--only texts|images|audio] [--samples 800] [--repeats 3] [--together] [--json FILE]

All ways of a work run in turn, with the same threads, inputs and weights, from files or texts to rows; loading and a
first run are not timed. Images are a quarter and clips a tenth of --samples. Each way has a process of its own, as it
has with those who use it: in one process all would profit from the freed memory that one of them taught the C library
to keep. Told is also how much memory loading and the first run hold at most. With --together one process does for all.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import data, images, recordings, texts
from benchmarks.common import RESULTS, Work, document, machine, matmul_peak, print_table, write
from benchmarks.measure import Local, Remote, measure, serve

__all__ = ["GOALS", "main"]

#: A kind of samples, where its works are, and which part of --samples it gets.
_KINDS = {"texts": (texts, 1), "images": (images, 4), "audio": (recordings, 10)}

GOALS = (*texts.GOALS, *images.GOALS, *recordings.GOALS)


def _works(kind: str, samples: int) -> list[tuple[Work, str]]:
    module, part = _KINDS[kind]
    return module.works(max(samples // part, 2))


def _serve(kind: str, samples: int, work_name: str, way_name: str) -> None:
    work = next(work for work, _ in _works(kind, samples) if work.name == work_name)
    serve(work, next(way for way in work.ways if way.name == way_name))


def _measure_all(kinds: list[str], samples: int, repeats: int, together: bool) -> dict[str, Any]:
    peaks = [matmul_peak()]
    print(f"{machine()}; {samples=}, {repeats=}")
    results, skipped, sources = [], [], {}
    for kind in kinds:
        command = ["benchmarks.embed", "--only", kind, "--samples", str(samples)]
        start = Local if together else partial(Remote, command=command)
        for work, source in _works(kind, samples):
            print(f"measuring {work.name} ...", file=sys.stderr)
            rows, missing = measure(work, repeats, start)
            results += rows
            skipped += missing
            sources[work.name] = source
            peaks.append(matmul_peak())
    # The highest of all: a busy neighbour slows some of them down.
    peak = {name: max(found[name] for found in peaks) for name in peaks[0]}
    for row in results:
        row["share_of_peak"] = row["gflops"] / (
            max(peak.values()) if row["precision"] == "auto" else peak[row["precision"]]
        )
    return document(
        "embed",
        samples=samples,
        repeats=repeats,
        process_each=not together,
        peak_gflops=peak,
        data=sources,
        results=results,
        skipped=skipped,
    )


def _print(results: dict[str, Any]) -> None:
    print("matrix multiplication, GFLOP/s:", {name: round(peak) for name, peak in results["peak_gflops"].items()})
    for work, source in results["data"].items():
        rows = [row for row in results["results"] if row["work"] == work]
        print_table(f"{work}: {rows[0]['n']}, {source}", [_shown(row) for row in rows])
    print()
    for miss in results["skipped"]:
        print(f"{miss['work']}: {miss['way']} is skipped: {miss['why']}")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    cosines = {name: None if row[name] is None else f"{row[name]:.5f}" for name in ("cosine_mean", "cosine_min")}
    return {
        "way": row["way"],
        "per second": row["per_second"],
        "x": row["ratio"],
        "% of peak": 100 * row["share_of_peak"],
        "cosine mean": cosines["cosine_mean"],
        "least": cosines["cosine_min"],
        "peak MB": row["memory_mb"],
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embed", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=_KINDS, help="one kind of samples")
    parser.add_argument("--samples", type=int, default=800, help="texts; images are a quarter of it, clips a tenth")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--together", action="store_true", help="all ways in one process, for a quick look")
    parser.add_argument("--json", type=Path, help="where to write (default: benchmarks/results/embed[-ONLY].json)")
    parser.add_argument("--serve", nargs=2, metavar=("WORK", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        return _serve(options.only, options.samples, *options.serve)
    kinds = [options.only] if options.only else list(_KINDS)
    data.workspace()  # before any process is started: they share it
    results = _measure_all(kinds, options.samples, options.repeats, options.together)
    _print(results)
    write(results, options.json or RESULTS / f"embed{'-' + options.only if options.only else ''}.json")


if __name__ == "__main__":
    main()
