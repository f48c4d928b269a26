"""diagnose: each fault that is put into data or settings is named, and is not where it was not put."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import make_multilabel_classification
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_html_repr

from skembed import FineTuneClassifier, FineTuneRegressor, Partial, diagnose
from skembed.assessment.data_quality import find_imbalance, find_noise
from skembed.assessment.forgetting import block_drift, find_forgetting
from skembed.assessment.remedies import Means
from skembed.backbones.loading.load import load
from skembed.exceptions import FitWarning
from skembed.measures import linear_cka
from skembed.testing import ArrayBackbone, ArrayEmbedder, array_backbone
from tests.advice.cases import separable, wide_backbone

LEARNABLE = {"learning_rate": 1e-2, "optimization__backbone_factor": 1.0, "random_state": 0}


def _fit(X, y, backbone=array_backbone, **parameters):
    classifier = FineTuneClassifier(ArrayEmbedder(backbone, precision="float32")).set_params(
        **{**LEARNABLE, **parameters}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a fit diverged
        return classifier.fit(X, y)


@pytest.fixture(scope="module")
def curved():
    """Classes that no linear function of the frozen features tells apart well, and training does."""
    X = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    return X, (X[:, 0] * (np.abs(X[:, 1]) - 0.7) > 0).astype(int)


@pytest.fixture(scope="module")
def healthy(curved):
    return _fit(*curved, strategy="full", max_epochs=40, patience=20)


def test_a_healthy_fit(healthy, curved):
    assert healthy.kept_ == "fine-tuned"
    assert healthy.diagnosis_.healthy, healthy.diagnosis_
    assert set(healthy.diagnosis_.checked) >= {"overfitting", "underfitting", "instability", "leaked duplicates"}
    assert diagnose(healthy) is healthy.diagnosis_
    assert "Healthy" in str(healthy.diagnosis_)


def test_a_healthy_probe():
    fitted = _fit(*separable(), wide_backbone, strategy="head", max_epochs=5, learning_rate=1e-3)
    assert fitted.diagnosis_.findings == (), fitted.diagnosis_


def test_a_rate_far_too_high(healthy, curved):
    fitted = _fit(*curved, strategy="full", learning_rate=30.0, max_epochs=6)
    assert "instability" in fitted.diagnosis_
    assert "learning_rate=3.0 (now 30.0)" in fitted.diagnosis_["instability"].remedy
    assert "instability" not in healthy.diagnosis_


def test_a_fit_that_diverges(curved):
    X, y = curved
    fitted = _fit(X, y, strategy="full", learning_rate=1e38, optimization__clip_norm=None, max_epochs=4)
    assert fitted.diagnosis_["instability"].severity == "serious"


def test_overfitting(healthy):
    """Numbers with noise, which a network learns by heart; what was kept is from before."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4)).astype(np.float32)
    y = np.abs(X[:, 0]) + X[:, 1] + 0.7 * rng.normal(size=200)
    settings = {
        "strategy": "full",
        "learning_rate": 1e-2,
        "max_epochs": 60,
        "patience": 60,
        "optimization__dropout": 0.0,
    }
    embedder = ArrayEmbedder(wide_backbone, precision="float32")
    more = {
        "validation_fraction": 0.5,
        "batch_size": 8,
        "refit": False,
        "optimization__backbone_factor": 1.0,
        "random_state": 0,
    }
    fitted = FineTuneRegressor(embedder).set_params(**settings, **more).fit(X, y)
    found = fitted.diagnosis_["overfitting"]
    assert found.severity == "note"
    assert found.numbers["rise"] > 2 * found.numbers["error"]
    assert "None needed" in found.remedy
    assert "label_smoothing" not in found.remedy, "a regressor has none"
    assert "overfitting" not in healthy.diagnosis_


def test_what_nobody_judged_is_not_called_healthy(curved):
    X, y = (values[:60] for values in curved)
    found = _fit(X, y, strategy="full", max_epochs=3, validation_fraction=None).diagnosis_
    assert "not judged" in found
    assert not {"overfitting", "negative transfer", "miscalibration"} & set(found.checked)
    assert "not judged" not in _fit(X, y, max_epochs=0, validation_fraction=None).diagnosis_


