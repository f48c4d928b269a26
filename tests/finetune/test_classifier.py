"""FineTuneClassifier: what is kept, what is replayed, what is told, and how it ends when things go wrong."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_multilabel_classification
from sklearn.linear_model import LogisticRegression

from skembed import FineTuneClassifier, ImageEmbedder, Optimization, Progressive, TextEmbedder
from skembed.backbones.loading.load import load, loaded
from skembed.exceptions import DeviceWarning, FitWarning, WeightsMismatchError
from skembed.finetune import loop
from skembed.finetune.activations import INPUT, ActivationStore
from skembed.testing import ArrayBackbone, ArrayEmbedder, array_backbone
from tests.backbones import tiny

LEARNABLE = {
    "learning_rate": 1e-2,
    "optimization__backbone_factor": 1.0,
    "max_epochs": 12,
    "strategy": Progressive(stage_epochs=6),
    "random_state": 0,
}


def shifted_backbone(n_features: int = 4) -> ArrayBackbone:
    """The same shape as the plain double, and other weights."""
    backbone = array_backbone(n_features)
    with torch.no_grad():
        for parameter in backbone.module.parameters():
            parameter += 0.1
    return backbone


@pytest.fixture(scope="module")
def rows():
    """Classes that no linear function of the frozen features tells apart well.

    The double has no biases, so that it is odd; so are the classes, or nothing could learn them.
    """
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 4)).astype(np.float32)
    return X, (X[:, 0] * (np.abs(X[:, 1]) - 0.7) > 0).astype(int)


def _fit(rows, *, replay=True, **parameters):
    classifier = FineTuneClassifier(ArrayEmbedder(precision="float32")).set_params(**{**LEARNABLE, **parameters})
    classifier._replay = replay
    return classifier.fit(*rows)


# -- the guard ------------------------------------------------------------------------------------------


def test_the_probe_is_kept_where_training_does_not_beat_it(rows):
    X, _ = rows
    linear = (X[:, 0] + 0.5 * X[:, 1] > 0).astype(int)
    classifier = _fit((X, linear), strategy="full", learning_rate=100.0)
    assert classifier.kept_ == "probe"
    assert "the probe was kept" in classifier.report_
    assert classifier.validation_score_ == classifier.probe_score_
    assert classifier.embedder_.backbone is array_backbone
    np.testing.assert_array_equal(classifier.transform(X), ArrayEmbedder(precision="float32").fit_transform(X))


def test_training_is_kept_where_it_beats_the_probe(rows):
    X, y = rows
    classifier = _fit(rows, strategy="full", max_epochs=60, patience=20)
    assert classifier.kept_ == "fine-tuned"
    assert classifier.validation_score_ > classifier.probe_score_ + 0.1
    frozen = ArrayEmbedder().fit_transform(X)
    assert classifier.score(X, y) > LogisticRegression().fit(frozen, y).score(frozen, y) + 0.1
    assert "Kept: all blocks" in classifier.report_


def test_the_kept_probe_is_a_logistic_regression(rows):
    """Against scikit-learn's own, on standardised features and on all samples."""
    X, y = rows
    classifier = FineTuneClassifier(ArrayEmbedder(precision="float32"), max_epochs=0, validation_fraction=None).fit(
        X, y
    )
    features = ArrayEmbedder(precision="float32").fit_transform(X).astype(float)
    scale = features.std(0)
    standardised = (features - features.mean(0)) / np.maximum(scale, 0.1 * np.sqrt((scale**2).mean()))
    plain = LogisticRegression(tol=1e-8, max_iter=1000)
    # Each of two outputs takes half the weight, and two halves squared are half of the whole squared: C is doubled.
    plain.set_params(C=2.0).fit(standardised, y)
    np.testing.assert_allclose(classifier.decision_function(X), plain.decision_function(standardised), atol=2e-3)


