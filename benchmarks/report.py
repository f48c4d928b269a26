"""Write the table of benchmarks/README.md from the results of the other benchmarks.

    python -m benchmarks.report [--results benchmarks/results] [--readme benchmarks/README.md]

Reads all JSON files and rewrites the text between the two markers. Of several results from one machine the newest
counts. Work that was not measured is left out. Agreement with float32 is one sentence below the table.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import accuracy, cache, embed, finetune, gridsearch, learning_curve, methods, selection
from benchmarks.common import RESULTS, Goal

__all__ = ["main", "rewritten", "table"]

_START, _END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
_GOALS = {
    "embed": embed.GOALS,
    "gridsearch": gridsearch.GOALS,
    "cache": cache.GOALS,
    "finetune": finetune.GOALS,
    "accuracy": accuracy.GOALS,
    "methods": methods.GOALS,
    "learning_curve": learning_curve.GOALS,
    "selection": selection.GOALS,
}


def table(documents: Iterable[Mapping[str, Any]]) -> str:
    """Return all results as a Markdown table, with the agreement with float32 and the machines below it.

    Parameters
    ----------
    documents : iterable of dict
        Documents that the benchmarks wrote.
    """
    newest_first = sorted(documents, key=lambda found: found["measured"], reverse=True)
    lines = ["| work | against | measured | of peak | goal | met | machine |", "|---|---|---|---|---|---|---|"]
    cosines: list[tuple[Goal, float]] = []
    #: Machines in the order in which they appear: a name and a number.
    machines: dict[Hashable, tuple[str, int]] = {}
    for benchmark, goals in _GOALS.items():
        chosen = [found for found in newest_first if found["benchmark"] == benchmark]
        for goal in goals:
            for found, value in _measured(goal, chosen):
                if ": cosine, " in goal.work:
                    cosines.append((goal, value))
                    continue
                _, number = machines.setdefault(_kind(found), (_named(found), len(machines) + 1))
                lines.append(f"{_line(goal, found, value)} {number} |")
    names = [f"{number}. {name}" for name, number in machines.values()]
    return "\n".join([*lines, "", *_agreement(cosines), *names])


def _agreement(cosines: list[tuple[Goal, float]]) -> list[str]:
    """Return one sentence on all cosines, and a line for each goal that is not met."""
    if not cosines:
        return []
    mean, least = (
        min(value for goal, value in cosines if goal.work.endswith(f": cosine, {kind}")) for kind in ("mean", "least")
    )
    works = {goal.work.rpartition(":")[0] for goal, _ in cosines}
    missed = [f"Below its goal: {goal.work}, {value:.5f}." for goal, value in cosines if not goal.met(value)]
    sentence = (
        f'Agreement: with `precision="auto"`, over {len(works)} works and all machines, the lowest mean cosine to '
        f"float32 is {mean:.5f} and the lowest of a single sample {least:.5f}."
    )
    return [sentence, *missed, ""]


def _measured(goal: Goal, documents: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], float]]:
    """Return, for each machine, the newest document that has a value, and the value."""
    found: dict[Hashable, tuple[Mapping[str, Any], float]] = {}
    for each in documents:
        with suppress(LookupError):
            found.setdefault(_kind(each), (each, goal.value(each)))
    return list(found.values())


def _kind(found: Mapping[str, Any]) -> Hashable:
    """Return the identity of a machine: its features, and its peak to a factor of two."""
    machine, peaks = found["machine"], found.get("peak_gflops")
    features = (machine["cores"], machine["threads"], *machine["instruction_sets"], machine["torch"])
    return features, None if peaks is None else round(math.log2(peaks["float32"]))


def _line(goal: Goal, found: Mapping[str, Any], value: float) -> str:
    share = ""
    with suppress(LookupError):
        share = f"{goal.share(found):.0%}" if goal.share else ""
    measured = f"| {goal.work} | {goal.against} | {value:,.{goal.digits}f}{goal.unit} | {share}".rstrip()
    if goal.bound is None:
        return f"{measured} | | |"
    sign = "at most" if goal.at_most else "at least"
    met = "yes" if goal.met(value) else "no"
    return f"{measured} | {sign} {goal.bound:,}{goal.unit} | {met} |"


def _named(found: Mapping[str, Any]) -> str:
    machine, peaks = found["machine"], found.get("peak_gflops")
    speeds = [f"{peak / 1000:.1f} TFLOP/s in {dtype}" for dtype, peak in peaks.items()] if peaks else ["not measured"]
    name = (
        f"{machine['cores']} cores ({machine['architecture']}: {', '.join(machine['instruction_sets'])}), "
        f"peak of products {' and '.join(speeds)}, "
        f"{machine['threads']} threads, torch {machine['torch']}."
    )
    return name if machine["bf16_units"] else f"{name} There are no bfloat16 units: precision auto is float32 here."


def rewritten(readme: str, content: str) -> str:
    """Return the file's text with other content between its markers."""
    before, start, rest = readme.partition(_START)
    _, end, after = rest.partition(_END)
    if not (start and end):
        raise SystemExit(f"The file has no {_START} and {_END} to write between.")
    return f"{before}{start}\n{content}\n{end}{after}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--readme", type=Path, default=RESULTS.parent / "README.md")
    options = parser.parse_args(arguments)
    paths = sorted(options.results.glob("*.json"))
    if not paths:
        raise SystemExit(f"{options.results} has no results: run python -m benchmarks.embed first.")
    content = table(json.loads(path.read_text(encoding="utf-8")) for path in paths)
    options.readme.write_text(rewritten(options.readme.read_text(encoding="utf-8"), content), encoding="utf-8")
    print(content)


if __name__ == "__main__":
    main()
