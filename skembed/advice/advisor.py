"""advise: look at the data, and name the strategy and the first settings to try."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_consistent_length, check_random_state

from skembed.advice.evidence import Evidence, gather
from skembed.advice.rules import RULES, Rule
from skembed.advice.targets import KnownTargets, know_targets
from skembed.advice.wording import duration, words_for
from skembed.base import BaseEmbedder
from skembed.encoder import Encoder
from skembed.findings import Finding, describe, worst_first
from skembed.inputs import check_present

if TYPE_CHECKING:
    from skembed.finetune.base import BaseFineTuner

__all__ = ["Advice", "advise", "advise_samples"]

_WIDTH = 100


@dataclass(frozen=True)
class Advice:
    """A strategy, the first settings to try, and why.

    Parameters
    ----------
    strategy : str
        A value of `FineTuneClassifier.strategy`.
    settings : dict
        Further parameters of the estimator that differ from its defaults; ``embedder__layers`` is one of its embedder.
    reasons : tuple of str
        Why the strategy and the settings follow, with sources; the first is that of the strategy.
    findings : tuple of Finding
        What is noteworthy of the data, whatever is trained, with numbers and remedies, the worst first. What is
        "serious", no signal above all, ought to be settled before any training, and is printed first.
    evidence : dict of str to float
        All that was measured; NaN for what was not.
    groups : ndarray of shape (n_samples,), or None
        What to split by, so that copies and near copies stay together; None where there are none, or where the given
        groups do so already.
    task : {"classification", "multilabel", "regression"}
    embedder : ImageEmbedder, TextEmbedder or AudioEmbedder
        As it was given.
    random_state : int or None
        Of the estimator to be.
    """

    strategy: str
    settings: Mapping[str, Any]
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]
    evidence: Mapping[str, float] = field(repr=False)
    groups: np.ndarray | None = field(repr=False, compare=False)
    task: str = "classification"
    embedder: BaseEmbedder | None = field(default=None, repr=False, compare=False)
    random_state: int | None = None

    def __contains__(self, name: str) -> bool:
        """Whether there is a finding of that name."""
        return any(found.name == name for found in self.findings)

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name."""
        found = next((found for found in self.findings if found.name == name), None)
        if found is None:
            raise KeyError(f"{name!r} is none of the findings: {[found.name for found in self.findings]}.")
        return found

    def estimator(self, **parameters: Any) -> BaseFineTuner:
        """The estimator that is advised, not fitted.

        Parameters
        ----------
        **parameters
            Further parameters; they come before what is advised.

        Returns
        -------
        FineTuneClassifier or FineTuneRegressor
        """
        from skembed.finetune.classifier import FineTuneClassifier
        from skembed.finetune.regressor import FineTuneRegressor

        chosen = FineTuneRegressor if self.task == "regression" else FineTuneClassifier
        embedder = None if self.embedder is None else clone(self.embedder)
        built = chosen(embedder, strategy=self.strategy, random_state=self.random_state)
        return built.set_params(**{**self.settings, **parameters})

    def __str__(self) -> str:
        settings = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        serious = [found for found in self.findings if found.severity == "serious"]
        others = [found for found in self.findings if found.severity != "serious"]
        lines = ["First of all:", describe(serious)] if serious else []
        lines += [f"Advised: strategy={self.strategy!r}{settings}.", "Because"]
        lines += [textwrap.fill(reason, _WIDTH, initial_indent="- ", subsequent_indent="  ") for reason in self.reasons]
        lines += ["Noteworthy:", describe(others)] if others else []
        lines += [] if self.findings else ["The data look healthy."]
        if np.isfinite(self.evidence.get("sample_seconds", np.nan)):
            lines.append(textwrap.fill(_describe_compute(self.evidence), _WIDTH))
        return "\n".join(lines)


def _describe_compute(e: Mapping[str, float]) -> str:
    where = "an accelerator" if e["accelerator"] else f"{e['cores']:.0f} thread{'s' if e['cores'] > 1 else ''}"
    return (
        f"Timed with a few samples on {where}: an epoch of all blocks takes {duration(e['epoch_seconds'])}, of "
        f"the top block {duration(e['top_epoch_seconds'])}, of the head next to nothing."
    )


