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

    The advice depends on

    - the number of distinct samples per class, and their balance,
    - exact and near copies, copies with different targets, and whether a random split would separate copies,
    - the leave-one-out score of a linear probe on the frozen embeddings, compared with shuffled targets and with lower
      layers,
    - for texts, the share of words that the tokenizer does not know,
    - the time and memory that training would take on this machine.

    The rules from these measurements to a strategy are a table with sources, `skembed.advice.RULES`.

    Parameters
    ----------
    X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
        Raw training samples, without your test samples.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Classes, numbers, or several labels per sample as a matrix of zeros and ones.
    embedder : ImageEmbedder, TextEmbedder or AudioEmbedder, default=None
        Embedder to advise for; it is not changed. None uses ``TextEmbedder()``.
    groups : array-like of shape (n_samples,), default=None
        Group of each sample. Samples of one group are never split, so copies within a group do not count as leaks.
    task : {"auto", "classification", "multilabel", "regression"}, default="auto"
        Kind of target. "auto" treats numbers with fractions as regression and a matrix of zeros and ones as multilabel.
        Wrong labels are searched for in classification only.
    device : str, default=None
        Device to compute on; None uses that of the embedder.
    budget : float, default=3600
        Seconds that a fit may take. If twenty epochs of all blocks would take longer, fewer blocks are advised.
    max_samples : int, default=2000
        Largest number of samples that are embedded, drawn at random. Near copies are searched for among these, exact
        copies and class sizes among all samples.
    random_state : int or None, default=0
        Seed of the draw and of the shuffled targets. It repeats everything but the timing.

    Returns
    -------
    Advice
        Strategy, settings, reasons and findings; print it. ``advice.estimator().fit(X, y, groups=advice.groups)``
        follows it.

    Raises
    ------
    ValueError
        If X and y differ in length; if y has missing values, one class, or an ambiguous kind; or if no sample can be
        read.
    TypeError
        If `embedder` is not an embedder, or an embedder was passed as X.

    See Also
    --------
    diagnose : Inspect a fitted estimator.
    FineTuneClassifier : Follow the advice with ``strategy="auto"``.

    Notes
    -----
    The distance of the data from the pre-training data cannot be measured directly. As a proxy, the layers of the
    network are compared. Higher layers are more specific to the pre-training data [1]_, so a lower layer that does
    clearly better (by three points, and by twice the standard error) shows that the data differ. For texts, words that
    the tokenizer has to split into many pieces are a second sign [2]_.

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
