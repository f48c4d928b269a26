"""How well scores that train nothing foretell which backbone, layer and pooling is best, and what they cost.

    python -m benchmarks.selection [--only topics images speech] [--finetune]

On each data set all candidates (backbones, layers, poolings) are embedded and scored by `rank_backbones`. What a score
should foretell is the accuracy of a linear probe in five folds. Of each score: Kendall's tau with that accuracy [1]_,
the seconds it takes for all candidates against the seconds of trying all of them (their cross-validated probes; either
needs the embeddings, whose seconds stand apart), and its regret: the accuracy of the best candidate less that of its
choice. With --finetune each candidate is also fine-tuned (its top block, a few epochs) and judged on samples that the
fit has not seen. Scores and probes run on one BLAS thread, which is the faster for matrices of this size.

Needs the labelled data in ../shared/data or $SKEMBED_DATA; only the texts have a stand-in.

References
----------
.. [1] You, Liu, Wang & Long (2021), LogME: Practical Assessment of Pre-trained Models for Transfer Learning, section 5.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import kendalltau
from sklearn.base import clone
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from benchmarks import data
from benchmarks.common import RESULTS, Goal, document, print_table, write
from skembed import AudioEmbedder, FineTuneClassifier, ImageEmbedder, TextEmbedder, rank_backbones
from skembed.selection.ranking import SCORES

__all__ = ["GOALS", "main"]

#: Those that train nothing on the embeddings, or as good as nothing.
FORETELLING = ("logme", "h_score", "nleep", "transrate", "knn")
PROBE = "linear_probe"
#: Epochs of a fine-tuning of the top block, and samples that it learns from and is judged on.
_EPOCHS, _TUNED_ON, _JUDGED_ON = 6, 400, 600


class Choice(NamedTuple):
    """Labelled samples, and the embedders that compete for them."""

    X: list
    y: np.ndarray
    candidates: dict[str, Any]
    source: str


def _topics(n: int) -> Choice:
    texts, labels, source = data.labelled_texts(n)
    bert = data.random_bert()
    settings = [(layers, pooling) for layers in (0, 1, 2, 4, 5, -1) for pooling in ("mean", "max", "cls")]
    # Before the first block the class token knows nothing of the text: its row is the same for all.
    settings.remove((0, "cls"))
    candidates = {
        _named("MiniLM", layers, pooling): TextEmbedder(data.minilm(), layers=layers, pooling=pooling, device="cpu")
        for layers, pooling in settings
    } | {
        _named("random BERT", layers, "mean"): TextEmbedder(bert, layers=layers, pooling="mean", device="cpu")
        for layers in (4, -1)
    }
    return Choice(texts, np.array(labels), candidates, source)


def _images(n: int) -> Choice:
    paths, source = data.images(n)
    settings = [(layers, pooling) for layers in (1, 2, 3, 4, 5, 6, -1) for pooling in ("mean", "max")]
    candidates = {
        _named("EfficientNet-Lite0", layers, pooling): ImageEmbedder(
            data.efficientnet(), layers=layers, pooling=pooling, device="cpu"
        )
        for layers, pooling in settings
    }
    return Choice(paths, _folders(paths), candidates, source)


def _speech(n: int) -> Choice:
    paths, source = data.clips(n, shortest=0, longest=30)
    wav2vec = data.random_wav2vec()
    settings = [(layers, pooling) for layers in (0, 1, 2, 3, -1) for pooling in ("mean", "max")]
    candidates = {
        _named("Whisper-tiny", layers, pooling): AudioEmbedder(
            data.whisper(), layers=layers, pooling=pooling, device="cpu"
        )
        for layers, pooling in settings
    } | {
        _named("random wav2vec 2.0", layers, "mean"): AudioEmbedder(
            wav2vec, layers=layers, pooling="mean", device="cpu"
        )
        for layers in (4, -1)
    }
    return Choice(paths, _folders(paths), candidates, source)


def _named(backbone: str, layers: int, pooling: str) -> str:
    return f"{backbone}, layer {layers}, {pooling}"


def _folders(paths: Sequence[Path]) -> np.ndarray:
    return np.array([Path(path).parent.name for path in paths])


SETS: dict[str, tuple[Callable[[int], Choice], int]] = {
    "topics": (_topics, 1200),
    "images": (_images, 1000),
    "speech": (_speech, 1000),
}


def _on_one_thread(name: str) -> Callable:
    """A score as `rank_backbones` takes it, with one BLAS thread."""

    def score(rows, y):
        with threadpool_limits(1, user_api="blas"):
            return SCORES[name](rows, y, "classification", 0)

    score.__name__ = name
    return score


def _ranked(choice: Choice) -> list[dict[str, Any]]:
    """One line a candidate: scores, seconds, accuracy."""
    scores = [_on_one_thread(name) for name in (*FORETELLING, PROBE)]
    table = rank_backbones(choice.X, choice.y, choice.candidates, scores=scores, task="classification")
    return table.drop(columns="error").to_dict("records")


def _fine_tuned(choice: Choice, embedder: Any) -> dict[str, float]:
    """Accuracy on samples that a cheap fine-tuning has not seen, and its seconds."""
    n_train = min(_TUNED_ON, len(choice.y) // 2)
    X, X_test, y, y_test = train_test_split(choice.X, choice.y, train_size=n_train, stratify=choice.y, random_state=0)
    X_test, y_test = X_test[:_JUDGED_ON], y_test[:_JUDGED_ON]
    start = time.perf_counter()
    classifier = FineTuneClassifier(clone(embedder), strategy="partial", max_epochs=_EPOCHS, random_state=0).fit(X, y)
    seconds = time.perf_counter() - start
    return {"fine_tuned": float(classifier.score(X_test, y_test)), "fine_tuned_seconds": seconds}


def _judged(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line a score: how well it foretells, and what it costs."""

    def column(name: str) -> np.ndarray:
        return np.array([line[name] for line in lines], dtype=float)

    accuracy, trying = column(PROBE), column(f"{PROBE}_seconds").sum()
    rows = []
    for name in FORETELLING:
        found, seconds = column(name), column(f"{name}_seconds").sum()
        tau = kendalltau(found, accuracy)
        row = {
            "score": name,
            "tau": float(tau.statistic),
            "p": float(tau.pvalue),
            "regret, points": float(100 * (accuracy.max() - accuracy[found.argmax()])),
            "seconds": float(seconds),
            "seconds of trying all": float(trying),
            "times as fast": float(trying / seconds),
        }
        if "fine_tuned" in lines[0]:
            tuned = column("fine_tuned")
            row["tau, fine-tuned"] = float(kendalltau(found, tuned).statistic)
            row["regret, fine-tuned, points"] = float(100 * (tuned.max() - tuned[found.argmax()]))
            row["seconds of fine-tuning all"] = float(column("fine_tuned_seconds").sum())
        rows.append(row)
    return rows


