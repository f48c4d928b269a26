"""How fast rows are looked up, what keys cost, what a second run saves, and what is held in memory.

    python -m benchmarks.cache [--rows 50000] [--texts 2000] [--repeats 3] [--memory] [--json FILE]

Rows are 384 float32 values. The disk cache is read by a process that has not written it (the operating system still
holds its pages). --memory, which takes minutes, watches the resident set over 2,000 batches, and embeds 100,000 texts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data
from benchmarks.common import RESULTS, Goal, document, machine, print_table, write
from benchmarks.measure import PeakMemory, last_json
from benchmarks.peers import peer

__all__ = ["GOALS", "main"]

WIDTH = 384
NAMESPACE = "benchmark"
#: Rows a call, about what a transform asks for at once.
CALL = 4096

# -- rows a second ----------------------------------------------------------------------------------------


def lookups(n: int, path: str | None = None) -> dict[str, float]:
    """Rows a second put into a cache and got from it: in memory, or on disk and got by another process."""
    from skembed import EmbeddingCache

    where = "memory" if path is None else "disk"
    cache = EmbeddingCache() if path is None else EmbeddingCache(path)
    keys = _keys(n)
    rows = np.random.default_rng(0).normal(size=(n, WIDTH)).astype(np.float32)
    start = time.perf_counter()
    for i in range(0, n, CALL):
        cache.put_many(NAMESPACE, keys[i : i + CALL], rows[i : i + CALL])
    put = n / (time.perf_counter() - start)
    got = _rows_got(cache, keys) if path is None else last_json(["-m", "benchmarks.cache", "--get", path, str(n)])
    return {f"put, {where}, rows/s": put, f"get, {where}, rows/s": got}


def _rows_got(cache, keys: list[bytes]) -> float:
    """Rows a second, in another order than they were put in."""
    order = np.random.default_rng(1).permutation(len(keys))
    shuffled = [keys[i] for i in order]
    start = time.perf_counter()
    found = [row for i in range(0, len(shuffled), CALL) for row in cache.get_many(NAMESPACE, shuffled[i : i + CALL])]
    seconds = time.perf_counter() - start
    if any(row is None for row in found):
        raise RuntimeError("The cache has lost rows.")
    return len(found) / seconds


def _get_from_disk(path: str, n: int) -> None:
    """Be the other process: opening the cache is part of the first call."""
    from skembed import EmbeddingCache

    keys = _keys(n)
    print(json.dumps(_rows_got(EmbeddingCache(path), keys)))


def _keys(n: int) -> list[bytes]:
    from skembed.inputs import text_key

    return [text_key(text) for text in data.many_texts(n)]


# -- keys -------------------------------------------------------------------------------------------------


def hashing(n: int) -> dict[str, float]:
    """Content keys of short texts, against one batched call of their tokenizer."""
    from transformers import AutoTokenizer

    from skembed.inputs import text_key

    texts = data.many_texts(n)
    tokenizer = AutoTokenizer.from_pretrained(data.minilm())
    tokenizer(texts[:10])
    start = time.perf_counter()
    for text in texts:
        text_key(text)
    keyed = time.perf_counter()
    tokenizer(texts)
    tokenized = time.perf_counter()
    return {
        "content keys/s": n / (keyed - start),
        "texts tokenized/s": n / (tokenized - keyed),
        "keys, % of tokenizing": 100 * (keyed - start) / (tokenized - keyed),
    }


# -- a second run -----------------------------------------------------------------------------------------

_RUN = """
import sys, time
from benchmarks import data
texts = data.texts(int(sys.argv[1])).samples
start = time.perf_counter()
from skembed import TextEmbedder
embedder = TextEmbedder(device="cpu", cache=sys.argv[2]).fit(texts)
fitted = time.perf_counter()
embedder.transform(texts)
print([fitted - start, time.perf_counter() - fitted])
"""


def second_run(n: int) -> dict[str, float]:
    """A script run twice with one disk cache: all of it, and its transform alone."""
    with tempfile.TemporaryDirectory(dir=data.workspace()) as store:
        path = str(Path(store) / "cache")
        (first, _, first_transform), (second, fit, second_transform) = (_script(n, path) for _ in range(2))
    return {
        "first run, whole, s": first,
        "second run, whole, s": second,
        "first run, transform, s": first_transform,
        "second run, import and fit, s": fit,
        "second run, transform, s": second_transform,
        "whole, first/second": first / second,
        "transform, first/second": first_transform / second_transform,
    }


def _script(n: int, path: str) -> tuple[float, float, float]:
    """Seconds of a whole `python -c`, of its import and fit, and of its transform."""
    start = time.perf_counter()
    fit, transform = last_json(["-c", _RUN, str(n), path])
    return time.perf_counter() - start, fit, transform


# -- memory -----------------------------------------------------------------------------------------------


def resident_set(batches: int = 2000, size: int = 32) -> dict[str, float]:
    """Growth of the resident set from batch to batch, each of other texts, without a cache."""
    from skembed import TextEmbedder

    process = peer("psutil").Process()
    texts = data.many_texts(batches * size)
    embedder = TextEmbedder(data.minilm(), device="cpu", cache=None).fit(texts[:1])
    held = []
    for i in range(batches):
        embedder.transform(texts[i * size : (i + 1) * size])
        held.append(process.memory_info().rss / 1e3)
    # Kernels of lengths that are rare, and the allocator's pools, come in the first half: both are told.
    early, half = batches // 10, batches // 2
    return {
        "resident set, kB a batch": float(np.polyfit(np.arange(half, batches), held[half:], 1)[0]),
        "resident set, MB gained from a tenth to a half": (held[half] - held[early]) / 1e3,
        "resident set, MB gained in the second half": (held[-1] - held[half]) / 1e3,
    }


def many_texts_at_once(n: int = 100_000) -> dict[str, float]:
    """The most memory held above the loaded model while so many texts are embedded, with the default cache."""
    from skembed import TextEmbedder

    texts = data.many_texts(n)
    embedder = TextEmbedder(data.minilm(), device="cpu").fit(texts[:1])
    embedder.transform(texts[:1])
    with PeakMemory() as memory:
        start = time.perf_counter()
        embedder.transform(texts)
        seconds = time.perf_counter() - start
    return {f"{n:,} texts, MB above the model": memory.above, f"{n:,} texts, s": seconds}


_WATCHED = {"resident_set": resident_set, "many_texts_at_once": many_texts_at_once}

# -- all of it --------------------------------------------------------------------------------------------


def _repeated(repeats: int, figures: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Medians of what a function returns."""
    found = defaultdict(list)
    for _ in range(repeats):
        for name, value in figures().items():
            found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def _on_disk(n: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=data.workspace()) as store:
        return lookups(n, str(Path(store) / "cache"))


