"""What a strategy means: how deep training goes, and what trains in the blocks that it reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from skembed.utils.naming import did_you_mean

__all__ = [
    "DEPTHS",
    "METHODS",
    "STRATEGIES",
    "WEIGHTS",
    "Method",
    "Strategy",
    "check_target_modules",
    "hint_at_strategy",
    "parse_strategy",
    "resolve_factor",
]

DEPTHS = ("head", "partial", "full", "progressive")

#: What trains in a block, by name; and what `learning_rate` is multiplied by for it where `backbone_factor` is "auto".
#: Pre-trained weights want small steps: large ones lose what is in them. What was added begins at nothing, and
#: biases and scales are few: they take the head's own rate. With MiniLM on 600 topics, four epochs from the probe, no
#: method's accuracy on 700 others differed by a point (which is chance) between a tenth, a third and all of that rate.
METHODS = {"weights": 0.1, "lora": 1.0, "adapter": 1.0, "prefix": 1.0, "prompt": 1.0, "bitfit": 1.0, "norm": 1.0}

_ADDED = tuple(name for name in METHODS if name != "weights")
#: A prompt is read below all blocks and has no depth.
_PLACED = tuple(name for name in _ADDED if name != "prompt")
STRATEGIES = (*DEPTHS, *_ADDED, *(f"{depth}+{name}" for depth in ("partial", "progressive") for name in _PLACED))


@dataclass(frozen=True)
class Strategy:
    """A strategy in its two parts.

    Parameters
    ----------
    depth : {"head", "partial", "full", "progressive"}
        Which blocks train when.
    method : str
        A key of `METHODS`: what trains in them.
    """

    depth: str
    method: str


@dataclass(frozen=True)
class Method:
    """What trains in the blocks that a strategy reaches; all of it plain values.

    Parameters
    ----------
    name : str
        A key of `METHODS`.
    lora_rank, lora_alpha, lora_dropout, target_modules, adapter_width, n_virtual_tokens
        See `skembed.FineTuneClassifier`.
    """

    name: str = "weights"
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] | None = None
    adapter_width: int = 32
    n_virtual_tokens: int = 10

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Method:
        """The method among an estimator's parameters.

        Examples
        --------
        >>> method = Method.of({"strategy": "partial+lora", "lora_rank": 4, "target_modules": ["query"]})
        >>> method.name, method.lora_rank, method.target_modules
        ('lora', 4, ('query',))
        """
        own = {field.name: parameters[field.name] for field in fields(cls) if field.name in parameters}
        if own.get("target_modules") is not None:
            own["target_modules"] = tuple(map(str, own["target_modules"]))
        return cls(parse_strategy(parameters["strategy"]).method, **own)


WEIGHTS = Method()


def parse_strategy(strategy: str) -> Strategy:
    """The parts of a strategy's name.

    Parameters
    ----------
    strategy : str
        One of `STRATEGIES`: a depth, a method (which then is used in all blocks), or both.

    Raises
    ------
    ValueError
        If it is none of them; names the nearest.

    Examples
    --------
    >>> parse_strategy("partial+lora")
    Strategy(depth='partial', method='lora')
    >>> parse_strategy("lora"), parse_strategy("full")
    (Strategy(depth='full', method='lora'), Strategy(depth='full', method='weights'))
    """
    if strategy not in STRATEGIES:
        raise ValueError(
            f"strategy={strategy!r} is not known.{hint_at_strategy(strategy)} "
            f"Use one of {', '.join(map(repr, STRATEGIES))}."
        )
    first, _, second = strategy.partition("+")
    if first in DEPTHS:
        return Strategy(first, second or "weights")
    return Strategy("full", first)


def hint_at_strategy(strategy: str) -> str:
    """What was meant by a strategy that is none, with a space before it; nothing where nothing is near.

    Examples
    --------
    >>> hint_at_strategy("loar")
    " Did you mean 'lora'?"
    """
    if strategy.partition("+")[2] == "prompt":
        return (
            " A prompt is read at the input, below all blocks, so there is no depth to choose and no frozen block to "
            'replay. Use "prompt" alone.'
        )
    return did_you_mean(strategy, (*STRATEGIES, "auto"))


def check_target_modules(given: Any) -> None:
    """Refuse what is no list of names, whatever the network.

    Raises
    ------
    ValueError
        If it is empty, or holds what is no name.
    """
    if given is None:
        return
    names = list(given)
    if not names:
        raise ValueError("target_modules is empty: LoRA would change nothing. Give names of layers, or None for all.")
    for name in names:
        if not isinstance(name, str):
            raise ValueError(
                f"target_modules={names!r}: {name!r} is {_article(type(name).__name__)}, and no name of a layer. "
                "Give a list of str."
            )
        if not name.strip(". "):
            raise ValueError(f"target_modules={names!r}: {name!r} is an empty name. Give names of layers, or None.")


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def resolve_factor(factor: float | str, method: str) -> float:
    """What the head's learning rate is multiplied by for the top block.

    Examples
    --------
    >>> resolve_factor("auto", "weights"), resolve_factor("auto", "lora"), resolve_factor(0.5, "lora")
    (0.1, 1.0, 0.5)
    """
    return METHODS[method] if isinstance(factor, str) else float(factor)
