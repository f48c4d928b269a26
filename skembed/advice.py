"""Advice before training: strategy, first settings, and problems of the data."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_consistent_length, check_random_state

from skembed.assessment.advice import Advice, advise_samples
from skembed.assessment.rules import RULES, Rule
from skembed.embedders.base import BaseEmbedder
from skembed.embedders.encoder import Encoder
from skembed.finetune.advised import build_advised
from skembed.inputs import check_present
from skembed.inputs.target_kinds import know_targets

__all__ = ["RULES", "Advice", "Rule", "advise"]


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
    """Recommend a strategy and first settings for some data, and report problems of the data.

    Looks at the samples per class, where copies count once, and their balance; at exact and near copies, copies with
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
        Samples of one group are never split, and copies within a group do not count as leaks.
    task : {"auto", "classification", "multilabel", "regression"}, default="auto"
        "auto" takes floats with a fraction for regression, and a matrix of zeros and ones for labels. Wrong labels are
        searched for in classification only.
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
        If `embedder` is not an embedder, or was passed as X.

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
    (Head(), True, False)
    """
    from skembed.embedders.text import TextEmbedder

    if isinstance(X, BaseEmbedder):
        raise TypeError(f"X is a {type(X).__name__}, not samples. Samples come first: advise(X, y, embedder).")
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
        timed=True,
        random_state=int(random_state) if isinstance(random_state, Integral) else None,
        build=build_advised,
    )


def _check_groups(groups: Any, n_samples: int) -> np.ndarray | None:
    if groups is None:
        return None
    check_present(groups, "groups")
    found = np.asarray(groups)
    if found.shape != (n_samples,):
        raise ValueError(f"groups has shape {found.shape}; {(n_samples,)} was expected, one group per sample.")
    return found
