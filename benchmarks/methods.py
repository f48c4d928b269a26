"""What each method of fine-tuning trains, and what that costs: full and partial weights, LoRA, adapters and the rest.

    python -m benchmarks.methods [--only topics images vit] [--repeats 1] [--epochs 5]

For each data set, method and repeat a process of its own: the base is loaded and warm before the fit, all epochs are
run, and the last weights are kept whatever they are, so that every method is seen at work. Trained parameters (the head
left out), accuracy on samples that no fit has seen, peak memory above that of the process with the base loaded, the
median of seconds an epoch, and bytes of the estimator's pickle.

topics : short texts, MiniLM.
images : photographs, EfficientNet-Lite0; it has no attention, so no prefix.
vit : the same photographs, ViT-S/16 with random weights: real ones are not among the bundled networks. Its accuracy
    says nothing of pre-trained ones; its cost does.
"""

from __future__ import annotations

import argparse
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split

from benchmarks import data
from benchmarks.common import RESULTS, Goal, document, print_table, write
from benchmarks.measure import PeakMemory, last_json
from skembed import FineTuneClassifier, ImageEmbedder, Optimization, Partial, TextEmbedder

__all__ = ["GOALS", "main"]

#: Strategies and methods by the names of a table's rows; "head" is the frozen network with the same number of epochs.
WAYS: dict[str, dict[str, Any]] = {
    "head": {"strategy": "head"},
    "full": {"strategy": "full"},
    "partial": {"strategy": Partial(2)},
    **{
        name: {"strategy": "full", "method": name}
        for name in ("lora", "adapter", "prefix", "prompt", "bitfit", "norms")
    },
    "partial+lora": {"strategy": Partial(2), "method": "lora"},
}
_TEXT_ONLY = ("prefix", "prompt")


class Labelled(NamedTuple):
    """Samples, their labels, how they are read, and how many train."""

    X: list
    y: np.ndarray
    embedder: Any
    n_train: int


def _topics() -> Labelled:
    texts, labels, _ = data.labelled_texts(2400)
    return Labelled(texts, np.array(labels), TextEmbedder(data.minilm(), device="cpu"), 600)


def _photographs(embedder: ImageEmbedder) -> Labelled:
    paths = data.images(1000).samples
    return Labelled(paths, np.array([Path(path).parent.name for path in paths]), embedder, 230)


def _images() -> Labelled:
    return _photographs(ImageEmbedder(data.efficientnet(), device="cpu"))


def _vit() -> Labelled:
    return _photographs(ImageEmbedder(data.random_timm("vit_small_patch16_224"), device="cpu"))


SETS: dict[str, Callable[[], Labelled]] = {"topics": _topics, "images": _images, "vit": _vit}


def _one(name: str, way: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """One fit in this process."""
    from skembed.backbones.loading.load import load
    from skembed.utils.device import resolve_device

    X, y, embedder, n_train = SETS[name]()
    X, X_test, y, y_test = train_test_split(X, y, train_size=options.train or n_train, stratify=y, random_state=seed)
    X_test, y_test = X_test[: options.test], y_test[: options.test]
    embedder.set_params(cache=None).fit(X[:1]).transform(X[:32])
    load(embedder.spec_, resolve_device("cpu"), "float32")
    if "lora" in way:
        import peft  # noqa: F401, what an import takes is no part of the method's memory
    classifier = FineTuneClassifier(
        embedder,
        **WAYS[way],
        max_epochs=options.epochs,
        validation_fraction=None,
        optimization=Optimization(backbone_factor=options.factor),
        random_state=seed,
    )
    with PeakMemory() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier.fit(X, y)
    head = classifier.head_coef_.size + classifier.head_intercept_.size
    return {
        "trained": float(classifier.history_[-1]["n_trained"] - head),
        "accuracy": float(classifier.score(X_test, y_test)),
        "peak_mb": memory.above,
        "epoch_s": float(np.median([record["seconds"] for record in classifier.history_])),
        "pickle_kb": len(pickle.dumps(classifier)) / 1e3,
    }


def _in_a_process(name: str, way: str, seed: int, arguments: list[str]) -> dict[str, float]:
    return last_json(["-m", "benchmarks.methods", "--one", name, way, str(seed), *arguments])


def _summary(found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    rows = []
    for way, each in found.items():
        row: dict[str, Any] = {"way": way}
        for key in each[0]:
            row[key] = float(np.median([one[key] for one in each]))
        row["accuracy"] = float(np.mean([one["accuracy"] for one in each]))
        rows.append(row)
    return rows


def _pickle_of_lora(found) -> float:
    """Bytes of the pickle for each byte of the factors, which are float32."""
    (row,) = [row for row in found["results"]["topics"] if row["way"] == "lora"]
    return 1e3 * row["pickle_kb"] / (4 * row["trained"])


GOALS = [
    Goal("topics, LoRA: the estimator's pickle", "its factors", _pickle_of_lora, 1.2, at_most=True, digits=2),
]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--train", type=int, default=None, help="training samples")
    parser.add_argument("--test", type=int, default=1000, help="held-out samples, at most")
    parser.add_argument(
        "--factor", default="auto", help="backbone_factor", type=lambda s: s if s == "auto" else float(s)
    )
    parser.add_argument("--json", type=Path, default=RESULTS / "methods.json")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one is not None:
        name, way, seed = options.one
        print(json.dumps(_one(name, way, int(seed), options)))
        return
    passed = [f"--epochs={options.epochs}", f"--test={options.test}", f"--factor={options.factor}"]
    passed += [f"--train={options.train}"] if options.train else []
    # Made here, so that the processes find it.
    data.workspace()
    results = {}
    for name in options.only:
        ways = [way for way in options.ways if name == "topics" or way not in _TEXT_ONLY]
        found = {way: [_in_a_process(name, way, seed, passed) for seed in range(options.repeats)] for way in ways}
        results[name] = _summary(found)
        print_table(f"{name}: {options.epochs} epochs, {options.repeats} splits", results[name])
    write(document("methods", repeats=options.repeats, epochs=options.epochs, results=results), options.json)


if __name__ == "__main__":
    main()
