"""The base class through scikit-learn's own suite, on the double that reads rows of numbers."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks as checks

from skembed.backbones.loading.load import loaded
from skembed.exceptions import BackboneNotFoundError, WeightsMismatchError
from skembed.testing import ArrayEmbedder, array_backbone

#: check_estimator never runs these.
NEVER_YIELDED = [
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_get_feature_names_out_error",
    "check_dataframe_column_names_consistency",
    "check_param_validation",
    "check_inplace_ensure_writeable",
]


def test_estimator_checks():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = checks.check_estimator(ArrayEmbedder(), on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] not in ("passed", "skipped")}
    assert not failed, failed
    assert sum(r["status"] == "passed" for r in results) >= 47


@pytest.mark.parametrize("name", NEVER_YIELDED)
def test_never_yielded_checks(name):
    getattr(checks, name)("ArrayEmbedder", ArrayEmbedder())


def test_fifty_clones_load_one_backbone():
    loaded.clear()
    before = loaded.n_loads
    embedder = ArrayEmbedder().fit(np.eye(4))
    for _ in range(50):
        embedder = clone(embedder).fit(np.eye(4))
        embedder.transform(np.eye(4))
    assert loaded.n_loads == before + 1


def test_grid_search_loads_each_backbone_once():
    loaded.clear()
    before = loaded.n_loads
    X, y = load_iris(return_X_y=True)
    search = GridSearchCV(
        make_pipeline(ArrayEmbedder(), LogisticRegression(max_iter=2000)),
        {"arrayembedder__layers": [0, -1, [0, 1]], "arrayembedder__pooling": ["mean", "mean+max"]},
        cv=3,
    ).fit(X, y)
    assert search.best_score_ > 0.8
    assert loaded.n_loads == before + 1


def test_the_html_repr_never_loads_weights():
    embedder = ArrayEmbedder().fit(np.eye(4))
    loaded.clear()
    before = loaded.n_loads
    for estimator in (ArrayEmbedder(), embedder):
        assert "ArrayEmbedder" in estimator._repr_html_()
        repr(estimator)
    assert loaded.n_loads == before


def test_batch_sizes_from_numpy_count():
    embedder = ArrayEmbedder(batch_size=np.int64(1)).fit(np.eye(4))
    assert embedder.transform(np.eye(4)).shape == (4, 8)


def other_backbone(n_features=4):
    return array_backbone(n_features, depth=3)


def test_other_weights_are_refused_after_unpickling(monkeypatch):
    content = pickle.dumps(ArrayEmbedder().fit(np.eye(4)))
    loaded.clear()
    monkeypatch.setattr("skembed.testing.double.array_backbone", other_backbone)
    with pytest.raises(WeightsMismatchError, match=r"fitted with .*fit again"):
        pickle.loads(content).transform(np.eye(4))
    loaded.clear()


def test_transform_keeps_what_fit_resolved():
    embedder = ArrayEmbedder().fit(np.eye(4))
    rows = embedder.transform(np.eye(4))
    np.testing.assert_array_equal(embedder.set_params(pooling="mean+max", layers=0).transform(np.eye(4)), rows)


def test_layers_and_poolings_reach_the_rows():
    last, both = (ArrayEmbedder(layers=layers).fit_transform(np.eye(4)) for layers in (-1, [0, -1]))
    np.testing.assert_array_equal(both[:, 8:], last)
    assert not np.allclose(both[:, :8], last)
    assert ArrayEmbedder(layers="all").fit_transform(np.eye(4)).shape == (4, 24)
    assert ArrayEmbedder(layers="all", pooling="layer_attention").fit_transform(np.eye(4)).shape == (4, 8)


def test_truncate_then_normalize():
    whole = ArrayEmbedder().fit_transform(np.eye(4))
    rows = ArrayEmbedder(truncate_dim=3, normalize=True).fit_transform(np.eye(4))
    np.testing.assert_allclose(rows, whole[:, :3] / np.linalg.norm(whole[:, :3], axis=1, keepdims=True), rtol=1e-6)
    with pytest.raises(ValueError, match=r"truncate_dim=9 is more than the 8 features"):
        ArrayEmbedder(truncate_dim=9).fit(np.eye(4))


@pytest.mark.parametrize("layers", [3, -4, [0, 7], [], 1.5, ["a"]])
def test_layers_out_of_range(layers):
    with pytest.raises(ValueError, match="layers"):
        ArrayEmbedder(layers=layers).fit(np.eye(4))


def test_cls_without_a_class_token():
    with pytest.raises(ValueError, match="has no class token"):
        ArrayEmbedder(pooling="cls").fit(np.eye(4))


def test_factories_that_cannot_be_found_again():
    def local(n_features):
        return array_backbone(n_features)

    for factory in (local, lambda n_features: array_backbone(n_features)):
        with pytest.raises(BackboneNotFoundError, match="top of a module"):
            ArrayEmbedder(factory).fit(np.eye(4))
    with pytest.raises(BackboneNotFoundError, match="cannot be imported"):
        ArrayEmbedder("skembed.testing.double:absent").fit(np.eye(4))
    with pytest.raises(TypeError, match="not a Backbone"):
        ArrayEmbedder("builtins:dict").fit(np.eye(4))
    by_name = ArrayEmbedder("skembed.testing.double:array_backbone").fit_transform(np.eye(4))
    np.testing.assert_array_equal(by_name, ArrayEmbedder().fit_transform(np.eye(4)))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_close_and_comes_out_as_float32(precision):
    whole = ArrayEmbedder(precision="float32").fit_transform(np.eye(4))
    half = ArrayEmbedder(precision=precision).fit_transform(np.eye(4))
    assert half.dtype == np.float32
    assert 0 < np.abs(whole - half).max() < 0.02
