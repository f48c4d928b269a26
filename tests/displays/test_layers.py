"""Layer-by-layer probes and drift by block: the numbers against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skembed import FineTuneClassifier, ImageEmbedder
from skembed.backbones.loading.load import load
from skembed.displays import DriftDisplay, LayerProbeDisplay
from skembed.displays.estimators import layer_features
from skembed.measures import linear_cka, weight_drift
from skembed.testing import ArrayBackbone, ArrayEmbedder
from tests.backbones import tiny

# -- layers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [
    {}, {"normalize": True}, {"truncate_dim": 3}, {"pooling": "layer_attention"}, {"pooling": "mean+max"},
])  # fmt: skip
def test_each_layer_is_as_the_embedder_alone_would_give_it(rows, parameters):
    """Fails when columns are split at the wrong places, or rows normalised or cut before the split."""
    X, _ = rows
    embedder = ArrayEmbedder(precision="float32", **parameters)
    layers, features = layer_features(embedder, X)
    assert layers == [0, 1, 2]
    for layer, found in zip(layers, features, strict=True):
        alone = ArrayEmbedder(precision="float32", **{**parameters, "layers": layer}).fit_transform(X)
        np.testing.assert_allclose(found, alone, atol=1e-6)


def test_layers_of_different_widths(tmp_path):
    tiny.BUILDERS["timm_resnet"](tmp_path)
    images = tiny.samples("image")
    embedder = ImageEmbedder(str(tmp_path), device="cpu", precision="float32")
    layers, features = layer_features(embedder, images, [-1, 1, 2])
    assert len({rows.shape[1] for rows in features}) > 1
    for layer, found in zip(layers, features, strict=True):
        alone = ImageEmbedder(str(tmp_path), device="cpu", precision="float32", layers=layer).fit_transform(images)
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_the_network_runs_once_over_the_samples(rows, monkeypatch):
    X, y = rows
    seen = []
    original = ArrayBackbone.forward_blocks

    def counted(self, batch, layers):
        seen.append(len(batch["values"]))
        return original(self, batch, layers)

    monkeypatch.setattr(ArrayBackbone, "forward_blocks", counted)
    LayerProbeDisplay.from_embedder(ArrayEmbedder(precision="float32", cache=None), X, y)
    # Besides, one small sample tells the width of each layer.
    assert len(X) <= sum(seen) <= len(X) + 4


def test_scores_are_those_of_a_linear_probe_on_each_layer(rows):
    X, y = rows
    display = LayerProbeDisplay.from_embedder(ArrayEmbedder(precision="float32"), X, y, layers=[-1, 0], cv=4)
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    expected = {
        layer: cross_val_score(
            model, ArrayEmbedder(precision="float32", layers=layer).fit_transform(X).astype(float), y, cv=folds
        )
        for layer in (0, 2)
    }
    drawn = display.ax_.containers[0].lines[0]
    assert drawn.get_xdata().tolist() == [0, 2]
    np.testing.assert_allclose(drawn.get_ydata(), [expected[0].mean(), expected[2].mean()])
    ends = [segment[:, 1].tolist() for segment in display.ax_.containers[0].lines[2][0].get_segments()]
    spreads = [(found.mean() - found.std(), found.mean() + found.std()) for found in expected.values()]
    np.testing.assert_allclose(ends, spreads)
    assert display.ax_.get_ylabel() == "accuracy, 4 folds"


def test_the_layer_of_the_highest_mean_is_marked():
    """The highest single fold, 0.9, is another's."""
    display = LayerProbeDisplay([3, 1, 2], [[0.5, 0.6], [0.2, 0.9], [0.7, 0.6]]).plot()
    assert display.best_layer_ == 2
    np.testing.assert_allclose(display.ax_.collections[-1].get_offsets(), [[2, 0.65]])
    assert display.ax_.get_legend().get_texts()[0].get_text() == "layer 2: 0.650 ± 0.050"


def test_numbers_are_scored_by_r2(rows):
    X, _ = rows
    display = LayerProbeDisplay.from_embedder(ArrayEmbedder(), X, X[:, 0], layers=[0, -1])
    assert display.ax_.get_ylabel() == "R², 5 folds"
    assert display.scores.shape == (2, 5)


def test_what_is_no_embedder_is_named(pyplot, tuned, rows):
    X, y = rows
    with pytest.raises(TypeError, match=r"embedder is a Pipeline.*pipeline\['arrayembedder'\]"):
        LayerProbeDisplay.from_embedder(make_pipeline(ArrayEmbedder(), LogisticRegression()), X, y)
    with pytest.raises(TypeError, match="embedder is a LogisticRegression"):
        LayerProbeDisplay.from_embedder(LogisticRegression(), X, y)
    with pytest.raises(ValueError, match=r"scores has shape \(2,\) for 2 layers"):
        LayerProbeDisplay([0, 1], [0.5, 0.6]).plot()
    figure, axes = pyplot.subplots(1, 2)
    display = LayerProbeDisplay.from_embedder(tuned.embedder_, X, y, ax=axes[1])
    assert display.ax_ is axes[1]
    assert display.figure_ is figure