def test_underfitting_by_too_few_epochs(healthy, curved):
    fitted = _fit(*curved, strategy="full", max_epochs=4)
    assert "max_epochs" in fitted.diagnosis_["underfitting"].remedy
    assert "underfitting" not in healthy.diagnosis_


def test_underfitting_by_too_few_blocks(curved):
    fitted = _fit(*curved, strategy="head", max_epochs=5)
    assert "deeper" in fitted.diagnosis_["underfitting"].remedy


def test_negative_transfer():
    fitted = _fit(*separable(spread=0.75), wide_backbone, strategy="full", learning_rate=0.3, max_epochs=5)
    assert fitted.kept_ == "probe"
    assert "negative transfer" in fitted.diagnosis_


def test_shuffled_labels():
    X, y = separable()
    fitted = _fit(X, np.random.default_rng(0).permutation(y), wide_backbone, strategy="head", max_epochs=2)
    assert fitted.diagnosis_["no signal"].severity == "serious"
    assert "label noise" not in fitted.diagnosis_
    assert "no signal" not in _fit(X, y, wide_backbone, max_epochs=0).diagnosis_


@pytest.mark.parametrize("strategy", ["head", "partial"])
def test_shuffled_labels_are_told_of_in_accuracy_and_more_training_is_no_remedy(strategy):
    X, y = separable()
    fitted = _fit(X, np.random.default_rng(0).permutation(y), wide_backbone, strategy=strategy, max_epochs=2)
    found = fitted.diagnosis_["no signal"]
    right, low, high = (found.numbers[name] for name in ("probe_accuracy", "shuffled_low", "shuffled_high"))
    assert low < high
    assert right <= high
    assert f"is right on {right:.1%} of the samples" in found.evidence
    assert f"between {low:.1%} and {high:.1%}" in found.evidence
    assert "variance" not in found.evidence
    assert "progressive" not in str(fitted.diagnosis_)
    assert not {"underfitting", "miscalibration"} & {*fitted.diagnosis_.names, *fitted.diagnosis_.checked}


@pytest.mark.filterwarnings("ignore:X_val has one sample")
@pytest.mark.parametrize(("n_held_out", "said"), [(1, "1 sample was held out"), (9, "9 samples were held out")])
def test_a_few_held_out_samples_judge_nothing(n_held_out, said):
    X, y = separable(60, 3)
    settings = {"strategy": "head", "max_epochs": 2, "validation_fraction": None, "random_state": 0}
    classifier = FineTuneClassifier(ArrayEmbedder(wide_backbone, precision="float32")).set_params(**settings)
    found = classifier.fit(X[10:], y[10:], X_val=X[:n_held_out], y_val=y[:n_held_out]).diagnosis_
    assert said in found["not judged"].evidence
    assert not {"overfitting", "negative transfer", "miscalibration"} & set(found.checked)
    assert "Not judged, but without problems" in str(found) or not found.healthy
    assert "Healthy" not in str(found)
    more = classifier.fit(X[10:], y[10:], X_val=X[:10], y_val=y[:10]).diagnosis_
    assert "not judged" not in more
    assert "overfitting" in more.checked


@pytest.mark.filterwarnings("ignore:X_val has one sample")
def test_one_held_out_sample_is_one():
    X, y = separable(30, 3)
    settings = {"strategy": "head", "max_epochs": 1, "validation_fraction": None, "random_state": 0}
    classifier = FineTuneClassifier(ArrayEmbedder(wide_backbone, precision="float32")).set_params(**settings)
    found = classifier.fit(X[1:], y[1:], X_val=X[:1], y_val=y[:1]).diagnosis_
    assert " 1 sample is held out: an accuracy measured on it has" in found["few samples"].evidence
    assert "negative transfer" not in found