# -- the replayed prefix --------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [
    {"strategy": "head"},
    {"strategy": "partial", "strategy__n_blocks": 1},
    {"strategy": "partial", "strategy__n_blocks": 2},
    {"strategy": "partial", "mix": "mixup", "optimization": Optimization(l2_sp=0.01, ema=0.9, label_smoothing=0.1)},
    {"strategy": "progressive"},
])  # fmt: skip
def test_replayed_and_plain_training_have_the_same_losses(rows, parameters):
    replayed, plain = (_fit(rows, replay=replay, max_epochs=6, **parameters) for replay in (True, False))
    for name in ("train_loss", "valid_loss"):
        a, b = ([record[name] for record in fitted.history_] for fitted in (replayed, plain))
        np.testing.assert_allclose(a, b, rtol=1e-4)
    assert not any(record["replayed"] for record in plain.history_)
    below = [record for record in replayed.history_ if len(record["unfrozen"]) < 3]
    assert below
    assert all(record["replayed"] for record in below)


def test_frozen_blocks_are_run_once_a_sample_and_not_in_every_epoch(rows, monkeypatch):
    X, y = rows
    counts = {"frozen": 0, "trained": 0}
    original = ArrayBackbone.forward_blocks

    def counted(self, batch, layers):
        key = "trained" if "hidden" in batch else "frozen"
        counts[key] += len(batch.get("hidden", batch.get("values")))
        return original(self, batch, layers)

    embedder = ArrayEmbedder(precision="float32").fit(X)
    monkeypatch.setattr(ArrayBackbone, "forward_blocks", counted)
    FineTuneClassifier(
        embedder, strategy="partial", max_epochs=5, patience=5, refit=False, validation_fraction=None, random_state=0
    ).fit(X, y)
    # Once for the frozen features, once up to the block, and the few that are tried both ways.
    assert counts["frozen"] <= 2 * len(X) + 3 * 4
    assert counts["trained"] >= 5 * len(X)


def test_head_only_training_loads_no_weights(rows):
    X, y = rows
    from skembed import EmbeddingCache

    cache = EmbeddingCache()
    ArrayEmbedder(cache=cache).fit_transform(X)
    loaded.clear()
    before = loaded.n_loads
    FineTuneClassifier(ArrayEmbedder(cache=cache), strategy="head", random_state=0).fit(X, y).predict(X)
    # A double's backbone comes from a factory, which is asked once for its fingerprint.
    assert loaded.n_loads <= before + 1


def test_a_network_that_cannot_be_entered_is_run_whole_and_that_is_said(rows, monkeypatch):
    def refuse(self, items, batch, blocks):
        raise NotImplementedError("Blocks of this network hand on more than their hidden state.")

    monkeypatch.setattr(ArrayBackbone, "advance", refuse)
    classifier = _fit(rows, strategy="partial", max_epochs=2)
    assert not any(record["replayed"] for record in classifier.history_)
    assert "hand on more than their hidden state" in classifier.report_


def test_a_network_that_differs_when_it_is_entered_is_run_whole(rows, monkeypatch):
    original = ArrayBackbone.advance

    def wrong(self, items, batch, blocks):
        if len(items) == 1:
            return original(self, items, batch, blocks)
        return [found[::-1] for found in original(self, items[::-1], batch, blocks)]

    monkeypatch.setattr(ArrayBackbone, "advance", wrong)
    classifier = _fit(rows, strategy="partial", max_epochs=2)
    assert not any(record["replayed"] for record in classifier.history_)
    assert "its rows differ" in classifier.report_


def test_frozen_blocks_and_their_buffers_do_not_move_by_one_bit(tmp_path):
    """Batch normalisation: in a frozen part it remembers nothing of the batches that pass."""
    tiny.BUILDERS["timm_resnet"](tmp_path)
    images = tiny.samples("image") * 4
    labels = np.arange(len(images)) % 2
    embedder = ImageEmbedder(str(tmp_path), device="cpu", precision="float32")
    settings = {"learning_rate": 1e-2, "max_epochs": 2, "validation_fraction": None, "random_state": 0}
    classifier = FineTuneClassifier(embedder, strategy="partial").set_params(**settings).fit(images, labels)
    base = load(embedder.fit(images).spec_, torch.device("cpu"), "float32")
    changed = classifier.embedder_.backbone.tensors()
    assert changed
    assert all(base.blocks[-1].owns(name) for name in changed)
    # Of blocks that train the weights change, and what they remember of the pre-training's batches does not.
    assert not any("running" in name or "num_batches" in name for name in changed)
    tuned = load(classifier.embedder_.spec_, torch.device("cpu"), "float32")
    for name, value in base.module.state_dict().items():
        if name not in changed:
            assert torch.equal(value, tuned.module.state_dict()[name]), name
    # The shared backbone is as it was.
    fresh = load(embedder.spec_, torch.device("cpu"), "float32")
    assert all(not p.requires_grad for p in fresh.module.parameters())
    assert not fresh.module.training


