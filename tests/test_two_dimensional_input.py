"""Meta-estimators that insist on 2-D input, and one column of raw samples for each of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import ClassifierChain
from sklearn.pipeline import make_pipeline
from sklearn.semi_supervised import SelfTrainingClassifier

from skembed import FineTuneClassifier
from tests.finetune import tuning

Y = np.arange(20) % 2


def _columns(samples):
    cells = np.empty((len(samples), 1), dtype=object)
    for i, sample in enumerate(samples):
        cells[i, 0] = sample
    columns = {"cells": cells, "pandas": pd.DataFrame({"sample": list(cells[:, 0])})}
    return columns | ({"polars": pl.DataFrame({"sample": samples})} if isinstance(samples[0], str) else {})


def _pipeline(family):
    return make_pipeline(tuning.embedder(family), LogisticRegression())


def _tuner(family):
    return FineTuneClassifier(tuning.embedder(family), max_epochs=0, random_state=0)


META = {
    "bagging of pipelines": lambda family: BaggingClassifier(_pipeline(family), n_estimators=2, random_state=0),
    "bagging of fine-tuners": lambda family: BaggingClassifier(_tuner(family), n_estimators=2, random_state=0),
    "boosting of fine-tuners": lambda family: AdaBoostClassifier(_tuner(family), n_estimators=1, random_state=0),
    "stacking": lambda family: StackingClassifier([("pipeline", _pipeline(family))], cv=2),
}


@pytest.mark.parametrize("family", ["bert", "timm_resnet"])
@pytest.mark.parametrize("meta", META)
def test_one_column_is_taken_in_any_container(meta, family):
    samples, _ = tuning.samples(family)
    predictions = [META[meta](family).fit(X, Y).predict(X).tolist() for X in _columns(samples).values()]
    assert all(predicted == predictions[0] for predicted in predictions)
    assert len(set(predictions[0])) == 2


def test_meta_estimators_that_need_numbers_stand_behind_the_embedder():
    samples, _ = tuning.samples("bert")
    unlabeled = np.where(np.arange(20) < 4, -1, Y)
    behind = make_pipeline(tuning.embedder("bert"), SelfTrainingClassifier(LogisticRegression()))
    assert len(behind.fit(samples, unlabeled).predict(samples)) == 20


def test_columns_that_a_meta_estimator_adds_are_named_in_the_error():
    X = pl.DataFrame({"text": tuning.TEXTS})
    with pytest.raises(ValueError, match=r"2 columns where one was expected.*ClassifierChain, belongs behind"):
        ClassifierChain(_pipeline("bert")).fit(X, np.column_stack([Y, 1 - Y]))