# -- drift ----------------------------------------------------------------------------------------------


def test_drift_of_weights_against_a_loop_over_both_networks(tuned):
    display = DriftDisplay.from_estimator(tuned)
    spec = tuned.embedder_.spec_
    before, after = (load(one, torch.device("cpu"), "float32").module for one in (spec.tuned.base, spec))
    expected = []
    for block in ("stem", "layers.0", "layers.1"):
        old, new = (module.get_parameter(f"{block}.weight").double() for module in (before, after))
        expected.append(float((new - old).norm() / old.norm()))
    assert expected[:2] == [0.0, 0.0]
    assert expected[2] > 0.01
    (ax,) = display.axes_
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], 100 * np.array(expected), rtol=1e-6)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["stem", "layers.0", "layers.1"]
    assert [text.get_text().strip() for text in ax.texts[:2]] == ["unchanged", "unchanged"]
    bottom, top = ax.get_ylim()
    assert bottom < top, "the stem is at the bottom"


def test_drift_of_features(tuned, rows):
    X, _ = rows
    display = DriftDisplay.from_estimator(tuned, X[:50])
    old = ArrayEmbedder(precision="float32", layers=2).fit_transform(X[:50])
    new = tuned.embedder_.transform(X[:50])
    np.testing.assert_allclose(display.cka, [1, 1, linear_cka(old, new)], rtol=1e-5)
    assert display.cka[2] < 0.999
    np.testing.assert_allclose(display.axes_[1].collections[1].get_offsets()[:, 0], display.cka)
    assert display.axes_[1].collections[1].get_offsets()[:, 1].tolist() == [0, 1, 2]


@pytest.mark.parametrize("widths", [(5, 5), (5, 9), (40, 3)])
def test_cka_against_its_definition_by_gram_matrices(widths):
    """Kornblith et al., equations 3 and 4, with the centring matrix written out."""
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(30, width)) + 3 for width in widths)
    second[:, :2] += first[:, :2]
    centring = np.eye(30) - 1 / 30
    K, L = (centring @ rows @ rows.T @ centring for rows in (first, second))
    expected = np.trace(K @ L) / np.sqrt(np.trace(K @ K) * np.trace(L @ L))
    assert linear_cka(first, second) == pytest.approx(expected)
    rotation, _ = np.linalg.qr(rng.normal(size=(widths[0], widths[0])))
    assert linear_cka(first, 5 * first @ rotation - 1) == pytest.approx(1)
    assert np.isnan(linear_cka(first, np.ones((30, 2))))


def test_blocks_are_told_apart_by_whole_names():
    """ "layers.1" owns no weight of "layers.10"."""
    from skembed.backbones.base import Block

    before = {"layers.1.w": np.ones(4), "layers.10.w": np.ones(4)}
    drift = weight_drift(before, {"layers.10.w": np.full(4, 3.0)}, [Block(n, (n,)) for n in ("layers.1", "layers.10")])
    assert drift.tolist() == [0.0, 2.0]


def test_where_the_probe_was_kept_nothing_moved(probed, rows):
    display = DriftDisplay.from_estimator(probed, rows[0][:30])
    assert display.weight_drift == [0, 0, 0]
    np.testing.assert_allclose(display.cka, 1)
    assert {text.get_text().strip() for text in display.axes_[0].texts} == {"unchanged"}


def test_a_pipeline_prepares_the_samples(tuned, rows):
    X = rows[0][:40]
    halve = FunctionTransformer(lambda rows: np.asarray(rows) / 2).fit(X)
    through = DriftDisplay.from_estimator(make_pipeline(halve, tuned), X)
    np.testing.assert_allclose(through.cka, DriftDisplay.from_estimator(tuned, X / 2).cka)
    assert abs(through.cka[2] - DriftDisplay.from_estimator(tuned, X).cka[2]) > 1e-6


def test_what_cannot_be_compared_is_named():
    with pytest.raises(NotFittedError):
        DriftDisplay.from_estimator(FineTuneClassifier())
    with pytest.raises(TypeError, match="estimator is a ArrayEmbedder"):
        DriftDisplay.from_estimator(ArrayEmbedder())
    with pytest.raises(ValueError, match=r"cka has shape \(1,\) for 2 blocks"):
        DriftDisplay(["a", "b"], [0.1, 0.2], [1.0]).plot()
    with pytest.raises(ValueError, match=r"weight_drift has shape \(3,\) for 2 blocks"):
        DriftDisplay(["a", "b"], [0.1, 0.2, 0.3]).plot()
