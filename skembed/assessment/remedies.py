"""Remedies in terms of an estimator's parameters, without those that would change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from skembed.augment.mixing import Mixup, resolve_mix
from skembed.backbones.tuning.weights import Weights
from skembed.optimization import Optimization
from skembed.strategies import Head, Partial, Progressive, Strategy

__all__ = ["RATE_DIVISOR", "UNSTABLE_RATE_DIVISOR", "Means", "enumerated"]

#: Divisor of learning rates that may be too high.
RATE_DIVISOR = 3.0
#: Divisor of learning rates at which training was unstable.
UNSTABLE_RATE_DIVISOR = 10.0


@dataclass(frozen=True)
class Means:
    """Parameters of a fit, and the changes of them that remedies can suggest.

    Parameters
    ----------
    parameters : dict
        Values of the estimator's parameters by the names that `set_params` takes, those of `optimization` included;
        see `of`.
    strategy : Strategy
        Strategy that was used.
    method : str
        Name of the method that trained the blocks.
    kept : {"fine-tuned", "probe"}
        Model that was kept. For the probe, remedies that act on training alone are left out.
    grouped, own_validation : bool, default=False
        True if the fit was given groups, and held-out samples.

    Examples
    --------
    >>> means = Means.of({"optimization": Optimization(l2_sp=0.1)}, Partial(), "lora")
    >>> means.at_least(optimization__dropout=0.3, optimization__l2_sp=0.01)
    ['optimization__dropout=0.3 (now 0.1)']
    >>> means.shallower(), means.deeper()
    (['strategy=Head()'], ['strategy=Progressive()'])
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    strategy: Strategy = field(default_factory=Progressive)
    method: str = "weights"
    kept: str = "fine-tuned"
    grouped: bool = False
    own_validation: bool = False

    @classmethod
    def of(cls, parameters: Mapping[str, Any], strategy: Strategy, method: str, **others: Any) -> Means:
        """Return the means of an estimator with these parameters, as from ``get_params(deep=False)``."""
        optimization = parameters.get("optimization") or Optimization()
        values = {f"optimization__{name}": value for name, value in optimization.get_params().items()}
        if "class_weight" not in parameters:  # numbers have no labels to smooth
            del values["optimization__label_smoothing"]
        return cls({**values, **parameters}, strategy, method, **others)

    def at_least(self, **wanted: float) -> list[str]:
        """Return the given values that are above those of the estimator; unknown parameters are left out."""
        return [
            _changed(name, value, self.parameters[name])
            for name, value in wanted.items()
            if name in self.parameters and self.parameters[name] < value
        ]

    def at_most(self, **wanted: float) -> list[str]:
        """Return the given values that are below those of the estimator, where None means no bound."""
        return [
            _changed(name, value, self.parameters[name])
            for name, value in wanted.items()
            if name in self.parameters and (self.parameters[name] is None or self.parameters[name] > value)
        ]

    def unset(self, **wanted: Any) -> list[str]:
        """Return the given parameters that are None in the estimator."""
        return [
            f"{name}={value!r}"
            for name, value in wanted.items()
            if name in self.parameters and self.parameters[name] is None
        ]

    @property
    def trains_blocks(self) -> bool:
        """Return True if more than a head is trained."""
        return not isinstance(self.strategy, Head)

    def shallower(self) -> list[str]:
        """Return strategies with less to train; none for a head alone."""
        if isinstance(self.strategy, Head):
            return []
        if isinstance(self.strategy, Partial) and self.strategy.n_blocks > 1:
            return [_changed("strategy", Partial(int(self.strategy.n_blocks) // 2), self.strategy)]
        if isinstance(self.strategy, Partial) or self.method == "prompt":
            return ["strategy=Head()"]
        return ["strategy=Partial()"]

    def deeper(self) -> list[str]:
        """Return a strategy that reaches more blocks; none where all are reached."""
        return ["strategy=Progressive()"] if isinstance(self.strategy, Head | Partial) else []

    def slower(self, factor: float) -> list[str]:
        """Return lower learning rates: for all parameters and, if blocks train, for these alone."""
        rate = self.parameters["learning_rate"]
        rates = [_changed("learning_rate", rate / factor, rate)]
        if self.trains_blocks and self.method == "weights":
            given = self.parameters["optimization__backbone_factor"]
            current = Weights.rate_factor if given == "auto" else given
            rates.append(_changed("optimization__backbone_factor", current / factor, current))
        return rates

    def nearer(self) -> list[str]:
        """Return settings that keep trained blocks near the pre-trained ones."""
        if not self.trains_blocks:
            return []
        decay = self.at_most(optimization__layer_decay=0.6) if self.method == "weights" else []
        return [*decay, *self.at_least(optimization__l2_sp=0.01)]

    def regularized(self) -> list[str]:
        """Return settings of stronger regularization."""
        stronger = self.at_least(optimization__dropout=0.3, optimization__weight_decay=0.1)
        if self.trains_blocks:
            stronger += self.at_least(optimization__l2_sp=0.01)
        return [*stronger, *self._mixed(), *self.unset(augment="standard")]

    def softened(self) -> list[str]:
        """Return settings with softer training targets."""
        return [*self.at_least(optimization__label_smoothing=0.1), *self._mixed()]

    def _mixed(self) -> list[str]:
        mixup, cutmix = resolve_mix(self.parameters.get("mix"))
        if "mix" not in self.parameters or cutmix is not None:
            return []
        default = Mixup()
        if mixup is None:
            return [f"mix={default!r}"]
        return [_changed("mix", default, mixup)] if mixup.alpha < default.alpha else []

    def longer(self) -> list[str]:
        """Return twice the epochs."""
        epochs = self.parameters["max_epochs"]
        changes = [_changed("max_epochs", 2 * epochs, epochs)]
        if isinstance(self.strategy, Progressive):
            longer = Progressive(self.strategy.step, 2 * int(self.strategy.stage_epochs))
            changes.append(_changed("strategy", longer, self.strategy))
        return changes


def enumerated(parts: Iterable[str]) -> str:
    """Join alternatives with commas and "or".

    Examples
    --------
    >>> enumerated(["a", "b", "c"]), enumerated(["a"]), enumerated([])
    ('a, b or c', 'a', '')
    """
    *first, last = [*parts] or [""]
    return f"{', '.join(first)} or {last}" if first else last


def _changed(name: str, value: Any, current: Any) -> str:
    """Describe a changed parameter with its new and its present value.

    Examples
    --------
    >>> _changed("learning_rate", 0.001 / 3, 0.001), _changed("clip_norm", 1.0, None)
    ('learning_rate=0.00033 (now 0.001)', 'clip_norm=1.0 (now None)')
    """
    value = float(f"{value:.2g}") if isinstance(value, float) else value
    return f"{name}={value!r} (now {current!r})"
