"""The only imports of scikit-learn's private helpers, so that a release breaks one file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import HasMethods, Interval, InvalidParameterError
from sklearn.utils._param_validation import StrOptions as _StrOptions

Method = TypeVar("Method", bound=Callable[..., Any])

try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback import with_callbacks as _with_callbacks
except ImportError:  # before 1.9 there are none

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Empty base class, for versions of scikit-learn without callbacks."""

    def _with_callbacks(method: Any) -> Any:
        """Return the method as it is."""
        return method


# scikit-learn's decorators have no types: without these two a type checker knows nothing of the methods they decorate.
def fit_context(*, prefer_skip_nested_validation: bool) -> Callable[[Method], Method]:
    """Return scikit-learn's decorator that validates parameters before `fit`."""
    return _fit_context(prefer_skip_nested_validation=prefer_skip_nested_validation)


def with_callbacks(method: Method) -> Method:
    """Decorate `fit` with the setup and teardown of scikit-learn's callbacks."""
    return _with_callbacks(method)


class StrOptions(_StrOptions):
    """Allowed strings of a parameter, which errors list in alphabetical order.

    The order of a set would differ between processes.
    """

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