def test_what_training_learns_is_no_want_of_signal(healthy, curved):
    """Targets of which the frozen features know nothing, but which are learned."""
    assert "no signal" not in healthy.diagnosis_


def test_flipped_labels():
    """Measured: precision 1.0, recall 0.83."""
    X, y = separable(600)
    flipped = np.random.default_rng(1).permutation(len(y))[: len(y) // 10]
    noisy = y.copy()
    noisy[flipped] = (noisy[flipped] + 1) % 3
    fitted = _fit(X, noisy, wide_backbone, max_epochs=0)
    found = fitted.diagnosis_["label noise"]
    assert np.isin(found.samples, flipped).mean() >= 0.95
    assert np.isin(flipped, found.samples).mean() >= 0.75
    clean = _fit(X, y, wide_backbone, max_epochs=0)
    assert "label noise" not in clean.diagnosis_
    # Samples that are given are told from those of the fit, of which all stays true.
    given = diagnose(clean, X, noisy)
    assert given["label noise"].evidence.startswith("In the given samples")
    assert set(given["label noise"].samples) == set(found.samples)
    assert "label_smoothing" not in given["label noise"].remedy, "they may not have been trained on"
    assert "label_smoothing" not in found.remedy, "the probe was kept, which it does not reach"
    assert "correct labels give about 1%" in found.evidence
    trained = find_noise(*_noisy_rows(), np.random.default_rng(0), Means({"optimization__label_smoothing": 0.0}))[0]
    assert "label_smoothing=0.1 (now 0.0)" in trained.remedy
    smoothed = find_noise(*_noisy_rows(), np.random.default_rng(0), Means({"optimization__label_smoothing": 0.2}))[0]
    assert "label_smoothing" not in smoothed.remedy
    assert diagnose(fitted, X, y)["label noise"] == found


def _noisy_rows():
    """Clusters of which a tenth is labeled wrongly: rows, indicators, codes and names."""
    X, y = separable(600)
    noisy = np.where(np.random.default_rng(1).random(len(y)) < 0.1, (y + 1) % 3, y)
    return X, np.eye(3)[noisy], noisy, "abc"


def test_classes_that_overlap_are_not_labeled_wrongly():
    X, y = separable(400, spread=0.9)
    fitted = _fit(X, y, wide_backbone, max_epochs=0)
    assert 0.6 < fitted.probe_score_ < 0.95
    assert "label noise" not in fitted.diagnosis_


def test_leaked_duplicates():
    X, y = separable(spread=0.5)
    X2, y2 = np.concatenate([X, X[:80]]), np.concatenate([y, y[:80]])
    fitted = _fit(X2, y2, wide_backbone, max_epochs=0)
    found = fitted.diagnosis_["leaked duplicates"]
    assert found.severity == "serious"
    assert all(i < 80 or i >= 240 for i in found.samples)
    assert "advise(X, y, embedder).groups" in found.remedy
    assert "leaked duplicates" not in _fit(X, y, wide_backbone, max_epochs=0).diagnosis_
    torn = FineTuneClassifier(ArrayEmbedder(wide_backbone), max_epochs=0, random_state=0)
    assert "Join these" in torn.fit(X2, y2, groups=np.arange(320)).diagnosis_["leaked duplicates"].remedy
    with pytest.warns(FitWarning, match="80 of 80 held-out samples are copies"):
        apart = torn.fit(X, y, X_val=X[:80], y_val=y[:80]).diagnosis_["leaked duplicates"]
    assert "from X_val" in apart.remedy
    assert min(apart.samples) >= 240
    groups = np.concatenate([np.arange(240), np.arange(80)])
    kept = FineTuneClassifier(ArrayEmbedder(wide_backbone), max_epochs=0, random_state=0).fit(X2, y2, groups=groups)
    assert "leaked duplicates" not in kept.diagnosis_


def test_imbalance_that_hurts_a_class():
    X, y = separable(600, 2, spread=1.2)
    kept = np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:20]])
    fitted = _fit(X[kept], y[kept], wide_backbone, max_epochs=0)
    assert "class_weight" in fitted.diagnosis_["class imbalance"].remedy
    assert "class imbalance" not in _fit(X, y, wide_backbone, max_epochs=0).diagnosis_