def _measure(rows: int, texts: int, repeats: int, memory: bool) -> dict[str, float]:
    figures = {
        **_repeated(repeats, lambda: lookups(rows)),
        **_repeated(repeats, lambda: _on_disk(rows)),
        **_repeated(repeats, lambda: hashing(rows)),
        **_repeated(repeats, lambda: second_run(texts)),
    }
    if memory:
        # Each in a process of its own. The pools of an allocator grow otherwise each time.
        figures |= _repeated(repeats, lambda: last_json(["-m", "benchmarks.cache", "--watch", "resident_set"]))
        figures |= last_json(["-m", "benchmarks.cache", "--watch", "many_texts_at_once"])
    return figures


def _figure(name: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda document: document["results"][name]


_FIRST = "the first run"
_SECOND = "a second run in a new process, disk cache warm"
_PEAK = "100,000 texts, MB above the model"

GOALS = (
    Goal("cached rows of 384, from memory", "", _figure("get, memory, rows/s"), 200_000, unit=" rows/s", digits=0),
    Goal("cached rows of 384, from disk", "", _figure("get, disk, rows/s"), 50_000, unit=" rows/s", digits=0),
    Goal("hashing short texts", "tokenizing them", _figure("keys, % of tokenizing"), 5, unit=" %", at_most=True),
    Goal(f"{_SECOND}: transform", _FIRST, _figure("transform, first/second"), 30),
    Goal(f"{_SECOND}: the whole script, imports and all", _FIRST, _figure("whole, first/second"), 30),
    Goal("resident set over 2,000 batches", "", _figure("resident set, kB a batch"), 1, " kB a batch", at_most=True),
    Goal("peak memory, 100,000 short texts", "the loaded model", _figure(_PEAK), 1500, " MB", at_most=True, digits=0),
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cache", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000, help="rows put and got, texts hashed")
    parser.add_argument("--texts", type=int, default=2000, help="texts of the script that is run twice")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="watch memory as well; takes minutes")
    parser.add_argument("--json", type=Path, default=RESULTS / "cache.json")
    parser.add_argument("--get", nargs=2, metavar=("PATH", "N"), help=argparse.SUPPRESS)
    parser.add_argument("--watch", choices=_WATCHED, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.get:
        return _get_from_disk(options.get[0], int(options.get[1]))
    if options.watch:
        print(json.dumps(_WATCHED[options.watch]()))
        return None
    data.workspace()
    print(machine())
    figures = _measure(options.rows, options.texts, options.repeats, options.memory)
    source = data.texts(1).source
    title = f"{options.rows:,} rows of {WIDTH}; {options.texts:,} short texts ({source}) in the second run"
    print_table(title, [{"figure": name, "median": value} for name, value in figures.items()])
    print()
    write(document("cache", rows=options.rows, texts=options.texts, data=source, results=figures), options.json)
    return None


if __name__ == "__main__":
    main()
