"""Accuracy by the number of labelled samples a class, with and without augmentation.

    python -m benchmarks.learning_curve [--only topics images] [--sizes 5 10 20 40] [--repeats 3]
        [--strategies head partial lora] [--epochs 30] [--json FILE]

One held-out set for all: three tenths of each class. From the rest so many samples a class are drawn anew for each
repeat, and `FineTuneClassifier` is fitted to them with each strategy and otherwise its defaults, once as they are and
once with ``augment=Augmentation("standard", views=4)``. "head" is the frozen backbone. A strategy that this version
does not know is left out. A class that is smaller gives all it has; a size that most classes cannot give is left out.

Whether augmentation helps is said in a sentence for each strategy, from the differences between the two fits to the
same samples and their standard error, which is over draws of training samples and for these held-out ones. Every fit is
written down at once: run again, the benchmark goes on with those that are missing. With matplotlib there is a picture
beside the JSON file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from sklearn.model_selection import train_test_split

from benchmarks import data
from benchmarks.common import RESULTS, Goal, document, print_table, write
from skembed import Augmentation, FineTuneClassifier, ImageEmbedder, TextEmbedder

__all__ = ["GOALS", "Pairs", "main", "sentence"]

SETS = ("topics", "images")
SIZES = (5, 10, 20, 40)
#: Those that this version does not know are left out.
STRATEGIES = ("head", "partial", "lora")
AUGMENTED = {"augment": Augmentation("standard", views=4)}
HELD_OUT = 0.3


class Pool(NamedTuple):
    """Samples to draw from, those that are held out, and how they are read."""

    X: list
    y: np.ndarray
    X_test: list
    y_test: np.ndarray
    embedder: Any


def _pool(name: str) -> Pool:
    if name == "topics":
        texts, labels, _ = data.labelled_texts(2400)
        X, y, embedder = texts, np.array(labels), TextEmbedder(data.minilm(), device="cpu")
    else:
        X, source = data.images(1000)
        if source != "real images":
            raise SystemExit("images: there are none with labels here. Set $SKEMBED_DATA, or use --only topics.")
        y = np.array([Path(path).parent.name for path in X])
        embedder = ImageEmbedder(data.efficientnet(), device="cpu")
    X, X_test, y, y_test = train_test_split(X, y, test_size=HELD_OUT, stratify=y, random_state=0)
    return Pool(X, y, X_test, y_test, embedder)


def _drawn(y: np.ndarray, size: int, repeat: int) -> np.ndarray:
    """Positions of so many samples of each class, or all it has; of one size and repeat the same in every run."""
    rng = np.random.default_rng([size, repeat])
    classes = [np.flatnonzero(y == label) for label in np.unique(y)]
    return np.concatenate([rng.permutation(own)[:size] for own in classes])


def _possible(name: str, y: np.ndarray, sizes: Sequence[int]) -> list[int]:
    """Sizes that at least half of the classes can give; what is not as it was asked for is printed."""
    counts = np.unique(y, return_counts=True)[1]
    possible = [size for size in sizes if np.mean(counts >= size) >= 0.5]
    for size in sizes:
        fewer = counts[counts < size]
        if size not in possible:
            print(f"{name}: {size} a class is left out: {len(fewer)} of {len(counts)} classes have fewer.")
        elif len(fewer):
            print(f"{name}: at {size} a class {len(fewer)} of {len(counts)} have only {fewer.min()} to {fewer.max()}.")
    return possible


def _known(strategies: Sequence[str]) -> list[str]:
    """Strategies that this version has."""
    known = []
    for strategy in strategies:
        try:
            FineTuneClassifier(**_parameters(strategy))._validate_params()
            known.append(strategy)
        except ValueError:
            print(f"strategy={strategy!r} is left out: this version does not have it.")
    return known


def _parameters(name: str) -> dict[str, Any]:
    """Parameters of a strategy, or of LoRA in all blocks."""
    return {"strategy": "full", "method": "lora"} if name == "lora" else {"strategy": name}


def _fit(pool: Pool, key: Mapping[str, Any]) -> dict[str, Any]:
    """One fit: what it was, accuracy, seconds, and whether the probe was kept."""
    chosen = _drawn(pool.y, key["size"], key["repeat"])
    classifier = FineTuneClassifier(
        pool.embedder,
        **_parameters(key["strategy"]),
        max_epochs=key["max_epochs"],
        random_state=key["repeat"],
        **(AUGMENTED if key["augmented"] else {}),
    )
    start = time.perf_counter()
    classifier.fit([pool.X[i] for i in chosen], pool.y[chosen])
    seconds = time.perf_counter() - start
    return {
        **key,
        "samples": len(chosen),
        "accuracy": float(classifier.score(pool.X_test, pool.y_test)),
        "probe_accuracy": _probe_accuracy(pool, chosen, key["repeat"]),
        "seconds": seconds,
        "epochs": classifier.n_epochs_,
        "kept_probe": classifier.kept_ == "probe",
    }


def _probe_accuracy(pool: Pool, chosen: np.ndarray, seed: int) -> float:
    probe = FineTuneClassifier(pool.embedder, strategy="head", max_epochs=0, random_state=seed)
    return float(probe.fit([pool.X[i] for i in chosen], pool.y[chosen]).score(pool.X_test, pool.y_test))


# -- what is said of it -----------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """Differences in accuracy between two fits to the same samples, augmented less plain."""

    differences: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.differences.mean())

    @property
    def error(self) -> float:
        """Standard error of the mean; of one pair it is not known."""
        n = len(self.differences)
        return float(self.differences.std(ddof=1) / n**0.5) if n > 1 else float("nan")

    @property
    def verdict(self) -> str:
        """By a 95 % interval of Student's t: few pairs tell little."""
        n = len(self.differences)
        if n < 2 or not abs(self.mean) > stats.t.ppf(0.975, n - 1) * self.error:
            return "no difference can be told from chance"
        return "it helps" if self.mean > 0 else "it does harm"


