"""What scikit-learn says of a bad parameter, and what was probably meant."""

from __future__ import annotations

from typing import Any, ClassVar

from skembed.utils.naming import did_you_mean
from skembed.utils.sklearn_private import InvalidParameterError, StrOptions

__all__ = ["HintingParametersMixin", "check_path"]


class HintingParametersMixin:
    """After scikit-learn's message on a parameter of a wrong value comes the nearest right one.

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
        """A sentence on what was meant, with a space before it; or nothing."""
        options = [each for each in self._parameter_constraints[name] if isinstance(each, StrOptions)]
        if not isinstance(value, str) or not options:
            return ""
        return did_you_mean(value, sorted(set().union(*(each.options for each in options))))


def check_path(path: Any, name: str) -> None:
    """Refuse an empty path, which an unset variable gives and which would mean the working directory.

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
