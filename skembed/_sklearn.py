"""The only door to scikit-learn's private helpers, so that a new release breaks one file."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import HasMethods, Interval, InvalidParameterError
from sklearn.utils._param_validation import StrOptions as _StrOptions

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # before 1.9 there are none

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing to support."""

    def with_callbacks(method: Any) -> Any:
        """The method as it is."""
        return method


class StrOptions(_StrOptions):
    """Words that a parameter may be, which an error lists in alphabetical order: a set has another in each process."""

    def __str__(self) -> str:
        return f"a str among {{{', '.join(map(self._mark_if_deprecated, sorted(self.options)))}}}"


def fit_transform_array(transformer: Any, rows: np.ndarray) -> np.ndarray:
    """Fit one of scikit-learn's transformers and return its rows as an ndarray.

    Under ``sklearn.set_config(transform_output="pandas")`` its `fit_transform` alone would return a dataframe.

    Parameters
    ----------
    transformer : transformer
        Unfitted; it is fitted.
    rows : ndarray of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_samples, n_features_out)
    """
    if hasattr(transformer, "set_output"):
        transformer.set_output(transform="default")
    return np.asarray(transformer.fit_transform(rows))


__all__ = [
    "CallbackSupportMixin",
    "HasMethods",
    "Interval",
    "InvalidParameterError",
    "StrOptions",
    "fit_context",
    "fit_transform_array",
    "with_callbacks",
]