def pairs(runs: Sequence[Mapping[str, Any]], **of: Any) -> Pairs:
    """Pairs among the runs that have these values; LookupError where there are none."""
    found: dict[tuple, dict[bool, float]] = {}
    for run in runs:
        if all(run[name] == value for name, value in of.items()):
            found.setdefault((run["set"], run["strategy"], run["size"], run["repeat"]), {})[run["augmented"]] = run[
                "accuracy"
            ]
    both = [each[True] - each[False] for each in found.values() if len(each) == 2]
    if not both:
        raise LookupError(f"no pairs of {of}")
    return Pairs(np.array(both))


def sentence(runs: Sequence[Mapping[str, Any]], name: str, strategy: str, size: int | None = None) -> str:
    """What augmentation did to one strategy, at one size or over all.

    Parameters
    ----------
    runs : sequence of dict
        As in the JSON file.
    name, strategy, size
        Which of them; None for all sizes.
    """
    found = pairs(runs, set=name, strategy=strategy, **({} if size is None else {"size": size}))
    where = "over all sizes" if size is None else f"at {size} a class"
    error = "" if np.isnan(found.error) else f", standard error {100 * found.error:.1f}"
    n = len(found.differences)
    return (
        f"{name}, {strategy}, {where}: augmentation changed the accuracy by {100 * found.mean:+.1f} points{error} "
        f"({n} pair{'s' if n > 1 else ''}): {found.verdict}."
    )


