"""Strategies: the blocks of a backbone that train, and when.

Methods (`skembed.backbones.tuning`) choose the parameters that train in these blocks, and
`skembed.optimization.Optimization` has the rates and the regularization.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

from skembed.utils.naming import did_you_mean
from skembed.utils.parameters import ParameterObject
from skembed.utils.sklearn_private import Interval, StrOptions

__all__ = ["STRATEGIES", "Full", "Head", "Partial", "Progressive", "Stage", "Strategy", "hint_at_strategy"]


@dataclass(frozen=True)
class Stage:
    """Part of a fit in which the same blocks train.

    Parameters
    ----------
    name : str
        Description for users, such as "top 2 blocks".
    n_unfrozen : int
        Number of blocks that train, counted from the top.
    epochs : int
        Largest number of epochs.
    """

    name: str
    n_unfrozen: int
    epochs: int


class Strategy(ParameterObject):
    """Blocks that train, and when: the stages of a fit.

    See Also
    --------
    Head, Partial, Full, Progressive : Strategies to choose from.
    """

    #: Name by which an estimator's `strategy` asks for the default object.
    name: ClassVar[str]
    _parameter_constraints: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def stages(self, depth: int, max_epochs: int) -> list[Stage]:
        """Return the stages in order.

        Parameters
        ----------
        depth : int
            Number of blocks that can train.
        max_epochs : int
            Largest number of epochs of the whole fit.
        """


class Head(Strategy):
    """Train the head alone; the backbone stays frozen and runs once per sample.

    Examples
    --------
    >>> from skembed import Head
    >>> Head().stages(depth=7, max_epochs=30)
    [Stage(name='head', n_unfrozen=0, epochs=30)]
    """

    name = "head"

    def stages(self, depth: int, max_epochs: int) -> list[Stage]:
        return [_stage(0, depth, max_epochs)]


class Partial(Strategy):
    """Train the head and the top blocks from the start.

    Parameters
    ----------
    n_blocks : int, default=1
        Number of blocks that train, counted from the top. More blocks adapt further, and cost more time and memory.

    Examples
    --------
    >>> from skembed import Partial
    >>> Partial(n_blocks=2).stages(depth=7, max_epochs=30)
    [Stage(name='top 2 blocks', n_unfrozen=2, epochs=30)]
    """

    name = "partial"
    _parameter_constraints: ClassVar[dict[str, Any]] = {"n_blocks": [Interval(Integral, 1, None, closed="left")]}

    def __init__(self, n_blocks=1):
        self.n_blocks = n_blocks

    def stages(self, depth: int, max_epochs: int) -> list[Stage]:
        return [_stage(int(self.n_blocks), depth, max_epochs)]


class Full(Strategy):
    """Train the head and all blocks from the start.

    Examples
    --------
    >>> from skembed import Full
    >>> Full().stages(depth=7, max_epochs=30)
    [Stage(name='all blocks', n_unfrozen=7, epochs=30)]
    """

    name = "full"

    def stages(self, depth: int, max_epochs: int) -> list[Stage]:
        return [_stage(depth, depth, max_epochs)]


class Progressive(Strategy):
    """Train the head first, then more and more blocks from the top [1]_.

    After each stage, the best weights so far are restored. If a stage raised the held-out loss by more than its
    standard error, it is repeated once with stronger regularization before the fit ends. The same holds for the deepest
    stage if it gained nothing. Once all blocks are unfrozen, further rounds follow as long as they improve the held-out
    loss.

    Parameters
    ----------
    step : int or "double", default="double"
        Number of blocks that each stage adds. "double" trains the top 1, 2, 4, ... blocks. Smaller steps take longer
        and change the network more gently.
    stage_epochs : int, default=5
        Largest number of epochs of one stage, over which its schedule runs. The head has at most half of `max_epochs`.
        Raise it for small data, where an epoch has few steps.

    References
    ----------
    .. [1] Howard & Ruder (2018), Universal Language Model Fine-tuning for Text Classification.

    Examples
    --------
    >>> from skembed import Progressive
    >>> [stage.n_unfrozen for stage in Progressive(stage_epochs=3).stages(depth=7, max_epochs=9)]
    [0, 1, 2, 4, 7]
    >>> [stage.epochs for stage in Progressive().stages(depth=2, max_epochs=5)]
    [2, 3, 3]
    """

    name = "progressive"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "step": [Interval(Integral, 1, None, closed="left"), StrOptions({"double"})],
        "stage_epochs": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, step="double", stage_epochs=5):
        self.step = step
        self.stage_epochs = stage_epochs

    def stages(self, depth: int, max_epochs: int) -> list[Stage]:
        counts = [0, 1]
        while counts[-1] < depth:
            step = counts[-1] if isinstance(self.step, str) else int(self.step)
            counts.append(min(depth, counts[-1] + step))
        # The head is cheap and soon trained: where epochs are few, half of them are left to the blocks.
        head = min(int(self.stage_epochs), max(1, max_epochs // 2))
        later = min(int(self.stage_epochs), max(1, max_epochs - head))
        return [_stage(count, depth, later if count else head) for count in counts]


def _stage(n_unfrozen: int, depth: int, epochs: int) -> Stage:
    if n_unfrozen == 0:
        name = "head"
    elif n_unfrozen == depth:
        name = "all blocks"
    else:
        name = "top block" if n_unfrozen == 1 else f"top {n_unfrozen} blocks"
    return Stage(name, n_unfrozen, epochs)


#: Classes by the names of their default objects.
STRATEGIES: dict[str, type[Strategy]] = {cls.name: cls for cls in (Head, Partial, Full, Progressive)}


def hint_at_strategy(given: str, methods: tuple[str, ...]) -> str:
    """Suggest a strategy for an unknown name, with a space before the sentence, or return "".

    Parameters
    ----------
    given : str
        Unknown name of a strategy.
    methods : tuple of str
        Names of methods. Until version 0.1 these were strategies, as in "partial+lora".

    Examples
    --------
    >>> hint_at_strategy("progresive", ("lora",))
    " Did you mean 'progressive'?"
    >>> hint_at_strategy("partial+lora", ("lora",))
    " 'lora' is a method: use strategy='partial', method='lora'."
    """
    strategy, _, method = given.rpartition("+")
    if method in methods and strategy in ("", *STRATEGIES):
        return f" {method!r} is a method: use strategy={strategy or 'full'!r}, method={method!r}."
    return did_you_mean(given, (*STRATEGIES, "auto"))
