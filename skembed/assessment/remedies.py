"""Remedies in an estimator's own parameters: none that it has already, and none that could not act."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from skembed.strategies import parse_strategy, resolve_factor

__all__ = ["RATE_DIVISOR", "UNSTABLE_RATE_DIVISOR", "Means", "enumerated"]

#: What to divide learning rates by that may be too high.
RATE_DIVISOR = 3.0
#: What to divide learning rates by at which training was unstable.
UNSTABLE_RATE_DIVISOR = 10.0


@dataclass(frozen=True)
class Means:
    """How an estimator was fitted, and from that what there is left to change.

    Parameters
    ----------
    parameters : dict
        The estimator's own, as from ``get_params(deep=False)``.
    strategy : str
        As it was followed, where "auto" was asked for.
    kept : {"fine-tuned", "probe"}
        What the estimator is. What acts on training only does nothing for a probe.
    grouped, own_validation : bool, default=False
        Whether the fit was given groups, and samples to judge by.

    Examples
    --------
    >>> means = Means({"dropout": 0.1, "clip_norm": 1.0, "l2_sp": 0.1}, "partial+lora", "fine-tuned")
    >>> means.at_least(dropout=0.3, l2_sp=0.01), means.at_most(clip_norm=1.0)
    (['dropout=0.3 (now 0.1)'], [])
    >>> means.shallower(), means.deeper()
    (["strategy='head'"], ["strategy='progressive+lora'"])
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    strategy: str = "progressive"
    kept: str = "fine-tuned"
    grouped: bool = False
    own_validation: bool = False

    def at_least(self, **wanted: float) -> list[str]:
        """Of these values those that are above the estimator's own; parameters that it does not have are left out."""
        return [
            _changed(name, value, self.parameters[name])
            for name, value in wanted.items()
            if name in self.parameters and self.parameters[name] < value
        ]

    def at_most(self, **wanted: float) -> list[str]:
        """Of these values those that are below the estimator's own, where None is without bounds."""
        return [
            _changed(name, value, self.parameters[name])
            for name, value in wanted.items()
            if name in self.parameters and (self.parameters[name] is None or self.parameters[name] > value)
        ]

    def unset(self, **wanted: Any) -> list[str]:
        """Of these parameters those that are None in the estimator."""
        return [
            f"{name}={value!r}"
            for name, value in wanted.items()
            if name in self.parameters and self.parameters[name] is None
        ]

    @property
    def trains_blocks(self) -> bool:
        """Whether more than a head is trained."""
        return parse_strategy(self.strategy).depth != "head"

    @property
    def method(self) -> str:
        """Name of the method that trains the blocks, one of `skembed.strategies.METHODS`."""
        return parse_strategy(self.strategy).method

    def shallower(self) -> list[str]:
        """The strategy, or the number of blocks, with less to train; empty for a head alone."""
        depth, own = parse_strategy(self.strategy).depth, self.parameters.get("n_unfrozen", 1)
        if depth == "head":
            return []
        if depth == "partial" and own > 1:
            return [_changed("n_unfrozen", own // 2, own)]
        if depth == "partial" or self.method == "prompt":
            return ["strategy='head'"]
        return [f"strategy={self._named('partial')!r}"]

    def deeper(self) -> list[str]:
        """The strategy that reaches more blocks; empty where all are reached."""
        depth = parse_strategy(self.strategy).depth
        return [f"strategy={self._named('progressive')!r}"] if depth in ("head", "partial") else []

    def slower(self, factor: float) -> list[str]:
        """Lower learning rates: of all that trains, and, where pre-trained blocks train, of these alone."""
        rate = self.parameters["learning_rate"]
        rates = [_changed("learning_rate", rate / factor, rate)]
        if self.trains_blocks and self.method == "weights":
            own = resolve_factor(self.parameters["backbone_factor"], self.method)
            rates.append(_changed("backbone_factor", own / factor, own))
        return rates

    def nearer(self) -> list[str]:
        """What holds trained blocks near what they were."""
        if not self.trains_blocks:
            return []
        decay = self.at_most(layer_decay=0.6) if self.method == "weights" else []
        return [*decay, *self.at_least(l2_sp=0.01)]

    def regularised(self) -> list[str]:
        """Stronger regularisation of training."""
        found = self.at_least(dropout=0.3, weight_decay=0.1)
        if self.trains_blocks:
            found += self.at_least(l2_sp=0.01)
        if not self.parameters.get("cutmix"):
            found += self.at_least(mixup=0.2)
        return [*found, *self.unset(augment="standard")]

    def softened(self) -> list[str]:
        """Training targets that are less sure."""
        mixing = [] if self.parameters.get("cutmix") else self.at_least(mixup=0.2)
        return [*self.at_least(label_smoothing=0.1), *mixing]

    def longer(self) -> list[str]:
        """Twice the epochs."""
        own = self.parameters
        names = ["max_epochs", *(["stage_epochs"] if parse_strategy(self.strategy).depth == "progressive" else [])]
        return [_changed(name, 2 * own[name], own[name]) for name in names]

    def _named(self, depth: str) -> str:
        return depth if self.method == "weights" else f"{depth}+{self.method}"


def enumerated(parts: Iterable[str]) -> str:
    """Alternatives in words.

    Examples
    --------
    >>> enumerated(["a", "b", "c"]), enumerated(["a"]), enumerated([])
    ('a, b or c', 'a', '')
    """
    *first, last = [*parts] or [""]
    return f"{', '.join(first)} or {last}" if first else last


def _changed(name: str, value: Any, own: Any) -> str:
    """A parameter, what it should be and what it is.

    Examples
    --------
    >>> _changed("learning_rate", 0.001 / 3, 0.001), _changed("clip_norm", 1.0, None)
    ('learning_rate=0.00033 (now 0.001)', 'clip_norm=1.0 (now None)')
    """
    value = float(f"{value:.2g}") if isinstance(value, float) else value
    return f"{name}={value!r} (now {own!r})"