def test_texts_in_windows_train_as_they_are_embedded(tmp_path):
    """A long text has several windows: the rows that training sees are those that the embedder gives."""
    tiny.BUILDERS["bert"](tmp_path)
    texts = [" ".join(["the cat sat on a mat"] * n) for n in (1, 5, 9, 2, 7, 3)] * 4
    labels = np.arange(len(texts)) % 2
    embedder = TextEmbedder(str(tmp_path), device="cpu", precision="float32", max_length=12, long_text="chunk")
    classifier = FineTuneClassifier(
        embedder, strategy="partial", learning_rate=1e-2, max_epochs=2, validation_fraction=None, random_state=0
    ).fit(texts, labels)
    assert classifier.kept_ == "fine-tuned"
    assert classifier.history_[0]["replayed"]
    plain = clone(classifier)
    plain._replay = False
    plain.fit(texts, labels)
    np.testing.assert_allclose(classifier.predict_proba(texts), plain.predict_proba(texts), atol=1e-4)


# -- repeating, resuming the training, keeping ----------------------------------------------------------


def test_the_same_seed_gives_the_same_fit(rows):
    first, second = (_fit(rows, strategy="progressive", optimization__dropout=0.3) for _ in range(2))
    np.testing.assert_array_equal(first.predict_proba(rows[0]), second.predict_proba(rows[0]))
    assert [r["train_loss"] for r in first.history_] == [r["train_loss"] for r in second.history_]
    other = _fit(rows, strategy="progressive", optimization__dropout=0.3, random_state=1)
    assert [r["train_loss"] for r in first.history_] != [r["train_loss"] for r in other.history_]


def test_fit_leaves_the_random_states_of_others_alone(rows):
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    _fit(rows, strategy="full", optimization__dropout=0.3, max_epochs=2, mix="mixup")
    assert torch.rand(1) == expected[0]
    assert np.random.rand() == expected[1]


def test_warm_start_goes_on_from_the_weights_of_the_fit_before(rows):
    X, y = rows
    settings = {
        "strategy": "full",
        "validation_fraction": None,
        "max_epochs": 10,
        "optimization__dropout": 0.0,
        "optimization__schedule": "constant",
    }
    warm = _fit(rows, warm_start=True, **settings)
    first, last = warm.history_[0]["train_loss"], warm.history_[-1]["train_loss"]
    warm.fit(X, y)
    assert last < 0.7 * first
    assert warm.history_[0]["train_loss"] < 1.2 * last
    warm.fit(X, np.arange(len(y)) % 3)
    assert warm.head_coef_.shape[0] == 3, "classes are matched by name, see test_warm_start.py"


def test_a_pickle_holds_what_changed_and_nothing_else(tmp_path):
    tiny.BUILDERS["bert"](tmp_path)
    texts = ["a cat", "the mat", "sat on", "a dog and a cat"] * 6
    labels = np.arange(len(texts)) % 2
    embedder = TextEmbedder(str(tmp_path), device="cpu", precision="float32")
    settings = {"learning_rate": 1e-2, "max_epochs": 1, "validation_fraction": None, "random_state": 0}
    top = FineTuneClassifier(embedder, strategy="partial").set_params(**settings).fit(texts, labels)
    whole = FineTuneClassifier(embedder, strategy="full").set_params(**settings).fit(texts, labels)
    probe = FineTuneClassifier(embedder, strategy="head").set_params(**settings).fit(texts, labels)
    base = load(embedder.fit(texts).spec_, torch.device("cpu"), "float32")
    size = {
        name: sum(p.nbytes for key, p in base.module.named_parameters() if name == "all" or base.blocks[-1].owns(key))
        for name in ("top", "all")
    }
    assert len(pickle.dumps(probe)) < 30_000
    assert len(pickle.dumps(top)) < size["top"] * 1.1 + 30_000
    assert size["all"] * 0.9 < len(pickle.dumps(whole)) < size["all"] * 1.1 + 30_000
    again = pickle.loads(pickle.dumps(top))
    np.testing.assert_array_equal(again.predict_proba(texts), top.predict_proba(texts))


