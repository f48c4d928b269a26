"""advise: each fault that is put into the data is named, and is not where it was not put."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_multilabel_classification

from skembed import (
    FineTuneClassifier,
    FineTuneRegressor,
    Full,
    Head,
    Optimization,
    Partial,
    Progressive,
    TextEmbedder,
    advise,
)
from skembed.advice import RULES
from skembed.assessment.advice import _follow
from skembed.assessment.coverage import broken_share, words_of
from skembed.assessment.evidence import Evidence
from skembed.assessment.wording import words_for
from skembed.exceptions import TruncationWarning
from skembed.testing import ArrayEmbedder
from tests.advice.cases import narrowing_backbone, separable, wide_backbone
from tests.backbones.tiny import gpt2
from tests.backbones.tiny_texts import bert


def _advise(X, y, backbone=wide_backbone, **parameters):
    return advise(X, y, ArrayEmbedder(backbone, precision="float32"), **parameters)


def test_healthy_data_have_no_findings_and_a_strategy():
    advice = _advise(*separable())
    assert advice.findings == ()
    assert "look healthy" in str(advice)
    assert advice.evidence["probe"] > 0.98
    assert advice.strategy.name == "head"
    assert "solved" in advice.reasons[0]
    assert advice.groups is None


def test_ordinary_data_are_for_gradual_unfreezing():
    advice = _advise(*separable(spread=0.75))
    assert 0.6 < advice.evidence["probe"] < 0.97
    assert advice.strategy.name == "progressive"
    assert advice.settings == {"max_epochs": 60}
    assert advice.strategy == Progressive(stage_epochs=10)
    assert "Howard & Ruder" in advice.reasons[0]


def test_ten_samples_a_class():
    advice = _advise(*separable(30))
    assert "few samples" in advice
    assert advice.strategy.name == "head"
    assert advice.evidence["per_target"] == 10
    assert "30 samples, 10 per class" in advice["few samples"].evidence
    assert "not measured" not in advice["few samples"].evidence
    assert "not measured" in _advise(*separable(6))["few samples"].evidence


def test_a_far_domain_is_told_by_a_better_lower_layer():
    X, y = separable(240, spread=0.5)
    advice = _advise(X, y, narrowing_backbone)
    assert "far domain" in advice
    assert advice.strategy.name == "progressive"
    assert advice.settings["optimization"] == Optimization(layer_decay=0.95)
    assert advice.evidence["best_layer"] in (-2, -3)
    assert f"layers={advice.evidence['best_layer']:.0f}" in advice["far domain"].remedy
    assert advice.evidence["lower_probe"] - advice.evidence["own_probe"] == pytest.approx(advice.evidence["lower_gain"])
    assert f"{advice.evidence['own_probe']:.1%}" in advice["far domain"].evidence
    assert "far domain" not in _advise(X, y)
    many = _advise(*separable(360, spread=0.5), narrowing_backbone)
    assert many.strategy == Full()
    assert "far domain" in many


def test_with_few_samples_of_a_far_domain_the_better_layer_is_read():
    advice = _advise(*separable(54, spread=0.3), narrowing_backbone)
    assert advice.strategy.name == "head"
    assert advice.settings["embedder__layers"] in (-2, -3)
    assert advice.estimator().embedder.layers == advice.settings["embedder__layers"]


def test_shuffled_labels_are_what_advice_begins_with():
    X, y = separable()
    advice = _advise(X, np.random.default_rng(0).permutation(y))
    assert advice.findings[0].name == "no signal"
    assert advice["no signal"].severity == "serious"
    assert "label noise" not in advice
    assert str(advice).startswith("First of all:\n- no signal (serious): ")
    assert advice.reasons[0].startswith("no signal: ")
    assert (advice.strategy, advice.settings) == (Head(), {})
    for what in ("same order", "rank_backbones", "more samples"):
        assert what in advice["no signal"].remedy
    assert "no signal" not in _advise(X, y)


def test_no_signal_is_told_in_the_measure_of_the_task():
    X, y = separable()
    rng = np.random.default_rng(0)
    advice = _advise(X, rng.permutation(y))
    low, high = advice.evidence["shuffled_low"], advice.evidence["shuffled_high"]
    assert low <= advice.evidence["probe"] <= high
    assert f"right on {advice.evidence['probe']:.1%}" in advice["no signal"].evidence
    assert f"between {low:.1%} and {high:.1%}" in advice["no signal"].evidence
    assert "R²" not in str(advice)
    for targets in (rng.normal(size=240), rng.integers(0, 2, (240, 3))):
        told = str(_advise(X, targets))
        assert "no signal (serious)" in told
        assert "R²" in told
        assert "right on" not in told
        assert "a class " not in told


def test_chance_is_told_from_a_weak_signal():
    """Measured: 39 of 40 shuffles are no signal, and 0 of 40 clusters that overlap so much that a probe gets half."""
    X, y = separable(240, spread=1.5)
    assert _advise(X, y).evidence["probe"] < 0.6
    weak = ["no signal" in _advise(*separable(240, spread=1.5, seed=seed)) for seed in range(12)]
    none = ["no signal" in _advise(X, np.random.default_rng(seed).permutation(y)) for seed in range(12)]
    assert sum(weak) <= 1
    assert sum(none) >= 11


def test_copies_do_not_pass_for_signal():
    """Left out one by one, a sample whose copy stays is no question at all."""
    X, y = separable()
    y = np.random.default_rng(0).permutation(y)
    advice = _advise(np.concatenate([X, X]), np.concatenate([y, y]))
    assert "no signal" in advice
    assert advice.evidence["probe_r2"] < 0.05
    near = _advise(np.concatenate([X, X + 1e-4]), np.concatenate([y, y]))
    assert "no signal" in near
    assert near.evidence["n_probed"] == 240


def test_copies_are_no_further_samples():
    """Fails when 12 samples that came five times each are advised on as 60."""
    X, y = separable(12)
    advice = _advise(np.concatenate([X] * 5), np.concatenate([y] * 5))
    assert "few samples" in advice
    assert advice.strategy.name == "head"
    assert advice.evidence["per_target"] == 4
    assert "60 samples, 12 of them distinct, about 4 per class" in advice["few samples"].evidence
    kept = np.unique(advice.groups, return_index=True)[1]
    assert kept.tolist() == list(range(12))


def test_a_class_of_one_sample():
    X, y = separable()
    y = y.copy()
    y[7] = 3
    advice = _advise(X, y)
    assert "1 of 4 classes has a single sample" in advice["classes of one sample"].evidence
    assert "classes of one sample" not in _advise(X, separable()[1])
    assert "wrong column" not in advice["classes of one sample"].remedy
    assert "wrong column" in _advise(X[:30], [f"sample {i}" for i in range(30)])["classes of one sample"].remedy
    # A copy is not a second one.
    assert "classes of one sample" in _advise(np.concatenate([X, X[7:8]]), np.concatenate([y, y[7:8]]))
    assert "classes of one sample" not in _advise(np.concatenate([X, -X[7:8]]), np.concatenate([y, y[7:8]]))


def test_flipped_labels_are_named_and_found():
    """Measured: precision 1.0, recall 0.83."""
    X, y = separable(600)
    rng = np.random.default_rng(1)
    flipped = rng.permutation(len(y))[: len(y) // 10]
    noisy = y.copy()
    noisy[flipped] = (noisy[flipped] + 1) % 3
    advice = _advise(X, noisy)
    found = advice["label noise"]
    assert advice.settings["optimization"] == Optimization(label_smoothing=0.1)
    assert np.isin(found.samples, flipped).mean() >= 0.95
    assert np.isin(flipped, found.samples).mean() >= 0.75
    assert "label noise" not in _advise(X, y)


def test_copies_are_a_leak_and_groups_mend_it():
    X, y = separable(spread=0.75)
    copies = [3, 10, 20, 31, 77]
    X2, y2 = np.concatenate([X, X[copies], X[copies] + 1e-4]), np.concatenate([y, y[copies], y[copies]])
    advice = _advise(X2, y2)
    assert "leakage" in advice
    assert set(copies) <= set(advice["leakage"].samples)
    groups = advice.groups
    assert (groups[copies] == groups[240:245]).all()
    assert (groups[copies] == groups[245:]).all()
    assert len(np.unique(groups)) == 240
    assert advice.evidence["duplicate_share"] == pytest.approx(5 / 250)
    mended = _advise(X2, y2, groups=groups)
    assert "leakage" not in mended
    assert mended.groups is None
    assert "leakage" not in _advise(X, y)


def test_given_groups_stay_together_in_those_that_are_advised():
    X, y = separable(spread=0.75)
    X2, y2 = np.concatenate([X, X[:8]]), np.concatenate([y, y[:8]])
    given = np.arange(len(y2))
    given[100] = 0
    groups = _advise(X2, y2, groups=given).groups
    assert groups[0] == groups[100] == groups[240]


def test_equal_samples_of_two_classes_conflict_and_bound_what_can_be_right():
    X, y = separable()
    X2, y2 = np.concatenate([X, X[[0, 1]]]), np.concatenate([y, [(y[0] + 1) % 3, y[1]]])
    advice = _advise(X2, y2)
    assert advice["conflicting labels"].samples == (0, 240)
    assert advice.evidence["ceiling"] == pytest.approx(1 - 1 / 242)
    assert "conflicting labels" not in _advise(np.concatenate([X, X[[1]]]), np.concatenate([y, y[[1]]]))


def test_data_whose_copies_contradict_one_another_are_never_called_solved():
    """Fails when the probe is scored on one copy of each, and the bound that it is held against is that of all."""
    X, y = separable()
    advice = _advise(np.concatenate([X, X]), np.concatenate([y, (y + 1) % 3]))
    assert advice.evidence["probe"] > 0.98
    assert advice.evidence["ceiling"] == advice.evidence["probe_ceiling"] == 0.5
    assert not [reason for reason in advice.reasons if "solved" in reason or "can gain very little" in reason]
    assert advice.reasons[0].startswith("limited by conflicts: ")
    assert advice["conflicting labels"].severity == "serious"
    assert str(advice).startswith(
        "First of all:\n- conflicting labels (serious): Copies of the same sample have different targets.\n  100.0% of"
    )
    few = _advise(np.concatenate([X, X[:3]]), np.concatenate([y, (y[:3] + 1) % 3]))
    assert few["conflicting labels"].severity == "warning"
    assert "solved" in few.reasons[0]


def test_the_bound_is_that_of_the_samples_that_the_probe_is_scored_on():
    """Many copies of a few undisputed samples do not raise what a probe on distinct ones is held against."""
    X, y = separable()
    copies = [X, X[:9], *[X[100:101]] * 30]
    labels = [y, (y[:9] + 1) % 3, *[y[100:101]] * 30]
    evidence = _advise(np.concatenate(copies), np.concatenate(labels)).evidence
    assert evidence["ceiling"] == pytest.approx(1 - 9 / 279)
    assert evidence["probe_ceiling"] == pytest.approx(1 - 9 / 2 / 240)


def test_imbalance():
    X, y = separable(400, 2)
    kept = np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:30]])
    advice = _advise(X[kept], y[kept])
    assert "imbalance" in advice
    assert advice.settings["class_weight"] == "balanced"
    assert advice.evidence["imbalance"] == pytest.approx(200 / 30)
    assert f"right on {200 / 230:.1%}" in advice["imbalance"].evidence
    assert "imbalance" not in _advise(X, y)


def test_the_smaller_of_two_classes_says_how_much_can_be_learned():
    X, y = separable(80, 2, spread=0.6)
    kept = np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:3]])
    advice = _advise(X[kept], y[kept])
    assert advice.strategy.name == "head"
    assert advice.settings == {"class_weight": "balanced", "batch_size": 16}
    assert "43 samples, 3 to 40 per class" in advice["few samples"].evidence


def test_words_that_the_tokenizer_does_not_know(tmp_path):
    bert(tmp_path)
    embedder = TextEmbedder(str(tmp_path), precision="float32")
    known = ["the cat sat on the mat", "the moon rose again", "a dog near the river"] * 10
    foreign = ["Кошка сидела и смотрела", "ставки снова выросли", "собака рядом рекой"] * 10
    y = [0, 1, 0] * 10
    assert "unknown words" in advise(foreign, y, embedder)
    assert "unknown words" not in advise(known, y, embedder)


def test_coverage_counts_words_by_how_often_they_come(tmp_path):
    bert(tmp_path)
    embedder = TextEmbedder(str(tmp_path), precision="float32").fit(["x"])
    backbone, options = embedder._load(), embedder._reading.options
    assert words_of(["The 12 cats, the-cats 猫"]) == {"The": 1, "cats": 2, "the": 1}
    assert broken_share(["the the the Кошка"], backbone, options) == 0.25
    assert np.isnan(broken_share(["12 + 3"], backbone, options))


def test_coverage_where_nothing_is_put_around_a_text(tmp_path):
    """There the empty text is one token, which no word has beside its own."""
    gpt2(tmp_path)
    embedder = TextEmbedder(str(tmp_path), precision="float32").fit(["x"])
    backbone, options = embedder._load(), embedder._reading.options
    pieces = {word: backbone.preprocess([word], options)[0][0].length for word in ("qx", "qxz", "qxzj", "qxzjk")}
    assert 4 in pieces.values()
    for word, n in pieces.items():
        assert broken_share([word], backbone, options) == (n >= 4)


def test_texts_that_are_cut_are_told_of_once(tmp_path, monkeypatch):
    bert(tmp_path)
    embedder = TextEmbedder(str(tmp_path), precision="float32")
    words = np.random.default_rng(0).choice(["the", "cat", "sat", "on", "mat"], size=(24, 120))
    texts, y = [" ".join(row) for row in words], [0, 1] * 12
    with pytest.warns(TruncationWarning) as told:
        advise(texts, y, embedder)
    assert len(told) == 1
    counts = []
    for strategy in ("auto", "head"):
        monkeypatch.setattr("skembed.utils.warnings._given", set())  # as in a new process
        with pytest.warns(TruncationWarning) as told:
            FineTuneClassifier(embedder, strategy=strategy, max_epochs=0, random_state=0).fit(texts, y)
        counts.append(len(told))
    assert counts[0] == counts[1]


# -- numbers, labels ------------------------------------------------------------------------------------


def test_regression():
    X, _ = separable(300)
    y = X[:, 0] + 0.3 * X[:, 1] + 0.3 * np.random.default_rng(0).normal(size=300)
    advice = _advise(X, y)
    assert advice.task == "regression"
    assert advice.strategy.name == "progressive"
    assert 0.2 < advice.evidence["probe"] < 0.95
    assert isinstance(advice.estimator(), FineTuneRegressor)
    assert advice.findings == ()
    few = _advise(X[:100], y[:100])
    assert "100 samples, which is too few" in few["few samples"].evidence
    assert not {"class", "classes", "accuracy", "labels"} & set(re.findall(r"\w+", str(few)))
    assert "no signal" in _advise(X, np.random.default_rng(1).permutation(y))
    assert "far domain" in _advise(X, y, narrowing_backbone)


def test_several_labels():
    X, Y = make_multilabel_classification(200, 8, n_classes=3, random_state=0)
    X = ((X - X.mean(0)) / X.std(0)).astype(np.float32)
    advice = _advise(X, Y)
    assert advice.task == "multilabel"
    assert advice.evidence["n_targets"] == 3
    advice.estimator(max_epochs=0).fit(X, Y)


# -- the table ------------------------------------------------------------------------------------------


def _evidence(**numbers):
    """Ordinary data but for what is named."""
    advice = _advise(*separable(spread=0.75))
    return Evidence("classification", "image", {**advice.evidence, **numbers})


@pytest.mark.parametrize(
    ("numbers", "strategy"),
    [
        ({}, "progressive"),
        ({"epoch_seconds": 200.0}, "partial"),
        ({"n_samples": 50_000.0, "n_distinct": 50_000.0, "per_target": 5000.0}, "full"),
        ({"is_chance": 1.0, "per_target": 19.0}, "head"),
        ({"lower_gain": 0.1, "lower_error": 0.06}, "progressive"),
        ({"per_target": 19.0, "lower_gain": 0.1, "lower_error": 0.01}, "head"),
    ],
)
def test_which_rule_decides(numbers, strategy):
    assert _follow(_evidence(**numbers), ArrayEmbedder(), None).strategy.name == strategy


def test_too_large_for_the_memory_is_for_few_parameters():
    advice = _follow(_evidence(training_bytes=9e9, free_bytes=1e10), ArrayEmbedder(), None)
    assert "memory" in advice
    assert (advice.strategy, advice.method.name) in ((Full(), "lora"), (Partial(), "weights"))
    assert "memory" not in _follow(_evidence(training_bytes=7e9, free_bytes=1e10), ArrayEmbedder(), None)


def test_what_was_not_measured_makes_no_rule_hold_but_the_ordinary_one():
    unknown = Evidence("classification", "image", dict.fromkeys(_evidence().numbers, float("nan")))
    assert [rule.name for rule in RULES if rule.when(unknown)] == ["ordinary"]
    assert _follow(unknown, ArrayEmbedder(), None).strategy.name == "progressive"


def test_every_rule_has_a_source_and_sets_parameters_that_there_are():
    classifier = FineTuneClassifier(ArrayEmbedder(), optimization=Optimization(), strategy=Progressive())
    names = set(classifier.get_params())
    for rule in RULES:
        assert rule.source.rstrip(".")
        assert set(rule.settings) <= names
        assert (rule.finding is None) == (rule.remedy == "") == (rule.evidence == "")
        assert bool(rule.reason) == bool(rule.strategy or rule.settings)


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_no_rule_says_what_another_says_and_all_speak_of_the_task(task):
    """All of them hold at once, in all tasks: no brace is left open, and no sentence comes twice."""
    evidence = Evidence(task, "image", {**_evidence().numbers, "broken_share": 0.5, "n_suspects": 3.0})
    words = {**evidence.numbers, **words_for(evidence)}
    said = [text.format(**words) for rule in RULES for text in {rule.reason, rule.evidence, rule.remedy} if text]
    sentences = [sentence.strip(" .") for text in set(said) for sentence in re.split(r"[.:;] ", text)]
    repeated = {sentence for sentence in sentences if sentences.count(sentence) > 1}
    assert repeated <= {"with layer_decay=0.95 the lower blocks learn nearly as fast as the top"}
    foreign = {"classification": "R²", "multilabel": "per class", "regression": "per class"}[task]
    assert not [text for text in said if foreign in text]


def test_settings_are_those_of_the_strategy():
    """A head that has nothing to gain is not given more epochs, and stages are for those who have them."""
    solved = _advise(*separable())
    assert (solved.strategy, solved.settings) == (Head(), {})
    slow = _follow(_evidence(epoch_seconds=200.0), ArrayEmbedder(), None)
    assert (slow.strategy, slow.settings) == (Partial(), {})
    far = {"lower_gain": 0.1, "lower_error": 0.01, "per_target": 100.0}
    assert _follow(_evidence(**far), ArrayEmbedder(), None).settings == {
        "optimization": Optimization(layer_decay=0.95),
        "max_epochs": 60,
    }
    images = {"n_samples": 50_000.0, "n_distinct": 50_000.0, "per_target": 5000.0}
    assert "mix" in _follow(_evidence(**images), ArrayEmbedder(), None).settings
    assert "mix" not in _follow(_evidence(**images, is_chance=1.0), ArrayEmbedder(), None).settings


def test_where_only_a_lower_layer_tells_anything_the_domain_is_far():
    clear = _follow(_evidence(is_chance=1.0, lower_gain=0.1, lower_error=0.02), ArrayEmbedder(), None)
    assert "far domain" in clear
    assert "up to 6.0 may be chance" in next(each for each in clear.findings if each.name == "far domain").evidence
    assert "no signal" not in clear
    by_chance = _follow(_evidence(is_chance=1.0, lower_gain=0.1, lower_error=0.04), ArrayEmbedder(), None)
    assert "far domain" not in by_chance
    assert by_chance.findings[0].name == "no signal"


# -- the result -----------------------------------------------------------------------------------------


def test_the_result_is_repeated_pickles_and_changes_nothing():
    X, y = separable(spread=0.75)
    embedder = ArrayEmbedder(wide_backbone, precision="float32")
    first, again = (advise(X, y, embedder, max_samples=100, random_state=3) for _ in range(2))
    assert not hasattr(embedder, "spec_")
    assert (first.strategy, first.settings, first.findings) == (again.strategy, again.settings, again.findings)
    timed = {"sample_seconds", "epoch_seconds", "top_epoch_seconds", "free_bytes"}
    same = {name: value for name, value in first.evidence.items() if name not in timed}
    np.testing.assert_equal({name: again.evidence[name] for name in same}, same)
    assert first.evidence["n_drawn"] == 100
    copied = pickle.loads(pickle.dumps(first))
    assert str(copied) == str(first)
    with pytest.raises(AttributeError):
        first.strategy = Full()
    estimator = first.estimator(max_epochs=1)
    assert estimator.random_state == 3
    seeded = advise(X, y, embedder, max_samples=100, random_state=np.int64(3)).estimator()
    assert seeded.random_state == 3
    assert estimator.max_epochs == 1
    assert estimator.fit(X, y).strategy_ == first.strategy


def test_the_network_is_timed():
    evidence = _advise(*separable()).evidence
    assert 0 < evidence["top_epoch_seconds"] < evidence["epoch_seconds"]
    assert evidence["epoch_seconds"] == pytest.approx(3 * 240 * evidence["sample_seconds"])
    assert evidence["training_bytes"] == 16 * (8 * 32 + 2 * 32 * 32)


def test_errors_say_what_to_do():
    X, y = separable(30)
    with pytest.raises(ValueError, match="one class"):
        _advise(X, np.zeros(30))
    with pytest.raises(ValueError, match="y is None"):
        _advise(X, None)
    with pytest.raises(ValueError, match=r"Input y contains missing values: y\[2\] is None, the first of 1"):
        _advise(X, ["a", "b", None, *"ab" * 13, "a"])
    with pytest.raises(ValueError, match=r"Input y contains NaN: y\[2\] is nan, the first of 1"):
        _advise(X, ["a", "b", np.nan, *"ab" * 13, "a"])
    with pytest.raises(ValueError, match=r"Input y contains NaN: y\[4\] is nan"):
        _advise(X, np.where(np.arange(30) == 4, np.nan, X[:, 0]))
    with pytest.raises(ValueError, match="groups has shape"):
        _advise(X, y, groups=[1, 2])
    with pytest.raises(ValueError, match=r"y mixes strings with other values: y\[0\] is 'a' and y\[1\] is 1"):
        _advise(X, ["a", 1] * 15)
    assert _advise(X, ["1.5", 2, 3.0] * 10, task="regression").task == "regression", "numbers may be written"
    with pytest.raises(
        ValueError, match=r"y holds arrays of several shapes, the first of shape \(2, 2\)\. Give a class"
    ):
        _advise(X, [np.zeros((2, 2)), np.zeros((2, 3))] * 15)
    with pytest.raises(TypeError, match=r"X is a ArrayEmbedder.*advise\(X, y, embedder\)"):
        advise(ArrayEmbedder(), X, y)
    with pytest.raises(TypeError, match="embedder is a str"):
        advise(X, y, "resnet")
    with pytest.raises(ValueError, match="task='ranking'"):
        _advise(X, y, task="ranking")
    with pytest.raises(KeyError, match="unknown finding"):
        _advise(X, y)["leakage"]


# -- strategy="auto" ------------------------------------------------------------------------------------


def _auto(**parameters):
    embedder = ArrayEmbedder(wide_backbone, precision="float32")
    return FineTuneClassifier(embedder).set_params(
        **{"strategy": "auto", "max_epochs": 3, "random_state": 0, **parameters}
    )


def test_auto_follows_the_advice_and_says_so():
    X, y = separable(spread=0.75)
    fitted = _auto().fit(X, y)
    assert fitted.strategy == "auto"
    assert fitted.strategy_ == Progressive()
    assert fitted.advice_.strategy == Progressive(stage_epochs=10)
    assert "strategy='auto' chose Progressive(stage_epochs=10)" in fitted.report_
    assert "Howard & Ruder" in fitted.report_
    assert "but not applied: max_epochs=60" in fitted.report_
    few = _auto().fit(*separable(36))
    assert few.strategy_ == Head()
    assert few.report_.count(" per class, which is too few") == 1, "the reason is no second time a finding"
    assert "few samples" in few.advice_
    assert {record["stage"] for record in few.history_} == {"head"}
    assert FineTuneClassifier(ArrayEmbedder(), strategy="head", max_epochs=0).fit(X, y).advice_ is None


def test_auto_is_repeated_by_its_seed_wherever_it_runs(monkeypatch):
    """And so it must not be told how fast the machine is."""
    X, y = separable(spread=0.75)

    def refuse(*args):
        raise AssertionError("timed")

    monkeypatch.setattr("skembed.assessment.evidence.measure_training_cost", refuse)
    first = _auto().fit(X, y)
    second = clone(first).fit(X, y)
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    assert first.report_.count("\n") == second.report_.count("\n")
    np.testing.assert_equal(dict(first.advice_.evidence), dict(second.advice_.evidence))
    copied = pickle.loads(pickle.dumps(first))
    np.testing.assert_array_equal(first.predict_proba(X), copied.predict_proba(X))


def test_auto_does_not_look_at_what_is_held_out():
    X, y = separable(spread=0.75)
    fitted = _auto().fit(X[:180], y[:180], X_val=X[180:], y_val=y[180:])
    worse = _auto().fit(X[:180], y[:180], X_val=X[180:], y_val=np.roll(y[180:], 1))
    assert fitted.advice_.evidence["n_samples"] == 180
    np.testing.assert_equal(dict(fitted.advice_.evidence), dict(worse.advice_.evidence))


def test_auto_in_a_grid_search_beside_other_strategies():
    from sklearn.model_selection import GridSearchCV

    X, y = separable(90, spread=0.75)
    search = GridSearchCV(_auto(max_epochs=1), {"strategy": ["auto", "head"]}, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_auto_finds_a_rate_and_fits_numbers():
    from skembed import find_learning_rate

    X, y = separable(spread=0.75)
    assert 1e-6 <= find_learning_rate(_auto(), X, y, n_steps=12).suggestion <= 1
    embedder = ArrayEmbedder(wide_backbone, precision="float32")
    regressor = FineTuneRegressor(embedder, strategy="auto", max_epochs=1, random_state=0)
    assert regressor.fit(X, X[:, 0] + 0.1 * X[:, 1]).strategy_.name in ("progressive", "head")


def test_findings_of_auto_name_positions_in_X():
    """Samples of weight zero and those held out are not counted by the advice, but X has them."""
    X, y = separable(600)
    X2, y2 = np.concatenate([X[:50], X]), np.concatenate([y[:50], y])
    weights = np.ones(len(y2))
    weights[:50] = 0
    noisy = y2.copy()
    flipped = np.random.default_rng(0).permutation(np.arange(50, len(y2)))[:60]
    noisy[flipped] = (noisy[flipped] + 1) % 3
    fitted = _auto(max_epochs=0).fit(X2, noisy, sample_weight=weights)
    found = fitted.advice_["label noise"].samples
    assert np.isin(found, flipped).mean() >= 0.9
    assert np.isin(fitted.diagnosis_["label noise"].samples, flipped).mean() >= 0.9