def test_rare_classes_that_do_well_are_no_finding():
    codes, counts = np.array([0] * 10 + [1] * 4), np.array([100, 10])
    good, bad = np.full(14, 0.9), np.array([0.9] * 10 + [0.3] * 4)
    assert list(find_imbalance(good, codes, counts, "ab", Means())) == []
    (found,) = find_imbalance(bad, codes, counts, "ab", Means({"class_weight": "balanced", "scoring": None}))
    assert "'b' (10 samples: 0.30)" in found.evidence
    assert "'a', has 100 samples, 10 times as many" in found.evidence
    assert "class_weight" not in found.remedy
    assert "scoring='balanced_accuracy'" in found.remedy
    assert "scoring" not in next(find_imbalance(bad, codes, counts, "ab", Means({"scoring": "f1_macro"}))).remedy
    assert list(find_imbalance(bad, codes, np.array([100, 30]), "ab", Means())) == []


def test_a_class_of_one_sample_is_named_in_whatever_company():
    nothing = np.zeros(0), np.zeros(0, dtype=int)
    (found,) = find_imbalance(*nothing, np.array([4, 1]), "ab", Means())
    assert "'b' (1 sample, 0 held out)" in found.evidence
    assert "or merge them" in found.remedy
    assert list(find_imbalance(*nothing, np.array([4, 2]), "ab", Means())) == []


@pytest.mark.parametrize(("n_rare", "word"), [(1, "(1 sample, 0 held out)"), (3, "(3 samples, 1 held out)")])
def test_rare_classes_of_which_nothing_is_known(n_rare, word):
    X, y = separable(80, 2, spread=0.2)
    kept = np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:n_rare]])
    found = _fit(X[kept], y[kept], wide_backbone, strategy="head", max_epochs=2).diagnosis_["class imbalance"]
    assert word in found.evidence
    assert found.severity == "warning"
    assert f"40 samples, {40 / n_rare:.0f} times as many" in found.evidence
    assert "class_weight='balanced'" in found.remedy
    assert found.numbers["imbalance"] == pytest.approx(40 / n_rare)
    balanced = _fit(X[kept], y[kept], wide_backbone, max_epochs=0, class_weight="balanced").diagnosis_
    assert "class_weight" not in balanced["class imbalance"].remedy
    unjudged = _fit(X[kept], y[kept], wide_backbone, max_epochs=0, validation_fraction=None).diagnosis_
    assert "0 held out" in unjudged["class imbalance"].evidence


def test_held_out_samples_of_one_class_are_no_measure_of_losses():
    X, y = separable(80, 2, spread=0.2)
    kept = np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:1]])
    fitted = _fit(X[kept], y[kept], wide_backbone, strategy="head", max_epochs=3)
    assert "underfitting" not in fitted.diagnosis_
    assert fitted.diagnosis_.numbers["naive_loss"] > 0.1


def test_few_samples_a_class():
    X, y = separable(30, 3)
    found = _fit(X, y, wide_backbone, strategy="head", max_epochs=1).diagnosis_["few samples"]
    assert found.severity == "note"
    assert "10 samples or fewer" in found.evidence
    assert "6 samples are held out: an accuracy measured on them has a standard error of up to 0.20" in found.evidence
    assert "few samples" not in _fit(*separable(60, 3), wide_backbone, max_epochs=0).diagnosis_


# -- drift and forgetting -------------------------------------------------------------------------------


def test_drift_is_the_change_of_weights_over_their_size(healthy, curved):
    start = ArrayEmbedder(precision="float32").fit(curved[0])
    drift = block_drift(start.spec_, healthy.embedder_.spec_)
    before = load(start.spec_, torch.device("cpu"), "float32").module
    after = load(healthy.embedder_.spec_, torch.device("cpu"), "float32").module
    for name, (a, b) in {
        "stem": (before.stem.weight, after.stem.weight),
        "layers.1": (before.layers[1].weight, after.layers[1].weight),
    }.items():
        assert drift[name] == pytest.approx(float((a - b).norm() / a.norm()), rel=1e-5)
        assert healthy.diagnosis_.blocks[name]["drift"] == drift[name]
    assert set(block_drift(start.spec_, start.spec_).values()) == {0.0}


