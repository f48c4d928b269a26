"""Scores as users write them, in a module without torch, so that a process that names them starts quickly."""

from __future__ import annotations

from functools import partial

from sklearn.metrics import make_scorer

from skembed.utils.naming import shown


def sixth_root(y, outputs):
    return float((y == outputs).mean() ** (1 / 6))


class Judge:
    def __call__(self, estimator, X, y):
        return 0.0


def names() -> str:
    """Return the names of scores of every kind."""
    scores = (None, "accuracy", sixth_root, make_scorer(sixth_root), partial(sixth_root, y=0), Judge())
    return " ".join(map(shown, scores))
