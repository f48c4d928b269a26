"""Parameters of the fine-tuning estimators: constraints, nested parameters, and default objects."""

from __future__ import annotations

import os
from numbers import Integral, Real
from typing import Any, ClassVar, Self

from skembed.augment import Augmentation
from skembed.augment.mixing import MIXERS, resolve_mix
from skembed.backbones.tuning.method import METHODS, Method, resolve_method
from skembed.embedders.base import BaseEmbedder
from skembed.optimization import Optimization
from skembed.strategies import STRATEGIES, Strategy, hint_at_strategy
from skembed.utils.parameters import HintingParametersMixin, ParameterObject, check_path
from skembed.utils.sklearn_private import Interval, StrOptions

__all__ = ["FineTuneParametersMixin"]


class FineTuneParametersMixin(HintingParametersMixin):
    """Checks of parameters, and nested parameters of parameter objects."""

    strategy: Any
    method: Any
    optimization: Any
    augment: Any
    mix: Any
    checkpoint_dir: Any

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "embedder": [BaseEmbedder, None],
        "strategy": [Strategy, StrOptions({*STRATEGIES, "auto"})],
        "method": [Method, StrOptions(set(METHODS))],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_epochs": [Interval(Integral, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "optimization": [Optimization, None],
        "augment": "no_validation",
        "mix": "no_validation",
        "n_views": [Interval(Integral, 1, None, closed="left")],
        "scoring": [str, callable, None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither"), None],
        "refit": ["boolean"],
        "checkpoint_dir": [str, os.PathLike, None],
        "on_interrupt": [StrOptions({"raise", "keep"})],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def _validate_params(self) -> None:
        super()._validate_params()
        check_path(self.checkpoint_dir, "checkpoint_dir")
        for value in (self.strategy, self.method, self.optimization, self.augment):
            if isinstance(value, ParameterObject):
                value.validate()
        resolve_mix(self.mix)

    def set_params(self, **params: Any) -> Self:
        """Set parameters, also those of parameter objects, as in ``strategy__n_blocks=2``.

        If a parameter is a name or None, it is replaced by its default object first:
        ``set_params(optimization__dropout=0.3)`` works without a given `Optimization`, also in searches.

        Parameters
        ----------
        **params : dict
            Parameters of the estimator.

        Returns
        -------
        self : object
            The estimator.
        """
        nested = {key: value for key, value in params.items() if "__" in key}
        super().set_params(**{key: value for key, value in params.items() if key not in nested})  # type: ignore[misc]
        for name in {key.partition("__")[0] for key in nested}:
            default = self._default_object(name)
            if default is not None:
                setattr(self, name, default)
        return super().set_params(**nested)  # type: ignore[misc]

    def _default_object(self, name: str) -> ParameterObject | None:
        """Return the default object of a name or None given for a parameter; None for other values."""
        value = getattr(self, name, None)
        if name == "optimization" and value is None:
            return Optimization()
        if not isinstance(value, str):
            return None
        if name == "augment":
            return Augmentation(value)
        if name == "mix" and value in MIXERS:
            return MIXERS[value]()
        if name == "strategy" and value in STRATEGIES:
            return STRATEGIES[value]()
        return resolve_method(value) if name == "method" and value in METHODS else None

    def _hint(self, name: str, value: Any) -> str:
        if name == "strategy" and isinstance(value, str):
            return hint_at_strategy(value, tuple(METHODS))
        if isinstance(value, type):
            return f" Give an object, not its class: {value.__name__}()."
        if name == "embedder" and isinstance(value, str):
            return f" Give an embedder of it, such as TextEmbedder({value!r})."
        return super()._hint(name, value)