def test_frozen_blocks_do_not_drift(curved):
    fitted = _fit(*curved, strategy="partial", strategy__n_blocks=1, max_epochs=20)
    blocks = diagnose(fitted, *curved).blocks
    assert [name for name, row in blocks.items() if row["drift"] > 0] == ["layers.1"]
    assert (blocks["stem"]["cka"], blocks["layers.0"]["cka"]) == pytest.approx((1, 1))
    assert blocks["layers.1"]["cka"] < 1


def test_cka_of_blocks_is_that_of_their_outputs(healthy, curved):
    X = curved[0]
    blocks = diagnose(healthy, X).blocks
    for layer, name in enumerate(("stem", "layers.0", "layers.1")):
        before = ArrayEmbedder(layers=layer, precision="float32").fit_transform(X)
        after = ArrayEmbedder(healthy.embedder_.backbone, layers=layer, precision="float32").fit_transform(X)
        assert blocks[name]["cka"] == pytest.approx(linear_cka(before, after), rel=1e-5)


def test_forgetting(healthy, curved):
    """Trained hard and unjudged on labels that say nothing, a network loses what it knew."""
    X, y = curved
    shuffled = np.random.default_rng(0).permutation(y)
    settings = {"strategy": "full", "learning_rate": 0.5, "max_epochs": 20, "validation_fraction": None}
    fitted = _fit(X, shuffled, **settings)
    assert "forgetting" in fitted.diagnosis_
    linear = (X[:, 0] + X[:, 2] > 0).astype(int)
    found = diagnose(fitted, X, linear)["forgetting"]
    assert found.severity == "serious"
    assert "on the pre-trained features" in found.evidence
    gentle = _fit(X, linear, **{**settings, "learning_rate": 1e-3, "max_epochs": 3})
    assert "forgetting" not in gentle.diagnosis_
    assert "forgetting" not in diagnose(gentle, X, linear)


def test_change_that_serves_is_a_note():
    blocks = {"top": {"drift": 0.5, "cka": 0.3}}
    means = Means(
        {
            "learning_rate": 1e-3,
            "optimization__backbone_factor": "auto",
            "optimization__layer_decay": 0.5,
            "optimization__l2_sp": 0.01,
        },
        Partial(),
    )
    (better,) = find_forgetting(blocks, means, {"old_probe": 0.6, "new_probe": 0.9, "probe_error": 0.02})
    (worse,) = find_forgetting(blocks, means, {"old_probe": 0.9, "new_probe": 0.6, "probe_error": 0.02})
    assert (better.severity, worse.severity) == ("note", "serious")
    assert "None needed" in better.remedy
    assert (
        worse.remedy
        == "learning_rate=0.00033 (now 0.001), optimization__backbone_factor=0.033 (now 0.1) or strategy=Head()."
    )
    assert list(find_forgetting({"top": {"drift": 0.1, "cka": 0.9}}, means)) == []


def test_training_makes_features_better_and_that_is_measured(healthy, curved):
    X = np.random.default_rng(5).normal(size=(300, 4)).astype(np.float32)
    y = (X[:, 0] * (np.abs(X[:, 1]) - 0.7) > 0).astype(int)
    numbers = diagnose(healthy, X, y).numbers
    assert numbers["new_probe"] > numbers["old_probe"] + 0.1


# -- what it is attached to -----------------------------------------------------------------------------


def test_it_is_a_plain_attribute_that_is_carried_along(healthy, curved):
    from skops.io import dumps, get_untrusted_types
    from skops.io import loads as load_skops

    copied = pickle.loads(pickle.dumps(healthy))
    assert copied.diagnosis_ == healthy.diagnosis_
    data = dumps(healthy)
    again = load_skops(data, trusted=get_untrusted_types(data=data))
    assert str(again.diagnosis_) == str(healthy.diagnosis_)
    assert "diagnosis_" in vars(healthy)
    assert estimator_html_repr(healthy)