def advise(
    X,
    y,
    embedder: BaseEmbedder | None = None,
    *,
    groups=None,
    task: str = "auto",
    device: str | None = None,
    budget: float = 3600.0,
    max_samples: int = 2000,
    random_state: int | None = 0,
) -> Advice:
    """Advice before training: which strategy suits these data, what to try first, and what is wrong with them.

    Looks at the samples a class, where copies count once, and their balance; at exact copies, near copies, copies with
    other targets, and whether a random split would tear them apart; at what a linear probe makes of the frozen
    embeddings, left out one by one, against shuffled targets and against lower layers; for texts at the words that the
    tokenizer does not know; and at the seconds and bytes that training would take here. The rules that lead from there
    to a strategy are a table with their sources, `skembed.advice.RULES`.

    Parameters
    ----------
    X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
        Raw samples to train on. Keep those that you test with out of it.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Classes; labels as a matrix of zeros and ones; or numbers.
    embedder : ImageEmbedder, TextEmbedder or AudioEmbedder, default=None
        Not changed. None is ``TextEmbedder()``.
    groups : array-like of shape (n_samples,), default=None
        Samples of one group are never split; copies within one are no leak.
    task : {"auto", "classification", "multilabel", "regression"}, default="auto"
        "auto" takes floats that are no whole numbers for regression, and a matrix of zeros and ones for labels. For
        labels and numbers there is no search for wrong labels.
    device : str, default=None
        Where to compute; None is the embedder's own.
    budget : float, default=3600
        Seconds that a fit may take: where twenty epochs of all blocks take longer, fewer blocks are advised.
    max_samples : int, default=2000
        So many samples are embedded, drawn at random; near copies are found among them. Exact copies are sought, and
        classes counted, among all.
    random_state : int or None, default=0
        Seeds the draw and the shuffled targets. All but the timing is repeated by it.

    Returns
    -------
    Advice
        Print it; ``advice.estimator().fit(X, y, groups=advice.groups)`` follows it.

    Raises
    ------
    ValueError
        If X and y differ in length, y has missing values, one class, or may be either kind, or no sample can be read.
    TypeError
        If `embedder` is no embedder, or stands in the place of X.

    Notes
    -----
    How far the domain is from what the network was trained on cannot be measured without its training data. The proxy
    is where in the network the data are told apart best: higher layers are more specific to the source [1]_, so a lower
    layer that does clearly better (three points, and twice the standard error over the same samples) says that the
    source was another. For texts, words that a tokenizer has to spell are a second sign [2]_.

    References
    ----------
    .. [1] Yosinski et al. (2014), How Transferable are Features in Deep Neural Networks?
    .. [2] Gururangan et al. (2020), Don't Stop Pretraining: Adapt Language Models to Domains and Tasks.

    Examples
    --------
    >>> from skembed import advise
    >>> nouns = ["an invoice", "a parcel", "a payment", "a delivery"]
    >>> texts = [f"{noun} with the number {i}" for i in range(10) for noun in nouns]
    >>> advice = advise([*texts, texts[0]], [*["money", "parcel"] * 20, "money"])
    >>> advice.strategy, "leakage" in advice, "few samples" in advice
    ('head', True, False)
    """
    from skembed.text import TextEmbedder

    if isinstance(X, BaseEmbedder):
        raise TypeError(f"X is a {type(X).__name__}, and no samples. Samples come first: advise(X, y, embedder).")
    known = know_targets(y, task)
    check_consistent_length(X, known.columns)
    given = TextEmbedder() if embedder is None else embedder
    if not isinstance(given, BaseEmbedder):
        raise TypeError(f"embedder is a {type(given).__name__}. Pass an ImageEmbedder, TextEmbedder or AudioEmbedder.")
    fitted = clone(given) if device is None else clone(given).set_params(device=device)
    fitted.fit(X)
    samples = Encoder(fitted).samples(X)
    return advise_samples(
        fitted,
        samples,
        known,
        groups=_check_groups(groups, len(samples)),
        budget=float(budget),
        max_samples=int(max_samples),
        seed=int(check_random_state(random_state).randint(2**31 - 1)),
        compute=True,
        random_state=int(random_state) if isinstance(random_state, Integral) else None,
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
    compute: bool = False,
    random_state: int | None = None,
) -> Advice:
    """What `advise` does once all is checked; without `compute` it is the same whenever and wherever it is asked.

    Parameters
    ----------
    embedder : BaseEmbedder
        Fitted.
    samples : sequence
        Raw samples.
    known : KnownTargets
        Theirs.
    groups, budget, max_samples, random_state
        See `advise`.
    seed : int
        Of the draw and the shuffled targets.
    compute : bool
        Whether the network is timed.
    """
    evidence = gather(
        embedder,
        samples,
        known,
        groups=groups,
        max_samples=max_samples,
        rng=np.random.default_rng(seed),
        compute=compute,
    )
    evidence.numbers["budget"] = budget
    return _follow(evidence, clone(embedder), random_state)


def _check_groups(groups: Any, n_samples: int) -> np.ndarray | None:
    if groups is None:
        return None
    check_present(groups, "groups")
    found = np.asarray(groups)
    if found.shape != (n_samples,):
        raise ValueError(f"groups has shape {found.shape}; {(n_samples,)} was expected, one group a sample.")
    return found


def _follow(evidence: Evidence, embedder: BaseEmbedder, random_state: int | None) -> Advice:
    """Go through the table."""
    holding = [rule for rule in RULES if rule.when(evidence)]
    decider = next(rule for rule in holding if rule.strategy)
    strategy = _usable_strategy(decider.strategy)
    # What adds no setting is told as a finding.
    added = [rule for rule in holding if not rule.strategy and _settings(rule, evidence)]
    speaking = [decider, *(rule for rule in added if not rule.only_for or strategy in rule.only_for)]
    words = {**evidence.numbers, **words_for(evidence)}
    settings: dict[str, Any] = {}
    for rule in speaking:
        settings = {**_settings(rule, evidence), **settings}
    return Advice(
        strategy=strategy,
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
    """Those that the estimator of the task has."""
    foreign = ("class_weight", "label_smoothing") if evidence.task == "regression" else ()
    return {name: _filled(value, evidence) for name, value in rule.settings.items() if name not in foreign}


def _usable_strategy(names: Sequence[str]) -> str:
    """The first that can be followed here: LoRA needs a package that not everybody has."""
    return next(name for name in names if name != "lora" or find_spec("peft") is not None)


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
