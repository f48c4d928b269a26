"""The example for a table of texts: the model it fits on the embeddings."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin

EXAMPLES = Path(__file__).parents[1] / "examples"


class LengthEmbedder(TransformerMixin, BaseEstimator):
    """Two columns, of which the one that tells the classes apart is too small for an unscaled model."""

    def __init__(self, backbone=None, verbose=False):
        self.backbone = backbone
        self.verbose = verbose

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return np.array([[1e-3 * len(text), i % 7] for i, text in enumerate(X)])


def test_embeddings_of_texts_are_not_standardized(tmp_path, monkeypatch, capsys):
    """Standardized, the length would tell the classes apart, and the accuracy would be 1."""
    pd = pytest.importorskip("pandas")
    monkeypatch.syspath_prepend(EXAMPLES)
    import text_column

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "texts.csv"
    lines = ["a text", "some longer text"] * 20
    pd.DataFrame({"text": lines, "label": ["short", "long"] * 20}).to_csv(path, index=False)
    monkeypatch.setattr(text_column, "TextEmbedder", LengthEmbedder)
    monkeypatch.setattr(sys, "argv", ["text_column.py", str(path)])
    text_column.main()
    rows = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines() if "Embedder" in line}
    assert float(rows["TextEmbedder"]) < 0.9