def test_a_fit_runs_no_sample_through_the_network_for_it(curved, monkeypatch):
    from skembed.finetune import examine

    passes = []
    original = ArrayBackbone.forward_blocks
    monkeypatch.setattr(ArrayBackbone, "forward_blocks", lambda *arguments: passes.append(0) or original(*arguments))
    counted = []
    plain = examine.diagnose_fit

    def diagnosed(*arguments, **options):
        before = len(passes)
        found = plain(*arguments, **options)
        counted.append(len(passes) - before)
        return found

    monkeypatch.setattr(examine, "diagnose_fit", diagnosed)
    _fit(*curved, strategy="full", max_epochs=2)
    assert counted == [0]
    assert passes


def test_numbers_and_several_labels():
    X, _ = separable(200)
    embedder = ArrayEmbedder(wide_backbone, precision="float32")
    regressor = FineTuneRegressor(embedder, max_epochs=3, random_state=0).fit(X, X[:, 0])
    assert regressor.diagnosis_.healthy, regressor.diagnosis_
    assert "label noise" not in regressor.diagnosis_.checked
    shuffled = np.random.default_rng(0).permutation(X[:, 0])
    assert "no signal" in FineTuneRegressor(embedder, max_epochs=0, random_state=0).fit(X, shuffled).diagnosis_
    assert diagnose(regressor, X, shuffled)["no signal"].severity == "serious"
    X, Y = make_multilabel_classification(200, 8, n_classes=3, random_state=0)
    X = ((X - X.mean(0)) / X.std(0)).astype(np.float32)
    assert diagnose(_fit(X, Y, wide_backbone, max_epochs=2), X, Y).checked


def test_errors_say_what_to_do(healthy, curved):
    X, y = curved
    with pytest.raises(NotFittedError, match=r"This FineTuneClassifier is not fitted: call fit\(X, y\) first"):
        diagnose(FineTuneClassifier(ArrayEmbedder()))
    with pytest.raises(TypeError, match=r"fitted is 'foo'\. diagnose needs a fitted FineTuneClassifier"):
        diagnose("foo")
    with pytest.raises(TypeError, match=r"fitted is a Pipeline\..* Pass its last step, pipeline\[-1\]"):
        diagnose(make_pipeline(healthy))
    with pytest.raises(TypeError, match=r"Pass its best_estimator_"):
        diagnose(GridSearchCV(healthy, {"max_epochs": [0]}, cv=2).fit(X, y))
    with pytest.raises(TypeError, match=r"fitted is a ArrayEmbedder\."):
        diagnose(ArrayEmbedder())
    with pytest.raises(ValueError, match="without X"):
        diagnose(healthy, y=y)
    with pytest.raises(ValueError, match="the class 7"):
        diagnose(healthy, X, np.full(len(X), 7))
    with pytest.raises(KeyError, match="unknown finding"):
        healthy.diagnosis_["overfitting"]


def test_a_column_of_targets_is_what_the_flat_ones_are(healthy, curved):
    X, y = curved
    flat = diagnose(healthy, X, y, random_state=0)
    with pytest.warns(DataConversionWarning):
        column = diagnose(healthy, X, y[:, None], random_state=0)
    assert column.numbers == flat.numbers
    assert column.findings == flat.findings


@pytest.mark.parametrize("wrong", [np.full(400, 7), np.zeros(399, dtype=int), [None] * 400])
def test_targets_that_cannot_be_are_refused_before_anything_is_embedded(healthy, curved, monkeypatch, wrong):
    monkeypatch.setattr(ArrayEmbedder, "transform", lambda self, X: pytest.fail("embedded"))
    with pytest.raises(ValueError, match=r"the class 7|inconsistent numbers of samples|None"):
        diagnose(healthy, curved[0], wrong)
