"""Checks of embedders of texts, images and sound, as scikit-learn has them for arrays."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import joblib
import numpy as np
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks as sklearn_checks

from skembed.cache import EmbeddingCache

__all__ = ["check_embedder", "embedder_checks"]

#: Largest pickle of a frozen embedder, in bytes: a spec and a digest, never weights.
MAX_PICKLE_BYTES = 20_000

#: Checks of scikit-learn that concern the class and its parameters, and need no data.
_WITHOUT_DATA = (
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
)


def check_embedder(
    embedder: BaseEstimator, samples: Sequence[Any], *, bad_sample: Any = None, atol: float = 1e-5
) -> int:
    """Run every check on an embedder of raw samples.

    Parameters
    ----------
    embedder : estimator
        Unfitted embedder, which is cloned and not changed. The clones have no cache and, if they have that parameter,
        ``precision="float32"``.
    samples : sequence of at least 5 raw samples
        Valid, distinct samples of different lengths or sizes.
    bad_sample : object
        A sample that cannot be read.
    atol : float, default=1e-5
        Tolerance within which embeddings count as equal.

    Returns
    -------
    int
        Number of checks that ran.

    Raises
    ------
    AssertionError
        At the first check that fails. The error names the check.

    Examples
    --------
    >>> from skembed import TextEmbedder
    >>> from skembed.testing import check_embedder
    >>> check_embedder(TextEmbedder(device="cpu"), ["a", "b c", "d e f", "g h", "i j k l m"])
    45
    """
    checks = embedder_checks()
    # Rows that come from a cache agree whatever the network does, and half precision hides what the tolerance shows.
    strict = {"cache": None, "precision": "float32"}
    # A new instance, since a clone keeps what `set_output` was called with.
    plain = type(embedder)(**clone(embedder).get_params(deep=False))
    plain.set_params(**{key: strict[key] for key in strict.keys() & embedder.get_params().keys()})
    with config_context(transform_output="default"):
        for name, check in checks.items():
            try:
                check(clone(plain), list(samples), bad_sample, atol)
            except Exception as error:
                raise AssertionError(f"{name} failed for {type(embedder).__name__}: {error}") from error
    return len(checks)


def embedder_checks() -> dict[str, Callable]:
    """Return functions by name that check an embedder, as `check_embedder` calls them."""
    ours = {name: check for name, check in globals().items() if name.startswith("_check_")}
    theirs = {name: _without_data(name) for name in _WITHOUT_DATA}
    return theirs | {name.removeprefix("_"): check for name, check in ours.items()}


def _without_data(name: str) -> Callable:
    check = getattr(sklearn_checks, name)
    return lambda embedder, samples, bad, atol: check(type(embedder).__name__, embedder)


def _same(a, b, atol) -> None:
    np.testing.assert_allclose(np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32), atol=atol, rtol=0)


def _raises(kinds, function, *args) -> BaseException:
    try:
        function(*args)
    except kinds as error:
        return error
    raise AssertionError(f"{function.__qualname__} did not raise {kinds}")


def _column(samples) -> np.ndarray:
    column = np.empty(len(samples), dtype=object)
    for i, sample in enumerate(samples):
        column[i] = sample
    return column


# -- output ---------------------------------------------------------------------------------------------


def _check_output(embedder, samples, bad, atol):
    rows = embedder.fit(samples).transform(samples)
    assert isinstance(rows, np.ndarray), type(rows)
    assert rows.dtype == np.float32, rows.dtype
    assert rows.shape == (len(samples), len(embedder.get_feature_names_out())), rows.shape
    assert np.isfinite(rows).all()
    assert rows.flags.c_contiguous


def _check_samples_differ(embedder, samples, bad, atol):
    rows = embedder.fit_transform(samples)
    assert len(np.unique(rows.round(6), axis=0)) == len(samples), "distinct samples have equal rows"


def _check_fit_transform_equals_fit_then_transform(embedder, samples, bad, atol):
    _same(clone(embedder).fit_transform(samples), embedder.fit(samples).transform(samples), atol)


def _check_transform_is_deterministic(embedder, samples, bad, atol):
    embedder.fit(samples)
    np.testing.assert_array_equal(embedder.transform(samples), embedder.transform(samples))


def _check_order_invariance(embedder, samples, bad, atol):
    order = np.random.default_rng(0).permutation(len(samples))
    rows = embedder.fit_transform(samples)
    _same(embedder.transform([samples[i] for i in order]), rows[order], atol)


def _check_subset_invariance(embedder, samples, bad, atol):
    rows = embedder.fit_transform(samples)
    _same(np.vstack([embedder.transform([sample]) for sample in samples]), rows, atol)


def _check_batch_size_invariance(embedder, samples, bad, atol):
    rows = embedder.fit_transform(samples)
    for batch_size in (1, 2, 7, 32):
        _same(clone(embedder).set_params(batch_size=batch_size).fit_transform(samples), rows, atol)


def _check_repeated_samples(embedder, samples, bad, atol):
    rows = embedder.fit_transform([samples[0], samples[1], samples[0]])
    _same(rows[0], rows[2], atol)


def _check_cold_and_warm_cache_agree(embedder, samples, bad, atol):
    if "cache" not in embedder.get_params():
        return
    rows, cache = embedder.fit_transform(samples), EmbeddingCache()
    cached = clone(embedder).set_params(cache=cache)
    _same(cached.fit_transform(samples), rows, atol)
    np.testing.assert_array_equal(cached.transform(samples[::-1]), cached.transform(samples)[::-1])
    assert cache.info().entries == len(samples), f"{cache.info().entries} entries for {len(samples)} distinct samples"


def _check_fit_does_not_learn_from_data(embedder, samples, bad, atol):
    first = clone(embedder).fit(samples[:1]).transform(samples)
    _same(first, embedder.fit(samples[1:]).transform(samples), atol)


# -- scikit-learn's contract ----------------------------------------------------------------------------


def _check_fit_returns_self(embedder, samples, bad, atol):
    assert embedder.fit(samples) is embedder


def _check_fit_ignores_y(embedder, samples, bad, atol):
    _same(
        embedder.fit(samples, np.arange(len(samples))).transform(samples),
        embedder.fit_transform(samples),
        atol,
    )


def _check_fit_keeps_parameters(embedder, samples, bad, atol):
    before = deepcopy(embedder.get_params())
    embedder.fit(samples).transform(samples)
    assert embedder.get_params() == before


def _check_fitted_attributes_end_in_underscore(embedder, samples, bad, atol):
    before = set(vars(embedder))
    added = set(vars(embedder.fit(samples))) - before
    wrong = {name for name in added if not name.endswith("_") and not name.startswith("_")}
    assert not wrong, wrong


def _check_transform_changes_nothing(embedder, samples, bad, atol):
    embedder.fit(samples)
    before = dict(vars(embedder))
    embedder.transform(samples)
    assert vars(embedder) == before


def _check_fit_is_idempotent(embedder, samples, bad, atol):
    _same(embedder.fit_transform(samples), embedder.fit_transform(samples), atol)


def _check_unfitted(embedder, samples, bad, atol):
    _raises(NotFittedError, embedder.transform, samples)
    _raises(NotFittedError, embedder.get_feature_names_out)


def _check_wrong_parameters_fail_in_fit(embedder, samples, bad, atol):
    for name, value in {"pooling": "median", "batch_size": 0, "layers": 10_000, "device": "abacus"}.items():
        wrong = clone(embedder).set_params(**{name: value})
        message = str(_raises(ValueError, wrong.fit, samples))
        assert name in message, f"the error does not name {name}: {message}"


def _check_tags(embedder, samples, bad, atol):
    tags = embedder.__sklearn_tags__()
    assert not tags.input_tags.two_d_array
    assert not tags.non_deterministic
    assert tags.transformer_tags is not None


def _check_html_repr(embedder, samples, bad, atol):
    for estimator in (embedder, clone(embedder).fit(samples)):
        assert type(embedder).__name__ in estimator._repr_html_()


# -- copies ---------------------------------------------------------------------------------------------


def _check_clone_gives_the_same(embedder, samples, bad, atol):
    _same(clone(embedder.fit(samples)).fit_transform(samples), embedder.transform(samples), atol)


def _check_pickle(embedder, samples, bad, atol):
    rows = embedder.fit_transform(samples)
    content = pickle.dumps(embedder)
    assert len(content) < MAX_PICKLE_BYTES, f"{len(content)} bytes"
    _same(pickle.loads(content).transform(samples), rows, atol)


def _check_joblib(embedder, samples, bad, atol):
    rows = embedder.fit_transform(samples)
    file = io.BytesIO()
    joblib.dump(embedder, file)
    file.seek(0)
    _same(joblib.load(file).transform(samples), rows, atol)
    assert joblib.hash(clone(embedder)) == joblib.hash(clone(embedder))


# -- containers -----------------------------------------------------------------------------------------


def _check_list_tuple_and_object_array(embedder, samples, bad, atol):
    rows = embedder.fit_transform(samples)
    column = _column(samples)
    for container in (tuple(samples), column, column.reshape(-1, 1)):
        _same(embedder.transform(container), rows, atol)


def _check_series_and_dataframe(embedder, samples, bad, atol):
    import pandas as pd

    rows = embedder.fit_transform(samples)
    frame = pd.DataFrame({"sample": _column(samples)}, index=range(10, 10 + len(samples)))
    for container in (frame["sample"], frame):
        _same(embedder.transform(container), rows, atol)


def _check_input_is_left_alone(embedder, samples, bad, atol):
    column = _column(samples)
    before = [id(sample) for sample in column]
    embedder.fit_transform(column)
    assert [id(sample) for sample in column] == before


def _check_empty(embedder, samples, bad, atol):
    _raises(ValueError, embedder.fit, [])
    _raises(ValueError, embedder.fit(samples).transform, [])


def _check_one_bare_sample(embedder, samples, bad, atol):
    _raises((ValueError, TypeError), embedder.fit, None)
    _raises((ValueError, TypeError), embedder.fit(samples).transform, "one sample, not a list of samples")


# -- bad samples ----------------------------------------------------------------------------------------


def _check_bad_sample_is_named(embedder, samples, bad, atol):
    embedder.fit(samples)
    error = _raises(ValueError, embedder.transform, [*samples[:2], bad])
    assert "sample 2" in str(error), str(error)


def _check_bad_sample_as_nan(embedder, samples, bad, atol):
    rows = embedder.fit_transform(samples[:3])
    mixed = embedder.set_params(on_error="nan").transform([samples[0], bad, samples[2]])
    assert np.isnan(mixed[1]).all()
    _same(mixed[[0, 2]], rows[[0, 2]], atol)


# -- company --------------------------------------------------------------------------------------------


def _check_feature_names_out(embedder, samples, bad, atol):
    rows = embedder.fit_transform(samples)
    names = embedder.get_feature_names_out()
    prefix = type(embedder).__name__.lower()
    if any("_layer" in name for name in names):  # several layers side by side
        assert len(set(names)) == rows.shape[1]
        assert all(name.startswith(f"{prefix}_layer") for name in names)
    else:
        assert list(names) == [f"{prefix}{i}" for i in range(rows.shape[1])]


def _check_set_output(embedder, samples, bad, atol):
    import pandas as pd

    rows = embedder.fit_transform(samples)
    frame = clone(embedder).set_output(transform="pandas").fit_transform(samples)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == list(embedder.get_feature_names_out())
    _same(frame.to_numpy(), rows, atol)


def _check_pipeline(embedder, samples, bad, atol):
    rows = embedder.fit_transform(samples)
    piped = make_pipeline(clone(embedder), StandardScaler()).fit_transform(samples)
    _same(piped, StandardScaler().fit_transform(rows), 100 * atol)


def _check_feature_union(embedder, samples, bad, atol):
    rows = embedder.fit_transform(samples)
    _same(make_union(clone(embedder), clone(embedder)).fit_transform(samples), np.hstack([rows, rows]), atol)


def _check_column_transformer(embedder, samples, bad, atol):
    import pandas as pd

    frame = pd.DataFrame({"sample": _column(samples), "number": np.arange(len(samples), dtype=float)})
    rows = embedder.fit_transform(samples)
    for columns in ("sample", ["sample"]):
        transformer = ColumnTransformer([("embed", clone(embedder), columns)], remainder="passthrough")
        _same(transformer.fit_transform(frame), np.column_stack([rows, frame["number"]]), atol)
