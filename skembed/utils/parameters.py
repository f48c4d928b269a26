"""Validation of parameters with hints, and objects that group parameters."""

from __future__ import annotations

from typing import Any, ClassVar

from sklearn.base import BaseEstimator

from skembed.utils.identity import plain
from skembed.utils.naming import did_you_mean
from skembed.utils.sklearn_private import InvalidParameterError, StrOptions

__all__ = ["HintingParametersMixin", "ParameterObject", "check_path"]


class HintingParametersMixin:
    """Add the nearest valid value to scikit-learn's message about an invalid parameter.

    It stands left of `BaseEstimator`.
    """

    _parameter_constraints: ClassVar[dict[str, Any]]

    def _validate_params(self) -> None:
        try:
            super()._validate_params()  # type: ignore[misc]
        except InvalidParameterError as error:
            # "The 'name' parameter of ..."
            name = str(error).split("'")[1]
            hint = self._hint(name, getattr(self, name))
            raise InvalidParameterError(f"{error}{hint}") from None

    def _hint(self, name: str, value: Any) -> str:
        """Return a sentence on what was meant, with a space before it, or an empty string."""
        options = [option for option in self._parameter_constraints[name] if isinstance(option, StrOptions)]
        if not isinstance(value, str) or not options:
            return ""
        return did_you_mean(value, sorted(set().union(*(option.options for option in options))))


class ParameterObject(HintingParametersMixin, BaseEstimator):
    """Group of parameters with their behavior, such as a strategy or a training method.

    It is a scikit-learn estimator without `fit`: `clone`, `get_params`, `set_params` and nested searches work as they
    do for the kernels of Gaussian processes. Two objects of one class with equal parameters are equal.
    """

    def validate(self) -> None:
        """Check the types and ranges of the parameters.

        Raises
        ------
        ValueError
            Names the parameter, what is allowed and what was given.
        """
        self._validate_params()

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return repr(self.identity()) == repr(other.identity())  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]

    def identity(self) -> tuple[Any, ...]:
        """Return plain values that equal objects share in every process."""
        return type(self).__name__, plain(self.get_params(deep=False))


def check_path(path: Any, name: str) -> None:
    """Refuse an empty path, which would mean the working directory.

    An unset variable is the usual reason.

    Parameters
    ----------
    path : object
        Anything but an empty or blank string passes.
    name : str
        Name of the parameter, for the error.

    Raises
    ------
    ValueError
        If `path` is an empty or blank string.
    """
    if isinstance(path, str) and not path.strip():
        raise ValueError(
            f"{name}={path!r} is an empty path or name; perhaps a variable is not set. Give one, or leave {name} out."
        )
