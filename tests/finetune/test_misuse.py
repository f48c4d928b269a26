"""What a user does wrong, or too little of: each is refused by name, or said."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import HalvingGridSearchCV

from skembed import FineTuneClassifier, FineTuneRegressor, ImageEmbedder, LoRA, Progressive, Prompt, TextEmbedder
from skembed.exceptions import DecodeWarning, FitWarning
from skembed.testing import ArrayEmbedder
from tests.finetune import tuning

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)
NUMBERS = X[:, 0] + 0.25


def _classifier(**parameters):
    return FineTuneClassifier(ArrayEmbedder()).set_params(**{"max_epochs": 0, "random_state": 0, **parameters})


def _regressor(**parameters):
    return FineTuneRegressor(ArrayEmbedder()).set_params(**{"max_epochs": 0, "random_state": 0, **parameters})


def _replaced(values, place, value):
    changed = list(values)
    changed[place] = value
    return changed


# -- epochs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_epochs", [2, 3, 5])
def test_progressive_unfreezes_something_within_few_epochs(max_epochs):
    classifier = _classifier(max_epochs=max_epochs, strategy=Progressive(stage_epochs=5)).fit(X, Y)
    assert any(record["unfrozen"] for record in classifier.history_)
    assert "Nothing was unfrozen" not in classifier.report_


def test_one_epoch_is_the_head_s_and_that_is_said():
    for method in ("weights", "adapter"):
        classifier = tuning.fit("bert", "progressive", method, max_epochs=1)
        assert not classifier.history_[0]["unfrozen"]
        assert "Nothing was unfrozen: max_epochs=1 " in classifier.report_
    assert "Nothing was unfrozen" not in _classifier(strategy="head", max_epochs=1).fit(X, Y).report_
    assert "Nothing was unfrozen" not in _classifier(max_epochs=0).fit(X, Y).report_


def test_halving_over_epochs_unfreezes_from_the_second_epoch_on_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search = HalvingGridSearchCV(
            _classifier(), {"learning_rate": [1e-3, 1e-2]}, resource="max_epochs", max_resources=4, min_resources=2,
            factor=2, cv=2,
        ).fit(X, Y)  # fmt: skip
    assert any(record["unfrozen"] for record in search.best_estimator_.history_)


# -- parameters that cannot mean what was given -----------------------------------------------------------


def test_a_rank_above_that_of_every_weight_is_refused():
    # Of 16 features, and 16 to 32 and back: no weight has a rank of more than 16.
    found = re.compile(r"LoRA\(rank=1000\) .* Use a value up to (\d+)")
    with pytest.raises(ValueError, match=found) as caught:
        tuning.fit("bert", "full", "lora", method__rank=1000)
    largest = int(found.search(str(caught.value)).group(1))
    tuning.fit("bert", "full", "lora", method__rank=largest, max_epochs=1)
    with pytest.raises(ValueError, match=rf"LoRA\(rank={largest + 1}\) "):
        tuning.fit("bert", "full", "lora", method__rank=largest + 1)


def test_views_without_augmentation_are_of_no_use_and_that_is_said():
    with pytest.warns(FitWarning, match="n_views=4 has no effect: augment is None"):
        _classifier(n_views=4).fit(X, Y)


@pytest.mark.parametrize(("value", "said"), [
    ("query", r"'target_modules' parameter .* Got 'query' instead\. Give a list: target_modules=\['query'\]"),
    ([], "target_modules is empty"),
    (["query", 3], r"target_modules=\['query', 3\]: 3 is an int"),
    ([["query"]], "is a list"),
    ([""], "target_modules=.*is an empty name"),
])  # fmt: skip
@pytest.mark.parametrize("strategy", ["head", "full"])
def test_the_form_of_target_modules_is_checked_whatever_the_strategy(strategy, value, said):
    with pytest.raises(ValueError, match=said):
        _classifier(strategy=strategy, method=LoRA(target_modules=value)).fit(X, Y)


def test_unknown_layers_come_with_names_that_exist():
    with pytest.raises(ValueError, match=r"target_modules names 'q_lin'.*'query'.*'value'"):
        tuning.fit("bert", "full", "lora", method__target_modules=["q_lin"])
    with pytest.raises(ValueError, match=r"target_modules names 'qurey'.*Nearest.* 'query'"):
        tuning.fit("bert", "full", "lora", method__target_modules=["qurey"])


def test_a_prompt_longer_than_what_is_read_is_refused_by_its_own_name():
    with pytest.raises(ValueError, match=r"Prompt\(n_tokens=600\) .* Use n_tokens up to (\d+)") as caught:
        tuning.fit("bert", "full", "prompt", method__n_tokens=600)
    said = str(caught.value)
    assert "leaves no room for text" in said
    largest = int(re.search(r"up to (\d+)", said).group(1))
    assert f"reads {largest + 3} tokens, 2 of them special" in said


def test_a_larger_max_length_is_named_only_where_there_is_one():
    X_, y = tuning.samples("bert")
    short = FineTuneClassifier(tuning.embedder("bert", max_length=12), strategy="full", method="prompt", **tuning.SHORT)
    with pytest.raises(ValueError, match=r"Prompt\(n_tokens=10\) .*reads 12 tokens.*or a larger max_length, up to"):
        short.fit(X_, y)
    whole = FineTuneClassifier(tuning.embedder("bert"), strategy="full", method=Prompt(5000), **tuning.SHORT)
    with pytest.raises(ValueError, match=r"n_tokens=5000") as caught:
        whole.fit(X_, y)
    assert "a larger max_length" not in str(caught.value)


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_a_checkpoint_directory_that_is_a_file(tmp_path, inside):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"checkpoint_dir='.*file.*' is a file or below a file"):
        _classifier(max_epochs=1, checkpoint_dir=tmp_path / "file" / inside).fit(X, Y)


# -- what is held out -------------------------------------------------------------------------------------


def test_a_single_held_out_sample_judges_nothing_and_that_is_said():
    few, labels = X[:5], [0, 0, 0, 1, 1]
    with pytest.warns(FitWarning, match=r"validation_fraction=0.2 of 5 samples holds out one"):
        _classifier().fit(few, labels)
    with pytest.warns(FitWarning, match="X_val has one sample"):
        _classifier().fit(X, Y, X_val=X[:1], y_val=Y[:1])
    _classifier(validation_fraction=None).fit(few, labels)


# -- targets ----------------------------------------------------------------------------------------------


def test_many_distinct_numbers_look_like_a_regression():
    rng = np.random.default_rng(0)
    prices = rng.integers(0, 60, size=40) * 10
    with pytest.warns(FitWarning, match=r"y has \d+ distinct numbers in 40 samples.*FineTuneRegressor") as told:
        _classifier(validation_fraction=None).fit(X, prices)
    assert len(told) == 1, "scikit-learn's own word on it is not heard beside ours"
    # Names are classes, however many; and so are numbers that a LabelEncoder gave, and numbers seen often enough.
    for labels in (prices.astype(str), np.arange(40) // 2, np.arange(40) % 20 * 10):
        _classifier(validation_fraction=None).fit(X, labels)


@pytest.mark.parametrize("y", [NUMBERS, np.stack([NUMBERS, NUMBERS], 1)])
def test_a_classifier_names_the_regressor(y):
    with pytest.raises(ValueError, match=r"Unknown label type: continuous.*0\.\d+.*FineTuneRegressor"):
        _classifier().fit(X, y)


@pytest.mark.parametrize("kind", [list, np.array, pd.Series, lambda y: np.array(y, dtype=object)])
def test_a_regressor_names_the_classifier(kind):
    with pytest.raises(ValueError, match=r"y\[0\] is 'no'.*FineTuneClassifier"):
        _regressor().fit(X, kind(["no", "yes"] * 20))
    _regressor().fit(X, kind([str(number) for number in NUMBERS]))


@pytest.mark.parametrize("make", [_classifier, _regressor])
@pytest.mark.parametrize("y", [
    pytest.param(_replaced(Y.astype(float), 7, np.nan), id="NaN"),
    pytest.param(np.array(_replaced(Y.astype(float), 7, np.nan)), id="array"),
    pytest.param(_replaced(Y.tolist(), 7, None), id="None"),
    pytest.param(pd.Series(_replaced(Y.tolist(), 7, None), dtype="Int64", index=range(100, 140)), id="NA"),
    pytest.param(np.array(_replaced(Y.tolist(), 7, None), dtype=object), id="objects"),
])  # fmt: skip
def test_missing_targets_are_named_by_their_place(make, y):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"Input y contains .*: y\[7\] is (nan|None|<NA>), the first of 1"):
            make().fit(X, y)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_names_are_no_class_of_their_own(missing):
    names = _replaced(["a", "b"] * 20, 3, missing)
    for y in (names, np.array(names, dtype=object), pd.Series(names)):
        with pytest.raises(ValueError, match=r"y\[3\] is"):
            _classifier().fit(X, y)
    with pytest.raises(ValueError, match=r"y_val\[3\] is"):
        _classifier().fit(X, ["a", "b"] * 20, X_val=X, y_val=names)


def test_infinite_and_two_dimensional_targets_are_named_too():
    with pytest.raises(ValueError, match=r"Input y contains infinity: y\[2\] is inf"):
        _regressor().fit(X, _replaced(NUMBERS, 2, np.inf))
    two = np.stack([NUMBERS, NUMBERS], 1)
    two[5, 1] = np.nan
    with pytest.raises(ValueError, match=r"y\[5, 1\] is nan"):
        _regressor().fit(X, two)


@pytest.mark.parametrize(
    "mixed", [_replaced(["1", "2"] * 20, 4, 2), np.array(_replaced(["1", "2"] * 20, 4, 2), dtype=object)]
)
def test_strings_among_numbers_are_not_guessed_at(mixed):
    with pytest.raises(ValueError, match=r"y\[0\] is '1' and y\[4\] is 2"):
        _classifier().fit(X, mixed)


def test_numbers_held_as_objects_are_numbers():
    classifier = _classifier().fit(X, pd.Series(Y.tolist(), dtype=object, index=range(100, 140)))
    np.testing.assert_array_equal(classifier.classes_, [0, 1])
    assert classifier.classes_.dtype.kind == "i"


@pytest.mark.parametrize(("y", "said"), [
    (pd.date_range("2020", periods=40), "y holds times, such as 2020"),
    (Y * 1e300, r"y holds 1e\+300"),
    ([[1], [1, 2]] * 20, r"y\[0\] is \[1\], which is not a number"),
])  # fmt: skip
def test_a_regressor_refuses_what_is_no_number(y, said):
    with pytest.raises(ValueError, match=said):
        _regressor().fit(X, y)


def test_numbers_too_large_to_be_classes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"continuous.*1e\+300.*FineTuneRegressor"):
            _classifier().fit(X, Y * 1e300)


@pytest.mark.parametrize(("dtype", "kind"), [("Int64", "i"), ("boolean", "b")])
def test_classes_keep_the_type_that_pandas_has_for_them(dtype, kind):
    classifier = _classifier().fit(X, pd.Series(Y.astype(bool) if kind == "b" else Y, dtype=dtype))
    assert classifier.classes_.dtype.kind == kind


@pytest.mark.parametrize(("class_weight", "said"), [
    ({0: -1, 1: 1}, "class_weight has -1 for the class 0"),
    ({0: 0, 1: 1}, "class_weight has 0 for the class 0"),
    ({0: "a", 1: 1}, "class_weight has 'a' for the class 0"),
    ({0: 10**400, 1: 1}, "class_weight has 1000.* for the class 0"),
    ({"0": 1, "1": 1}, r"names the class '0', which y does not have, and lacks 0\. .*: 0, 1\."),
])  # fmt: skip
def test_weights_of_classes(class_weight, said):
    with pytest.raises(ValueError, match=said):
        _classifier(class_weight=class_weight).fit(X, Y)
    # A class without a weight has one, and a fold may lack a class.
    _classifier(class_weight={0: 2}).fit(X, Y)
    _classifier(class_weight={0: 2, 1: 1, 2: 1}).fit(X, Y)
    with pytest.raises(ValueError, match="class_weight is a dict and y a matrix of labels"):
        _classifier(class_weight={0: 2, 1: 1}).fit(X, np.eye(3, dtype=int)[np.arange(40) % 3])


@pytest.mark.parametrize("make", [_classifier, _regressor])
@pytest.mark.parametrize("y", ["abc", {0: 1}, {0, 1}, 3, (number for number in Y)], ids=lambda y: type(y).__name__)
def test_targets_that_are_no_collection(make, y):
    with pytest.raises(TypeError, match=r"y is a \w+, not a collection with one value for each of the 40 samples of X"):
        make().fit(X, y)


def test_validation_targets_of_another_form():
    labels = np.eye(3, dtype=int)[np.arange(40) % 3]
    for make, y, y_val in (
        (_classifier, Y, labels),
        (_classifier, labels, labels[:, :2]),
        (_regressor, NUMBERS, labels),
    ):
        with pytest.raises(ValueError, match=r"y has shape .* and y_val"):
            make().fit(X, y, X_val=X, y_val=y_val)


def test_classes_as_columns_are_taken_for_labels_and_that_is_said():
    columns = np.eye(3, dtype=int)[np.arange(40) % 3]
    said = "exactly one of the labels"
    assert said in _classifier().fit(X, columns).report_
    several = columns.copy()
    several[0] = 1
    assert said not in _classifier().fit(X, several).report_
    assert said not in _regressor().fit(X, columns).report_
    assert said not in _classifier().fit(X, Y).report_


def test_scorers_are_named():
    with pytest.raises(ValueError, match=r"'acuracy' .* Did you mean 'accuracy'\?"):
        _classifier(scoring="acuracy").fit(X, Y)
    with pytest.raises(ValueError, match="continuous is not supported") as caught:
        _regressor(scoring="accuracy").fit(X, NUMBERS)
    assert any("scoring='accuracy' cannot judge these predictions" in note for note in caught.value.__notes__)


def test_missing_groups_are_named_by_their_place():
    with pytest.raises(ValueError, match=r"Input groups contains missing values: groups\[2\] is None"):
        _classifier().fit(X, Y, groups=_replaced(["a", "b"] * 20, 2, None))


# -- lengths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "said"), [
    ({"y": Y[:39]}, "X has 40 samples and y has 39"),
    ({"sample_weight": np.ones(3)}, "X has 40 samples and sample_weight has 3"),
    ({"groups": np.ones(41)}, "X has 40 samples and groups has 41"),
    ({"groups": np.ones(41), "X_val": X, "y_val": Y}, "X has 40 samples and groups has 41"),
    ({"X_val": X[:5], "y_val": Y[:6]}, "X_val has 5 samples and y_val has 6"),
])  # fmt: skip
def test_lengths_are_told_apart(given, said):
    for make in (_classifier, _regressor):
        with pytest.raises(ValueError, match=said):
            make().fit(X, **{"y": Y, **given})


@pytest.mark.parametrize(("weights", "said"), [
    (_replaced(np.ones(40), 6, -1.0), r"sample_weight\[6\] is -1.0"),
    (_replaced(np.ones(40), 6, np.nan), r"sample_weight\[6\] is nan"),
    ("balanced", "sample_weight is not numeric"),
    (np.ones((40, 1)), r"sample_weight has shape \(40, 1\)"),
    (np.zeros(40), "sample_weight is zero for every sample"),
])  # fmt: skip
def test_weights_that_weigh_nothing(weights, said):
    with pytest.raises(ValueError, match=said):
        _classifier().fit(X, Y, sample_weight=weights)


# -- samples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_error", ["nan", "warn"])
def test_samples_left_out_are_counted_and_named(on_error):
    texts = [f"{word} {i}" for i, word in enumerate(["cat", "dog", "mat", "moon"] * 10)]
    for place in (3, 7, 11, 20, 21, 30, 31):
        texts[place] = None
    classifier = FineTuneClassifier(tuning.embedder("bert", on_error=on_error), max_epochs=0, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DecodeWarning)
        classifier.fit(texts, [0, 1] * 20, X_val=["cat", None, "dog"], y_val=[0, 1, 1])
    assert "7 of 40 samples of X could not be embedded and were left out: 3, 7, 11, 20, 21, ..." in classifier.report_
    assert "1 of 3 samples of X_val could not be embedded and was left out: 1." in classifier.report_
    classifier.fit(texts[:3] * 4, [0, 1, 1] * 4)
    assert "could not be embedded" not in classifier.report_


@pytest.mark.parametrize("on_error", ["nan"])
def test_no_sample_that_can_be_read(on_error):
    with pytest.raises(ValueError, match="None of the 4 samples of X could be embedded"):
        FineTuneClassifier(tuning.embedder("bert", on_error=on_error)).fit([None] * 4, [0, 1, 0, 1])


@pytest.mark.parametrize("kind", ["two", "three", "labels"])
def test_no_class_is_invented_for_a_sample_that_could_not_be_read(kind):
    texts = ["a cat", "the mat", "a dog sat on"] * 6
    y = {"two": [0, 1, 1] * 6, "three": ["a", "b", "c"] * 6, "labels": np.eye(3, dtype=int)[[0, 1, 2] * 6]}[kind]
    classifier = FineTuneClassifier(tuning.embedder("bert", on_error="nan"), max_epochs=0, random_state=0)
    classifier.fit(texts, y)
    told = r"2 of 4 samples of X could not be embedded, and have no class: 1, 3\. Leave them out, or call predict_proba"
    with pytest.raises(ValueError, match=told):
        classifier.predict(["cat", None, "dog", None])
    with pytest.raises(ValueError, match=r"7 of 7 .*: 0, 1, 2, 3, 4, \.\.\.\. Leave"):
        classifier.predict([None] * 7)
    proba = classifier.predict_proba(["cat", None, "dog", None])
    np.testing.assert_array_equal(np.isnan(proba).all(1), [False, True, False, True])
    np.testing.assert_array_equal(np.isnan(classifier.decision_function(["cat", None]).reshape(2, -1)).all(1), [0, 1])
    assert len(classifier.predict(["cat", "dog"])) == 2


def test_a_number_that_could_not_be_read_is_nan():
    texts = ["a cat", "the mat", "a dog sat on"] * 6
    regressor = FineTuneRegressor(tuning.embedder("bert", on_error="nan"), max_epochs=0, random_state=0)
    regressor.fit(texts, np.arange(18) % 3 + 0.5)
    np.testing.assert_array_equal(np.isnan(regressor.predict(["cat", None, "dog"])), [False, True, False])


def test_embeddings_that_do_not_differ_are_told_of():
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 255, size=(20, 64, 64, 3), dtype=np.uint8))
    with pytest.warns(FitWarning, match=r"embeddings.* of 20 different samples are alike.*image_size=8"):
        classifier = FineTuneClassifier(ImageEmbedder(image_size=8, device="cpu"), max_epochs=0, random_state=0).fit(
            images, np.arange(20) % 2
        )
    assert "are alike" in classifier.report_


def test_copies_are_no_collapse():
    """Their embeddings are alike as they should be."""
    classifier = FineTuneClassifier(tuning.embedder("bert"), max_epochs=0, random_state=0)
    classifier.fit(["a cat", "the moon rose"] * 20, [0, 1] * 20)
    assert "alike" not in classifier.report_


def test_held_out_samples_that_were_trained_on_are_told_of():
    classifier = _classifier()
    with pytest.warns(FitWarning, match="8 of 10 held-out samples are copies of training samples.*X_val") as told:
        classifier.fit(X, Y, X_val=np.concatenate([X[:8], X[:2] + 1]), y_val=np.concatenate([Y[:8], Y[:2]]))
    assert told[0].filename == __file__
    assert "8 of 10 held-out samples are copies" in classifier.report_


def test_copies_that_a_split_tears_apart_are_in_the_report():
    assert "held-out samples are copies" in _classifier().fit(np.repeat(X, 4, 0), np.repeat(Y, 4)).report_
    groups = np.repeat(np.arange(len(X)), 4)
    kept_together = _classifier().fit(np.repeat(X, 4, 0), np.repeat(Y, 4), groups=groups)
    assert "copies" not in kept_together.report_


@pytest.mark.parametrize("random_state", range(4))
def test_copies_in_groups_of_which_one_was_drawn_are_no_warning(random_state):
    """Whichever of the two it is, it was not given as X_val."""
    copied, groups = np.concatenate([X[:20], X[:20]]), np.repeat([0, 1], 20)
    classifier = _classifier(random_state=random_state, validation_fraction=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FitWarning)
        classifier.fit(copied, np.tile(Y[:20], 2), groups=groups)
    assert "held-out samples are copies" in classifier.report_


def test_a_copy_among_many_is_no_matter():
    changed = np.concatenate([X[:1], X[1:30] + 1])
    classifier = _classifier().fit(X, Y, X_val=changed, y_val=Y[:30])
    assert "copies" not in classifier.report_


def test_an_embedder_that_is_none():
    with pytest.raises(ValueError, match=r"embedder.*Got 'MiniLM'.*TextEmbedder\('MiniLM'\)"):
        FineTuneClassifier("MiniLM").fit(X, Y)
    with pytest.raises(ValueError, match=r"embedder.*Got <class.*TextEmbedder\(\)"):
        FineTuneClassifier(TextEmbedder).fit(X, Y)
