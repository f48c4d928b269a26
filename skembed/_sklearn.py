"""The only door to scikit-learn's private helpers, so that a new release breaks one file."""

from __future__ import annotations

from typing import Any

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


__all__ = [
    "CallbackSupportMixin",
    "HasMethods",
    "Interval",
    "InvalidParameterError",
    "StrOptions",
    "fit_context",
    "with_callbacks",
]