def _of(set_: str, score: str, what: str) -> Callable[[Any], float]:
    def value(found) -> float:
        (row,) = [row for row in found["results"][set_]["scores"] if row["score"] == score]
        return row[what]

    return value


def _fine_tuning_saved(found) -> float:
    lines = found["results"]["topics"]["candidates"]
    return sum(line["fine_tuned_seconds"] for line in lines) / sum(line["logme_seconds"] for line in lines)


#: For the score that sorts the table of `rank_backbones` unless another is asked for.
GOALS = [
    goal
    for name in SETS
    for goal in (
        Goal(f"{name}: Kendall's tau of LogME", "the probe's accuracy", _of(name, "logme", "tau"), 0.6, "", digits=2),
        Goal(
            f"{name}: points of accuracy that LogME's choice lacks",
            "the best candidate",
            _of(name, "logme", "regret, points"),
            2.0,
            " points",
            at_most=True,
        ),
        Goal(
            f"{name}: LogME of all candidates",
            "cross-validated probes of all, embeddings known",
            _of(name, "logme", "times as fast"),
            10.0,
        ),
    )
] + [
    Goal(
        "topics: Kendall's tau of LogME",
        "accuracy after fine-tuning the top block",
        _of("topics", "logme", "tau, fine-tuned"),
        0.6,
        "",
        digits=2,
    ),
    Goal("topics: LogME of all candidates", "fine-tuning the top block of all", _fine_tuning_saved, 100, digits=0),
]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--samples", type=int, default=None, help="samples of each data set, at most")
    parser.add_argument("--finetune", action="store_true", help="fine-tune each candidate as well")
    parser.add_argument("--json", type=Path, default=RESULTS / "selection.json")
    options = parser.parse_args(arguments)
    results = {}
    for name in options.only:
        build, n_samples = SETS[name]
        choice = build(options.samples or n_samples)
        if len(set(choice.y)) < 2:
            print(f"\n{name}: there are no labels for {choice.source}. Set $SKEMBED_DATA.")
            continue
        lines = _ranked(choice)
        if options.finetune:
            for line in lines:
                line.update(_fine_tuned(choice, choice.candidates[line["candidate"]]))
                print(f"  {line['candidate']}: fine-tuned {line['fine_tuned']:.4f}", flush=True)
        scores = _judged(lines)
        print_table(f"{name}: {len(choice.y)} samples ({choice.source}), {len(set(choice.y))} classes", _shown(lines))
        print_table(f"{name}: scores against the accuracy of {len(lines)} candidates", scores)
        results[name] = {"n_samples": len(choice.y), "candidates": lines, "scores": scores}
    write(document("selection", results=results), options.json)


def _shown(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What of a candidate's line fits a terminal, the most accurate first."""
    columns = ["candidate", PROBE, *FORETELLING, "embedding_seconds", "width"]
    columns += ["fine_tuned"] if "fine_tuned" in lines[0] else []
    return [{key: line[key] for key in columns} for line in sorted(lines, key=lambda line: -line[PROBE])]


if __name__ == "__main__":
    main()