def test_other_base_weights_are_refused(rows, monkeypatch):
    X, _ = rows
    classifier = _fit(rows, strategy="full", validation_fraction=None, max_epochs=1)
    data = pickle.dumps(classifier)
    loaded.clear()
    monkeypatch.setattr("skembed.testing.double.array_backbone", shifted_backbone)
    try:
        with pytest.raises(WeightsMismatchError, match="fine-tuned weights belong to"):
            pickle.loads(data).predict(X)
    finally:
        loaded.clear()


def test_skops_round_trip(rows):
    from skops.io import dumps, get_untrusted_types
    from skops.io import loads as load_skops

    classifier = _fit(rows, strategy="full", validation_fraction=None, max_epochs=1)
    data = dumps(classifier)
    untrusted = set(get_untrusted_types(data=data))
    assert all(name.startswith("skembed.") for name in untrusted), untrusted
    again = load_skops(data, trusted=sorted(untrusted))
    np.testing.assert_array_equal(again.predict_proba(rows[0]), classifier.predict_proba(rows[0]))


# -- several labels, given validation, groups, weights --------------------------------------------------


def test_multilabel():
    X, y = make_multilabel_classification(200, 4, n_classes=3, random_state=0)
    classifier = _fit((X.astype(np.float32), y), strategy="full")
    assert classifier.predict(X).shape == (200, 3)
    proba = classifier.predict_proba(X)
    assert proba.shape == (200, 3)
    assert (proba.sum(1) > 1.01).any()
    np.testing.assert_array_equal(classifier.predict(X), (proba > 0.5).astype(int))
    assert classifier.score(X, y) > 0.3


def test_given_validation_samples_judge_and_nothing_is_held_out(rows):
    X, y = rows
    classifier = _fit((X[:200], y[:200]), strategy="head", max_epochs=0)
    given = FineTuneClassifier(ArrayEmbedder(), max_epochs=0, random_state=0)
    given.fit(X[:200], y[:200], X_val=X[200:], y_val=y[200:])
    assert "Trained on 200 samples, judged on 40" in given.report_
    assert "Trained on 160 samples, judged on 40" in classifier.report_
    assert given.validation_score_ == pytest.approx(given.score(X[200:], y[200:]))


def test_groups_are_never_split(rows, monkeypatch):
    X, y = rows
    groups = np.repeat(np.arange(24), 10)
    seen = {}
    from skembed.finetune import fitting

    original = fitting.run_fit
    monkeypatch.setattr(fitting, "run_fit", lambda plan, hooks: seen.update(plan=plan) or original(plan, hooks))
    FineTuneClassifier(ArrayEmbedder(), max_epochs=0, random_state=0).fit(X, y, groups=groups)
    plan = seen["plan"]
    assert len(plan.held_out) >= 20
    assert not set(groups[plan.train]) & set(groups[plan.held_out])


