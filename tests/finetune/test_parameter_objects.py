"""Parameter objects: equality, clones, nested parameters, searches, pickles, and what names stand for."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import skembed
from skembed import (
    IA3,
    Adapter,
    Augmentation,
    BitFit,
    CutMix,
    FineTuneClassifier,
    FineTuneRegressor,
    Full,
    Head,
    LoRA,
    Mixup,
    Norms,
    Optimization,
    Partial,
    Prefix,
    Progressive,
    Prompt,
    Weights,
)
from skembed.augment.mixing import resolve_mix
from skembed.backbones.tuning.method import METHODS, resolve_method
from skembed.strategies import STRATEGIES
from skembed.testing import ArrayEmbedder
from skembed.utils.parameters import ParameterObject

OBJECTS = [
    Head(), Partial(3), Full(), Progressive(step=2, stage_epochs=7), Weights(), LoRA(4, 8.0, 0.1, ["query"]),
    IA3(["key"]),
    Adapter(5), Prefix(3), Prompt(4), BitFit(), Norms(), Optimization(ema=0.9, dropout=0.2), Mixup(0.3, on="features"),
    CutMix(0.5), Augmentation(["flip", ("rotation", {"degrees": 5})], views=2),
]  # fmt: skip
QUICK = {"max_epochs": 2, "random_state": 0}


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4)).astype(np.float32)
    return X, (X[:, 0] > 0).astype(int)


def _classifier(**parameters):
    return FineTuneClassifier(ArrayEmbedder(precision="float32"), **{**QUICK, **parameters})


@pytest.mark.parametrize("value", OBJECTS, ids=repr)
def test_an_object_is_equal_to_its_clone_its_pickle_and_its_repr(value):
    again = eval(repr(value), vars(skembed).copy() | {name: getattr(skembed, name) for name in skembed.__all__})
    for copy in (clone(value), pickle.loads(pickle.dumps(value)), again):
        assert copy is not value
        assert copy == value
    value.validate()


def test_objects_of_other_parameters_or_classes_differ():
    assert Partial(1) != Partial(2)
    assert Prefix(4) != Prompt(4)
    assert Partial(np.int64(2)) == Partial(2)
    assert LoRA(target_modules=("query",)) == LoRA(target_modules=["query"])
    assert Head() != "head"


def test_every_public_object_is_tried_here():
    public = {getattr(skembed, name) for name in skembed.__all__ if name[0].isupper()}
    objects = {each for each in public if isinstance(each, type) and issubclass(each, ParameterObject)}
    assert objects == {type(value) for value in OBJECTS}


def test_names_stand_for_the_default_objects():
    assert {name: cls() for name, cls in STRATEGIES.items()} == {
        "head": Head(), "partial": Partial(), "full": Full(), "progressive": Progressive()
    }  # fmt: skip
    assert {name: type(resolve_method(name)) for name in METHODS} == {
        "weights": Weights, "lora": LoRA, "ia3": IA3, "adapter": Adapter, "prefix": Prefix, "prompt": Prompt,
        "bitfit": BitFit, "norms": Norms,
    }  # fmt: skip
    assert resolve_mix(["cutmix", "mixup"]) == (Mixup(), CutMix())


@pytest.mark.parametrize(("named", "given"), [
    ({"strategy": "partial"}, {"strategy": Partial(), "method": Weights(), "optimization": Optimization()}),
    ({"mix": "mixup", "augment": None}, {"mix": [Mixup()], "strategy": Progressive()}),
])  # fmt: skip
def test_a_fit_by_names_is_the_fit_by_default_objects(rows, named, given):
    first, second = (_classifier(**parameters).fit(*rows) for parameters in (named, given))
    assert [record["train_loss"] for record in first.history_] == [record["train_loss"] for record in second.history_]
    np.testing.assert_array_equal(first.predict_proba(rows[0]), second.predict_proba(rows[0]))


def test_a_fit_leaves_the_given_objects_alone(rows):
    strategy, method = Partial(), BitFit()
    with pytest.raises(ValueError, match="has no biases"):  # the double has none
        _classifier(strategy=strategy, method=method).fit(*rows)
    classifier = _classifier(strategy=strategy).fit(*rows)
    assert classifier.strategy is strategy
    assert classifier.strategy_ == strategy
    assert classifier.strategy_ is not strategy
    assert classifier.method == "weights"
    assert classifier.method_ == Weights()


@pytest.mark.parametrize(("parameters", "expected"), [
    ({"optimization__dropout": 0.3}, {"optimization": Optimization(dropout=0.3)}),
    ({"strategy__stage_epochs": 2}, {"strategy": Progressive(stage_epochs=2)}),
    ({"strategy": "partial", "strategy__n_blocks": 2}, {"strategy": Partial(2)}),
    ({"method": "lora", "method__rank": 2}, {"method": LoRA(2)}),
    ({"method": Prefix(), "method__n_tokens": 2}, {"method": Prefix(2)}),
    ({"mix": "mixup", "mix__alpha": 0.5}, {"mix": Mixup(0.5)}),
    ({"augment": "light", "augment__views": 3}, {"augment": Augmentation("light", views=3)}),
    ({"embedder__layers": [0], "max_epochs": 9}, {"max_epochs": 9}),
])  # fmt: skip
def test_nested_parameters_are_set_also_where_a_name_was_given(parameters, expected):
    classifier = clone(_classifier()).set_params(**parameters)
    assert {name: getattr(classifier, name) for name in expected} == expected
    assert clone(classifier).get_params(deep=False).keys() == classifier.get_params(deep=False).keys()


@pytest.mark.parametrize("parameters", [
    {"strategy__n_block": 2}, {"optimization__droput": 0.1}, {"scoring__x": 1}, {"nothing__x": 1},
    {"strategy": "auto", "strategy__step": 1},
], ids=str)  # fmt: skip
def test_unknown_nested_parameters_are_errors(parameters):
    with pytest.raises((ValueError, AttributeError), match=r"Invalid parameter|has no attribute"):
        _classifier().set_params(**parameters)


def test_nested_searches_try_each_value(rows):
    grid = [
        {"strategy": [Partial()], "strategy__n_blocks": [1, 2]},
        {"strategy": ["full"], "optimization__l2_sp": [0.0, 0.01]},
    ]
    search = GridSearchCV(_classifier(refit=False), grid, cv=2, error_score="raise").fit(*rows)
    tried = search.cv_results_["params"]
    assert [params["strategy__n_blocks"] for params in tried if "strategy__n_blocks" in params] == [1, 2]
    assert [params["optimization__l2_sp"] for params in tried if "optimization__l2_sp" in params] == [0.0, 0.01]
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = search.best_estimator_
    assert isinstance(best.strategy_, Partial | Full)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(best)).predict(rows[0]), best.predict(rows[0]))


def test_skops_saves_estimators_with_objects(rows):
    from skops.io import dumps, get_untrusted_types, loads

    given = {"strategy": Partial(2), "optimization": Optimization(dropout=0.2), "mix": Mixup(0.3, on="features")}
    embedder = ArrayEmbedder(skembed.testing.array_backbone, precision="float32")
    data = dumps(FineTuneClassifier(embedder, **given))
    again = loads(data, trusted=get_untrusted_types(data=data))
    assert {name: getattr(again, name) for name in given} == given


@pytest.mark.parametrize("estimator", [FineTuneClassifier, FineTuneRegressor])
def test_the_constructors_stay_narrow(estimator):
    assert len(estimator().get_params(deep=False)) <= 20
