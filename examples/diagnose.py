"""Advice before training and diagnosis after it, on data and settings that were spoilt on purpose.

    python examples/diagnose.py

Needs pip install -e ".[bundled]". Runs offline in about a minute on two cores: which library is a docstring from?
Each fault is put in by hand, and should be named below.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
from quickstart import docstrings
from sklearn.model_selection import train_test_split

from skembed import FineTuneClassifier, TextEmbedder, advise, diagnose
from skembed.exceptions import SkembedWarning


def say(title: str, text) -> None:
    """A section of the output."""
    print(f"\n{title}\n{'=' * len(title)}\n{text}")


def findings(result) -> str:
    """Names and evidence of what was found, a line each."""
    lines = [f"  {found.name} ({found.severity}): {found.evidence}" for found in result.findings]
    return "\n".join(lines) or "  nothing was found"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    warnings.simplefilter("ignore", SkembedWarning)
    texts, labels = (np.array(values, dtype=object) for values in docstrings(per_library=70))
    X, X_test, y, y_test = train_test_split(texts, labels, stratify=labels, test_size=100, random_state=0)
    embedder, rng = TextEmbedder(), np.random.default_rng(0)

    advice = advise(X, y, embedder)
    say(f"Advice for {len(X)} texts as they are", advice)

    classes = np.unique(y)
    few = np.concatenate([np.flatnonzero(y == name)[:10] for name in classes])
    flipped = rng.permutation(len(y))[: len(y) // 10]
    wrong = y.copy()
    wrong[flipped] = [rng.choice(classes[classes != label]) for label in y[flipped]]
    copied = np.concatenate([np.arange(len(y)), rng.permutation(len(y))[:60]])
    rare = np.flatnonzero((y != classes[0]) | (rng.random(len(y)) < 0.12))
    spoilt = {
        "ten samples a class": (X[few], y[few]),
        "shuffled labels": (X, rng.permutation(y)),
        f"{len(flipped)} labels of {len(y)} flipped": (X, wrong),
        "60 copies": (X[copied], y[copied]),
        f"one class made rare ({(y[rare] == classes[0]).sum()} samples)": (X[rare], y[rare]),
    }
    for name, (samples, targets) in spoilt.items():
        advised = advise(samples, targets, embedder)
        say(f"Advice: {name}", f"strategy={advised.strategy!r}, {dict(advised.settings)}\n{findings(advised)}")
        if targets is wrong and "label noise" in advised:
            suspects = advised["label noise"].samples
            hits = np.isin(suspects, flipped).sum()
            print(f"  {hits} of {len(suspects)} suspects were flipped, of {len(flipped)} that were.")

    partial = {"strategy": "partial", "max_epochs": 5, "random_state": 0}
    healthy = FineTuneClassifier(embedder, **partial).fit(X, y)
    say("Diagnosis: the top block trained at the default rate", diagnose(healthy, X_test, y_test))
    hasty = FineTuneClassifier(embedder, learning_rate=0.3, **partial).fit(X, y)
    say("Diagnosis: at 300 times that rate", hasty.diagnosis_)
    # Nothing is judged, so that what was ruined is kept.
    lost = FineTuneClassifier(embedder, learning_rate=0.1, validation_fraction=None, **partial).fit(
        X, rng.permutation(y)
    )
    say("Diagnosis: at 100 times that rate, on shuffled labels, and kept whatever came", diagnose(lost, X_test, y_test))

    auto = FineTuneClassifier(embedder, strategy="auto", max_epochs=5, random_state=0).fit(X, y)
    say("strategy='auto'", auto.report_)
    print(f"accuracy on held-out texts: {auto.score(X_test, y_test):.3f}")


if __name__ == "__main__":
    main()
