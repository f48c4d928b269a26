"""Pictures are drawn into memory, and closed."""

from __future__ import annotations

import numpy as np
import pytest

from skembed import FineTuneClassifier, Optimization
from skembed.testing import ArrayEmbedder


@pytest.fixture(autouse=True)
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


@pytest.fixture(scope="package")
def rows():
    """Classes that no linear function of the double's frozen features tells apart well; see the fine-tuning tests."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(160, 4)).astype(np.float32)
    return X, (X[:, 0] * (np.abs(X[:, 1]) - 0.7) > 0).astype(int)


@pytest.fixture(scope="package")
def tuned(rows):
    """The top block was trained, and what came of it kept."""
    return FineTuneClassifier(
        ArrayEmbedder(precision="float32"), strategy="partial", learning_rate=1e-2,
        optimization=Optimization(backbone_factor=1.0), max_epochs=6, validation_fraction=None, random_state=0,
    ).fit(*rows)  # fmt: skip


@pytest.fixture(scope="package")
def probed(rows):
    """Trained far too fast: the probe was kept."""
    X, _ = rows
    linear = (X[:, 0] + 0.5 * X[:, 1] > 0).astype(int)
    return FineTuneClassifier(
        ArrayEmbedder(precision="float32"), strategy="full", learning_rate=100.0, max_epochs=3, random_state=0
    ).fit(X, linear)
