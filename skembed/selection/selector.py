"""BackboneSelector: the best of several embedders as a transformer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from skembed.embedders.base import BaseEmbedder
from skembed.exceptions import InputWarning
from skembed.inputs.target_kinds import TASKS, as_task_targets
from skembed.selection.candidates import as_candidates
from skembed.selection.ranking import SCORES, score_candidates, score_name
from skembed.utils.sklearn_private import Interval, StrOptions, fit_context

__all__ = ["BackboneSelector"]


class BackboneSelector(TransformerMixin, BaseEstimator):
    """Embed samples with the candidate whose embeddings suit the labels best.

    Parameters
    ----------
    candidates : sequence, or dict from names to them, of str, PathLike or transformer
        Names of backbones, embedders, or other transformers from X to rows of numbers. They are cloned.
    layers : sequence of int, list of int or "all", default=None
        Values of `layers` to try with each candidate; ``[-1, -2, [-2, -1]]`` are three values. None uses the value of
        each candidate.
    criterion : {"logme", "h_score", "nleep", "transrate", "knn", "linear_probe"} or callable, default="logme"
        Score to choose by: the name of a function of `skembed.selection`, or a function of rows and y that returns a
        number, higher is better.
    embedder : embedder, default=None
        Embedder, with its parameters, for candidates that are given by name. None chooses it by the name, which must be
        one of `skembed.list_backbones` and stand for one modality only.
    task : {"auto", "classification", "regression"}, default="auto"
        Kind of target. "auto" treats numbers with fractions as regression and everything else as classes.
    max_samples : int, default=None
        Number of samples to choose by, drawn at random and in proportion to the classes. None uses all samples.
    random_state : int or None, default=0
        Seed of the draw, the folds, and the mixture of "nleep".

    Attributes
    ----------
    best_embedder_ : transformer
        Chosen candidate, fitted.
    best_score_ : float
        Score of the chosen candidate.
    ranking_ : list of dict
        One record per candidate and value of `layers`, best first, with the columns of `rank_backbones`.

    See Also
    --------
    rank_backbones : Return the scores of all candidates as a table.

    Notes
    -----
    The choice depends on the labels. Inside a `Pipeline`, it is made in each fold from that fold's training samples
    alone, so cross-validation stays honest. With a cache, which is the default, each candidate embeds each sample only
    once for all folds.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from skembed import TextEmbedder
    >>> from skembed.selection import BackboneSelector
    >>> X = ["a cat", "a dog", "a cow", "a hen", "a goat"] + ["one", "two", "three", "four", "five"]
    >>> y = ["animal"] * 5 + ["number"] * 5
    >>> selector = BackboneSelector([TextEmbedder(device="cpu")], layers=[0, -1])
    >>> pipeline = make_pipeline(selector, LogisticRegression()).fit(X, y)
    >>> len(pipeline[0].ranking_), pipeline[0].transform(["a duck"]).shape
    (2, (1, 384))
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "candidates": ["array-like", Mapping],
        "layers": ["array-like", None],
        "criterion": [StrOptions(set(SCORES)), callable],
        "embedder": [BaseEstimator, None],
        "task": [StrOptions(set(TASKS))],
        "max_samples": [Interval(Integral, 2, None, closed="left"), None],
        "random_state": [Interval(Integral, 0, None, closed="left"), None],
    }

    def __init__(
        self,
        candidates,
        *,
        layers=None,
        criterion="logme",
        embedder=None,
        task="auto",
        max_samples=None,
        random_state=0,
    ):
        self.candidates = candidates
        self.layers = layers
        self.criterion = criterion
        self.embedder = embedder
        self.task = task
        self.max_samples = max_samples
        self.random_state = random_state

    # The candidates are asked for with their own validation.
    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y) -> Self:
        """Score all candidates and keep the best.

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.
        y : array-like of shape (n_samples,) or, for numbers, (n_samples, n_targets)
            Classes or numbers.

        Returns
        -------
        self : object
            The fitted selector.

        Raises
        ------
        ValueError
            If y cannot be used, or no candidate could be scored. The error has the reasons.
        TypeError
            If `candidates` contains anything but names and transformers, or no candidate can read X.

        Warns
        -----
        SkembedWarning
            If some candidates failed; the best of the others is chosen.
        """
        if y is None:
            raise ValueError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None.")
        y = as_task_targets(y, self.task)
        found = as_candidates(self.candidates, layers=self.layers, embedder=self.embedder)
        scored = score_candidates(
            X,
            y,
            found,
            scores=[self.criterion],
            task=self.task,
            max_samples=self.max_samples,
            random_state=self.random_state,
        )
        best = scored[0]
        # Embedders learn nothing from X, but a baseline among the candidates has seen only the draw.
        self.best_embedder_ = best.embedder if self.max_samples is None else _fitted_again(best.embedder, X, y)
        self.best_score_ = float(best.row[score_name(self.criterion)])
        self.ranking_ = [each.row for each in scored]
        return self

    def transform(self, X) -> Any:
        """Embed raw samples with the chosen candidate.

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.

        Returns
        -------
        X_out : ndarray of shape (n_samples, n_features)
            One row per sample, in order; float32 from embedders.
        """
        check_is_fitted(self)
        return _rows(self.best_embedder_, X)

    if TYPE_CHECKING:  # scikit-learn's own has no types

        def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any: ...

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        """Return names of the chosen candidate's features.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Passed to the candidate.

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self)
        return self.best_embedder_.get_feature_names_out(input_features)

    @property
    def n_features_in_(self) -> int:
        """Number of columns of X, if the chosen candidate reads columns."""
        check_is_fitted(self)
        return self.best_embedder_.n_features_in_

    @property
    def feature_names_in_(self) -> np.ndarray:
        """Names of the columns of X, if the chosen candidate has seen any."""
        check_is_fitted(self)
        return self.best_embedder_.feature_names_in_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = []
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = False, True
        known = [self.embedder, *_members(self.candidates)]
        embedders = [each for each in known if hasattr(each, "__sklearn_tags__") and not isinstance(each, type)]
        if embedders:
            # All candidates read the same X.
            tags.input_tags = get_tags(embedders[0]).input_tags
            tags.transformer_tags.preserves_dtype = get_tags(embedders[0]).transformer_tags.preserves_dtype
        return tags


def _fitted_again(embedder: Any, X: Any, y: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # said when it was scored
        return clone(embedder).fit(X, y)


def _rows(transformer: Any, X: Any) -> Any:
    """Return rows of a fitted transformer as an array, whatever its own `set_output` asks for."""
    if isinstance(transformer, BaseEmbedder):
        return transformer.embed(X)
    rows = transformer.transform(X)
    return np.asarray(rows) if hasattr(rows, "columns") else rows


def _members(candidates: Any) -> list[Any]:
    if isinstance(candidates, Mapping):
        return list(candidates.values())
    return list(candidates) if isinstance(candidates, (list, tuple)) else []
