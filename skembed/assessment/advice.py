"""Advice before training: a strategy and first settings, by the table of rules."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from sklearn.base import clone

from skembed.assessment.evidence import Evidence, gather
from skembed.assessment.findings import LINE_WIDTH, Finding, describe, worst_first
from skembed.assessment.rules import RULES, Rule
from skembed.assessment.wording import duration, words_for
from skembed.backbones.tuning.method import Method, resolve_method
from skembed.backbones.tuning.weights import Weights
from skembed.embedders.base import BaseEmbedder
from skembed.inputs.target_kinds import KnownTargets
from skembed.optimization import Optimization
from skembed.strategies import Strategy

__all__ = ["Advice", "advise_samples"]


@dataclass(frozen=True)
class Advice:
    """Strategy and first settings for some data, with reasons and findings; print it.

    Parameters
    ----------
    strategy : Strategy
        Value for `FineTuneClassifier.strategy`.
    settings : dict
        Further parameters that differ from the defaults of the estimator or, as ``embedder__layers``, of its embedder.
    reasons : tuple of str
        Reasons for the strategy, which comes first, and for the settings, with sources.
    findings : tuple of Finding
        Findings about the data, with numbers and remedies, the worst first. Resolve "serious" findings, above all "no
        signal", before any training; they are printed first.
    evidence : dict of str to float
        All measurements by name; NaN for those that were not made.
    groups : ndarray of shape (n_samples,), or None
        Groups that keep copies and near copies together in a split. None if there are no copies, or if the given groups
        keep them together already.
    task : {"classification", "multilabel", "regression"}
        Kind of target.
    method : Method
        Value for `FineTuneClassifier.method`.
    embedder : ImageEmbedder, TextEmbedder or AudioEmbedder
        Embedder that the advice is for.
    random_state : int or None
        Seed of the advised estimator.
    build : callable, optional
        Function of the advice and further parameters that returns the estimator.
    """

    strategy: Strategy
    settings: Mapping[str, Any]
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]
    evidence: Mapping[str, float] = field(repr=False)
    groups: np.ndarray | None = field(repr=False, compare=False)
    task: str = "classification"
    method: Method = field(default_factory=Weights)
    embedder: BaseEmbedder | None = field(default=None, repr=False, compare=False)
    random_state: int | None = None
    build: Callable[..., Any] | None = field(default=None, repr=False, compare=False)

    def __contains__(self, name: str) -> bool:
        """Return True if there is a finding of that name."""
        return any(found.name == name for found in self.findings)

    def __getitem__(self, name: str) -> Finding:
        """Return the finding of that name."""
        found = next((found for found in self.findings if found.name == name), None)
        if found is None:
            raise KeyError(f"unknown finding {name!r}; this advice has {[found.name for found in self.findings]}.")
        return found

    def estimator(self, **parameters: Any) -> Any:
        """Return the advised estimator, unfitted.

        Parameters
        ----------
        **parameters
            Further parameters, which override the advised ones.

        Returns
        -------
        FineTuneClassifier or FineTuneRegressor
            Unfitted estimator.
        """
        assert self.build is not None, "this advice was made without a way to build estimators"
        return self.build(self, **parameters)

    def __str__(self) -> str:
        method = {} if self.method == Weights() else {"method": self.method}
        settings = "".join(f", {name}={value!r}" for name, value in {**method, **self.settings}.items())
        serious = [found for found in self.findings if found.severity == "serious"]
        others = [found for found in self.findings if found.severity != "serious"]
        lines = ["First of all:", describe(serious)] if serious else []
        lines += [f"Advised: strategy={self.strategy!r}{settings}.", "Because"]
        lines += [
            textwrap.fill(reason, LINE_WIDTH, initial_indent="- ", subsequent_indent="  ") for reason in self.reasons
        ]
        lines += ["Noteworthy:", describe(others)] if others else []
        lines += [] if self.findings else ["The data look healthy."]
        if np.isfinite(self.evidence.get("sample_seconds", np.nan)):
            lines.append(textwrap.fill(_describe_cost(self.evidence), LINE_WIDTH))
        return "\n".join(lines)


def _describe_cost(e: Mapping[str, float]) -> str:
    where = "an accelerator" if e["accelerator"] else f"{e['cores']:.0f} thread{'s' if e['cores'] > 1 else ''}"
    return (
        f"Timed with a few samples on {where}: an epoch of all blocks takes {duration(e['epoch_seconds'])}, of "
        f"the top block {duration(e['top_epoch_seconds'])}, and of the head almost no time."
    )


def advise_samples(
    embedder: BaseEmbedder,
    samples: Sequence[Any],
    known: KnownTargets,
    *,
    groups: np.ndarray | None = None,
    budget: float = 3600.0,
    max_samples: int = 2000,
    seed: int = 0,
    timed: bool = False,
    random_state: int | None = None,
    build: Callable[..., Any] | None = None,
) -> Advice:
    """Advise on checked samples and targets, without `timed` independently of the machine.

    Parameters
    ----------
    embedder : BaseEmbedder
        Fitted embedder.
    samples : sequence
        Raw samples.
    known : KnownTargets
        Targets of the samples.
    groups, budget, max_samples, random_state
        See `advise`.
    seed : int
        Seed of the draw and of the shuffled targets.
    timed : bool
        If True, the network is timed.
    build : callable, optional
        See `Advice`.
    """
    evidence = gather(
        embedder,
        samples,
        known,
        groups=groups,
        max_samples=max_samples,
        rng=np.random.default_rng(seed),
        timed=timed,
    )
    evidence.numbers["budget"] = budget
    return replace(_follow(evidence, clone(embedder), random_state), build=build)


def _follow(evidence: Evidence, embedder: BaseEmbedder, random_state: int | None) -> Advice:
    """Follow the table of rules."""
    holding = [rule for rule in RULES if rule.when(evidence)]
    decider = next(rule for rule in holding if rule.strategy)
    strategy, method = _usable(decider)
    # What adds no setting is told as a finding.
    added = [rule for rule in holding if not rule.strategy and _settings(rule, evidence)]
    chosen = strategy.name if method.name == "weights" else method.name
    speaking = [decider, *(rule for rule in added if not rule.only_for or chosen in rule.only_for)]
    words = {**evidence.numbers, **words_for(evidence)}
    settings: dict[str, Any] = {}
    for rule in speaking:
        settings = {**_settings(rule, evidence), **settings}
    strategy.set_params(**_taken_out(settings, "strategy"))
    optimization = _taken_out(settings, "optimization")
    if optimization:
        settings["optimization"] = Optimization(**optimization)
    return Advice(
        strategy=strategy,
        method=method,
        settings=settings,
        reasons=tuple(f"{rule.name}: {rule.reason.format(**words)} [{rule.source}]" for rule in speaking),
        findings=worst_first(_finding(rule, evidence, words) for rule in holding if rule.finding),
        evidence=dict(evidence.numbers),
        groups=evidence.groups,
        task=evidence.task,
        embedder=embedder,
        random_state=random_state,
    )


def _settings(rule: Rule, evidence: Evidence) -> dict[str, Any]:
    """Return the settings that the estimator of the task has."""
    foreign = ("class_weight", "optimization__label_smoothing") if evidence.task == "regression" else ()
    return {name: _filled(value, evidence) for name, value in rule.settings.items() if name not in foreign}


def _usable(rule: Rule) -> tuple[Strategy, Method]:
    """Return strategy and method of a rule as new objects; without peft, LoRA is replaced."""
    if rule.method == "lora" and find_spec("peft") is None:
        return clone(rule.without), Weights()
    return clone(rule.strategy), resolve_method(rule.method)


def _taken_out(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Remove the settings of a parameter object, and return them by their own names."""
    nested = [key for key in settings if key.startswith(f"{name}__")]
    return {key.partition("__")[2]: settings.pop(key) for key in nested}


def _filled(value: Any, evidence: Evidence) -> Any:
    return int(evidence.numbers[value.strip("{}")]) if isinstance(value, str) and value.startswith("{") else value


def _finding(rule: Rule, evidence: Evidence, words: Mapping[str, Any]) -> Finding:
    sentence = rule.evidence.format(**words)
    return Finding(
        name=rule.name,
        severity=rule.finding or "note",
        evidence=sentence[0].upper() + sentence[1:],
        remedy=rule.remedy.format(**words),
        samples=evidence.samples.get(rule.samples, ()) if rule.samples else (),
    )