def test_weights_and_class_weights(rows):
    X, y = rows
    rare = np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:12]])
    plain = FineTuneClassifier(ArrayEmbedder(), max_epochs=0, validation_fraction=None).fit(X[rare], y[rare])
    balanced = FineTuneClassifier(ArrayEmbedder(), max_epochs=0, validation_fraction=None, class_weight="balanced").fit(
        X[rare], y[rare]
    )
    assert (balanced.predict(X) == 1).sum() > (plain.predict(X) == 1).sum() + 20
    repeated = FineTuneClassifier(ArrayEmbedder(), max_epochs=0, validation_fraction=None)
    repeated.fit(np.vstack([X, X[:50]]), np.concatenate([y, y[:50]]))
    weighted = FineTuneClassifier(ArrayEmbedder(), max_epochs=0, validation_fraction=None)
    weighted.fit(X, y, sample_weight=np.where(np.arange(len(X)) < 50, 2.0, 1.0))
    np.testing.assert_allclose(repeated.predict_proba(X), weighted.predict_proba(X), atol=1e-3)


def test_scoring_decides_where_it_is_given(rows):
    classifier = _fit(rows, strategy="full", scoring="f1_macro", max_epochs=20, patience=20)
    best = max(record["valid_score"] for record in classifier.history_)
    assert classifier.validation_score_ == max(best, classifier.probe_score_)


# -- when things go wrong -------------------------------------------------------------------------------


def test_one_class_is_an_error(rows):
    with pytest.raises(ValueError, match="y has one class, 'a'"):
        FineTuneClassifier(ArrayEmbedder()).fit(rows[0], ["a"] * len(rows[0]))


def test_one_sample_a_class_is_an_error_that_says_what_to_do(rows):
    with pytest.raises(ValueError, match=r"every class has one sample.*X_val"):
        FineTuneClassifier(ArrayEmbedder()).fit(rows[0][:5], list("abcde"))
    few = FineTuneClassifier(ArrayEmbedder(), validation_fraction=None, max_epochs=1).fit(rows[0][:5], list("abcde"))
    assert few.score(rows[0][:5], list("abcde")) == 1.0


def test_classes_that_only_validation_has_are_an_error(rows):
    X, y = rows
    with pytest.raises(ValueError, match="y_val has the class 7, which is not in y"):
        FineTuneClassifier(ArrayEmbedder()).fit(X, y, X_val=X[:3], y_val=[0, 1, 7])
    with pytest.raises(ValueError, match="X_val is None"):
        FineTuneClassifier(ArrayEmbedder()).fit(X, y, y_val=y)


def test_more_blocks_than_there_are_is_an_error(rows):
    with pytest.raises(ValueError, match=r"Partial\(n_blocks=9\) is more than the 3 blocks"):
        _fit(rows, strategy="partial", strategy__n_blocks=9)


def test_a_rate_far_too_high_stops_restores_and_says_so(rows):
    with pytest.warns(FitWarning, match="learning_rate=1e.30 is too high"):
        classifier = _fit(rows, strategy="full", learning_rate=1e30, optimization__clip_norm=None)
    assert classifier.kept_ == "probe"
    assert "diverged" in classifier.report_
    assert np.isfinite(classifier.predict_proba(rows[0])).all()


def test_out_of_memory_trains_in_parts_with_the_same_result(rows, monkeypatch):
    settings = {"strategy": "full", "max_epochs": 3, "optimization__dropout": 0.0, "refit": False}
    whole = _fit(rows, **settings)
    original = loop.Epoch._step

    def starved(self, batch, rng):
        if self.fits > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, batch, rng)

    monkeypatch.setattr(loop.Epoch, "_step", starved)
    with pytest.warns(DeviceWarning, match="parts of"):
        parts = _fit(rows, **settings)
    np.testing.assert_allclose(
        [r["train_loss"] for r in whole.history_], [r["train_loss"] for r in parts.history_], rtol=1e-4
    )


def test_out_of_memory_on_one_sample_says_what_to_do(rows, monkeypatch):
    def starved(self, batch, rng):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop.Epoch, "_step", starved)
    with pytest.warns(DeviceWarning), pytest.raises(MemoryError, match="Unfreeze fewer blocks"):
        _fit(rows, strategy="full")


def test_unreadable_samples_are_left_out_where_the_embedder_says_so():
    texts = ["a cat", None, "the mat", "a dog"] * 5
    labels = np.array([0, 1, 1, 0] * 5)
    embedder = TextEmbedder(device="cpu", on_error="nan")
    classifier = FineTuneClassifier(embedder, max_epochs=0, random_state=0).fit(texts, labels)
    assert "Trained on 12 samples, judged on 3" in classifier.report_