def _summary(runs: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A line for each strategy, size, and with or without augmentation."""
    keys = sorted({(run["strategy"], run["size"], run["augmented"]) for run in runs})
    for strategy, size, augmented in keys:
        own = [run for run in runs if (run["strategy"], run["size"], run["augmented"]) == (strategy, size, augmented)]
        accuracies = [run["accuracy"] for run in own]
        yield {
            "way": f"{strategy}{', augmented' if augmented else ''}",
            "a class": size,
            "samples": own[0]["samples"],
            "accuracy": float(np.mean(accuracies)),
            "std": float(np.std(accuracies, ddof=1)) if len(own) > 1 else None,
            "gain over the probe": float(np.mean([run["accuracy"] - run["probe_accuracy"] for run in own])),
            "kept the probe": float(np.mean([run["kept_probe"] for run in own])),
            "seconds": float(np.median([run["seconds"] for run in own])),
            "repeats": len(own),
        }


def _draw(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A panel for each data set, a colour for each strategy, dashes with augmentation; bars are standard deviations."""
    try:
        import matplotlib
    except ImportError:
        print("There is no picture: pip install matplotlib.")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in SETS if any(run["set"] == name for run in runs)]
    figure, axes = plt.subplots(1, len(names), figsize=(5.5 * len(names), 4.2), squeeze=False, layout="constrained")
    for name, ax in zip(names, axes[0], strict=True):
        rows = list(_summary([run for run in runs if run["set"] == name]))
        ways = list(dict.fromkeys(row["way"] for row in rows))
        strategies = list(dict.fromkeys(way.partition(",")[0] for way in ways))
        for way in ways:
            own = [row for row in rows if row["way"] == way]
            strategy, _, augmented = way.partition(",")
            # Beside one another, so that bars of one size can be told apart.
            shift = 1 + 0.02 * (ways.index(way) - (len(ways) - 1) / 2)
            ax.errorbar(
                [row["a class"] * shift for row in own],
                [row["accuracy"] for row in own],
                [row["std"] or 0.0 for row in own],
                color=f"C{strategies.index(strategy)}",
                linestyle="--" if augmented else "-",
                marker="o",
                markersize=4,
                capsize=3,
                label=way,
            )
        sizes = sorted({row["a class"] for row in rows})
        ax.set_xscale("log")
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.minorticks_off()
        ax.set(title=name, xlabel="labelled samples a class", ylabel="held-out accuracy")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"wrote {path}")


# -- goals ------------------------------------------------------------------------------------------------


def _change(found: Mapping[str, Any], name: str, strategy: str) -> float:
    return 100 * pairs(found["runs"], set=name, strategy=strategy).mean


GOALS = [
    Goal(
        f"{name}, {strategy}, augmented, over the learning curve: points of accuracy",
        "the same without augmentation",
        lambda found, name=name, strategy=strategy: _change(found, name, strategy),
        0.0,
        " points",
    )
    for name in SETS
    for strategy in STRATEGIES
]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning_curve", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="samples a class")
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30, help="at most, of each fit")
    parser.add_argument("--json", type=Path, default=RESULTS / "learning_curve.json")
    options = parser.parse_args(arguments)
    runs: list[dict[str, Any]] = json.loads(options.json.read_text())["runs"] if options.json.is_file() else []
    strategies = _known(options.strategies)
    for name in options.only:
        pool = _pool(name)
        print(f"{name}: {len(pool.y_test)} samples are held out, {len(pool.y)} are drawn from", flush=True)
        sizes = _possible(name, pool.y, options.sizes)
        for repeat, size, strategy, augmented in product(range(options.repeats), sizes, strategies, (False, True)):
            key = {"set": name, "strategy": strategy, "size": size, "augmented": augmented, "repeat": repeat}
            key["max_epochs"] = options.epochs
            if any(key.items() <= run.items() for run in runs):
                continue
            runs.append(_fit(pool, key))
            print(f"  {_told(runs[-1])}", flush=True)
            _keep(runs, options.json)
    chosen = [run for run in runs if run["set"] in options.only and run["strategy"] in strategies]
    for name in options.only:
        own = [run for run in chosen if run["set"] == name]
        print_table(f"{name}: accuracy on one held-out set", _summary(own))
        for strategy in strategies:
            for size in [*sorted({run["size"] for run in own}), None]:
                print(sentence(own, name, strategy, size))
    _draw(runs, options.json.with_suffix(".png"))
    write(document("learning_curve", runs=runs), options.json)


def _told(run: Mapping[str, Any]) -> str:
    return (
        f"{run['strategy']}{', augmented' if run['augmented'] else ''}, {run['size']} a class, repeat {run['repeat']}: "
        f"{run['accuracy']:.3f}, the probe {run['probe_accuracy']:.3f}, {run['seconds']:.0f} s"
    )


def _keep(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Whole or not at all: a run that is stopped while it writes loses nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(document("learning_curve", runs=runs), indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


if __name__ == "__main__":
    main()