# -- what is told ---------------------------------------------------------------------------------------


def test_history_and_progress(rows, capsys):
    classifier = _fit(rows, strategy="progressive", verbose=1)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(classifier.history_) == classifier.n_epochs_
    assert printed[0].startswith("[FineTuneClassifier] epoch 1 of at most 12, head (stage 1 of 4): training loss")
    assert all("elapsed, at most about" in line for line in printed)
    assert all(record["epoch"] <= record["max_epochs"] <= 12 for record in classifier.history_)
    assert [record["epoch"] for record in classifier.history_] == list(range(1, classifier.n_epochs_ + 1))
    deepest = max(classifier.history_, key=lambda record: len(record["unfrozen"]))
    rates = deepest["rates"]
    blocks = deepest["unfrozen"][::-1]
    assert rates[blocks[0]] == pytest.approx(rates["head"] * 1.0)
    if len(blocks) > 1:
        assert rates[blocks[1]] == pytest.approx(rates[blocks[0]] * 0.8)


def test_callbacks_of_scikit_learn(rows):
    callback = pytest.importorskip("sklearn.callback")
    ended = []

    class Count:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context, **_): ...
        def on_fit_task_end(self, estimator, context, **_):
            if context.task_name == "epoch":
                ended.append(context.task_name)
            return len(ended) >= 3

    assert isinstance(Count(), callback.FitCallback)
    classifier = FineTuneClassifier(ArrayEmbedder()).set_params(**{**LEARNABLE, "strategy": "full"})
    classifier.set_callbacks(Count()).fit(*rows)
    assert len(classifier.history_) == 3
    assert "stopped by a callback" in classifier.report_


@pytest.mark.parametrize("family", ["bert", "sentence_transformers"])
def test_a_self_contained_copy_needs_no_base(tmp_path, monkeypatch, family):
    (tmp_path / "base").mkdir()
    tiny.BUILDERS[family](tmp_path / "base")
    texts = ["a cat", "the mat", "sat on", "a dog and a cat"] * 6
    labels = np.arange(len(texts)) % 2
    embedder = TextEmbedder(str(tmp_path / "base"), device="cpu", precision="float32")
    settings = {"learning_rate": 1e-2, "validation_fraction": None, "random_state": 0}
    for strategy, max_epochs in (("partial", 1), ("head", 0)):
        fitted = (
            FineTuneClassifier(embedder, strategy=strategy, max_epochs=max_epochs)
            .set_params(**settings)
            .fit(texts, labels)
        )
        whole = pickle.dumps(fitted.self_contained())
        assert len(whole) > (tmp_path / "base" / "model.safetensors").stat().st_size
        expected = fitted.predict_proba(texts)
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("SKEMBED_HOME", str(tmp_path / f"home-{strategy}"))
            (tmp_path / "base").rename(tmp_path / "gone")
            loaded.clear()
            np.testing.assert_array_equal(pickle.loads(whole).predict_proba(texts), expected)
            (tmp_path / "gone").rename(tmp_path / "base")


def test_a_backbone_from_a_function_cannot_be_taken_along(rows):
    with pytest.raises(ValueError, match="has no directory that could be included"):
        _fit(rows, max_epochs=0).self_contained()


def test_a_full_disk_costs_the_replay_and_not_the_fit(rows, monkeypatch):
    """What the frozen blocks return does not fit into memory, and there is no room on the disk."""
    original = ActivationStore.put

    def full(store, view, boundary, *samples, required=True):
        if required and boundary != INPUT:
            raise OSError(28, "No space left on device")
        original(store, view, boundary, *samples, required=required)

    monkeypatch.setattr(ActivationStore, "put", full)
    monkeypatch.setattr("skembed.finetune.data.MEMORY", 2**10)
    classifier = _fit(rows, strategy="partial", max_epochs=2)
    assert not any(record["replayed"] for record in classifier.history_)
    assert "No space left on device" in classifier.report_
