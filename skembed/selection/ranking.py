"""Rank candidates by how well their embeddings suit a labeled set."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.utils import check_consistent_length

from skembed.embedders.encoder import modality_of
from skembed.exceptions import InputWarning, SkembedWarning
from skembed.inputs.target_kinds import as_task_targets, resolve_task, target_columns
from skembed.selection.candidates import Candidate, as_candidates, megabytes_of
from skembed.selection.cross_validation import knn_score, linear_probe_score
from skembed.selection.leep_scores import nleep
from skembed.selection.scores import h_score, logme, transrate
from skembed.selection.timing import Cost, embed_timed, timed
from skembed.utils.naming import did_you_mean
from skembed.utils.warnings import warn

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SCORES", "Scored", "rank_backbones", "score_candidates", "score_name"]

#: Functions of rows, targets, the task and a seed; the last three are for classes only.
SCORES: dict[str, Callable[[np.ndarray, Any, str, int | None], float]] = {
    "logme": lambda rows, y, task, seed: logme(rows, y, task=task),
    "knn": lambda rows, y, task, seed: knn_score(
        rows, y, n_neighbors=_n_neighbors(y, task), cv=_folds(y, task), task=task, random_state=seed
    ),
    "linear_probe": lambda rows, y, task, seed: linear_probe_score(
        rows, y, cv=_folds(y, task), task=task, random_state=seed
    ),
    "h_score": lambda rows, y, task, seed: h_score(rows, y),
    "nleep": lambda rows, y, task, seed: nleep(rows, y, random_state=seed),
    "transrate": lambda rows, y, task, seed: transrate(rows, y),
}
_FOR_CLASSES_ONLY = ("h_score", "nleep", "transrate")
_N_FOLDS = 5


def _folds(y: Any, task: str) -> int:
    """Return the number of folds: five, or as many as the smallest class has samples."""
    if task == "regression":
        return _N_FOLDS
    return int(np.clip(np.unique(y, return_counts=True)[1].min(), 2, _N_FOLDS))


def _n_neighbors(y: Any, task: str) -> int:
    """Return the number of neighbors: five, or as many samples as every fold leaves for training."""
    n_samples = len(y)
    return min(5, n_samples - -(-n_samples // _folds(y, task)))


class Scored(NamedTuple):
    """Candidate with its scores.

    Parameters
    ----------
    row : dict
        Row of the table.
    embedder : estimator or None
        Fitted embedder; None if the candidate failed.
    error : Exception or None
        Error of the embedding, or of the first score that failed.
    """

    row: dict[str, Any]
    embedder: Any
    error: Exception | None


def rank_backbones(
    X,
    y,
    candidates,
    *,
    layers=None,
    scores: Sequence[str | Callable] = ("logme", "knn"),
    embedder=None,
    task: str = "auto",
    max_samples: int | None = None,
    random_state: int | None = 0,
) -> pd.DataFrame:
    """Rank backbones, layers and poolings for a labeled set, without fine-tuning any of them.

    Parameters
    ----------
    X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
        Raw samples.
    y : array-like of shape (n_samples,) or, for numbers, (n_samples, n_targets)
        Classes or numbers.
    candidates : sequence, or dict from names to them, of str, PathLike or transformer
        Names of backbones; embedders, which may differ in layers, pooling and other parameters; or other transformers
        from X to rows of numbers, as baselines. They are cloned.
    layers : sequence of int, list of int or "all", default=None
        Values of `layers` to try with each candidate; ``[-1, -2, [-2, -1]]`` are three values. None uses the value of
        each candidate.
    scores : sequence of str or callable, default=("logme", "knn")
        "logme", "h_score", "nleep", "transrate", "knn", "linear_probe" (see the functions of those names), or
        functions of rows and y that return a number, higher is better. The first score sorts the table. "knn" and
        "linear_probe" are cross-validated with five folds, or as many as the smallest class has samples, at least two.
    embedder : embedder, default=None
        Embedder, with its parameters, for candidates that are given by name. None chooses it by the name, which must be
        one of `skembed.list_backbones` and stand for one modality only.
    task : {"auto", "classification", "regression"}, default="auto"
        Kind of target. "auto" treats numbers with fractions as regression and everything else as classes. Regression
        has the scores "logme", "knn" and "linear_probe".
    max_samples : int, default=None
        Number of samples to rank by, drawn at random and in proportion to the classes. None uses all samples.
    random_state : int or None, default=0
        Seed of the draw, the folds, and the mixture of "nleep".

    Returns
    -------
    DataFrame with one row per candidate and value of `layers`, best first
        The columns are ``candidate``; one per score; ``layers`` and ``pooling`` as given; ``load_seconds``,
        ``embedding_seconds`` and ``n_embedded`` (see Notes); ``<score>_seconds``; ``width``, the number of features;
        ``megabytes`` (10^6 bytes) of the weights; and ``error``, empty if there was none. Failed candidates are last,
        with NaN.

    Raises
    ------
    ValueError
        If X and y differ in length; if y or a score cannot be used; if there is no candidate; if some candidates read X
        as another kind of data than others; or if no candidate could be scored. The error has the reasons.
    TypeError
        If `candidates` contains anything but names and transformers, or no candidate can read X.
    ImportError
        If pandas is not installed.

    Warns
    -----
    SkembedWarning
        If some candidates failed; the others are ranked.
    InputWarning
        If X looks like names of files and a candidate reads texts.

    Notes
    -----
    Rows in a cache are not computed again, so a second call takes little time even with a slow network. Therefore
    ``embedding_seconds`` is the time of ``n_embedded`` samples: those that were neither in the cache nor equal to an
    earlier sample. It is NaN if there were none. To compare networks, divide the two, or use candidates with
    ``cache=None``. ``load_seconds`` is the time to find, check and read the weights, to import their library, and to
    run a first small input. The first candidate of a process includes the imports, and of several candidates with the
    same backbone only the first one reads the weights. Other transformers have the time of `fit_transform` alone.

    References
    ----------
    .. [1] You, Liu, Wang & Long (2021), LogME: Practical Assessment of Pre-trained Models for Transfer Learning.
    .. [2] Renggli et al. (2022), Which Model to Transfer? Finding the Needle in the Growing Haystack.

    Examples
    --------
    >>> from skembed import TextEmbedder
    >>> from skembed.selection import rank_backbones
    >>> X = ["a cat", "a dog", "a cow", "a hen", "a goat"] + ["one", "two", "three", "four", "five"]
    >>> y = ["animal"] * 5 + ["number"] * 5
    >>> table = rank_backbones(X, y, [TextEmbedder(device="cpu")], layers=[0, 3, -1], scores=["logme"])
    >>> list(table.columns[:4]), len(table)
    (['candidate', 'logme', 'layers', 'pooling'], 3)
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("rank_backbones returns a table and needs pandas: pip install pandas") from error
    scored = score_candidates(
        X,
        y,
        as_candidates(candidates, layers=layers, embedder=embedder),
        scores=scores,
        task=task,
        max_samples=max_samples,
        random_state=random_state,
    )
    rows = [each.row for each in scored]
    # As they were given: pandas would make 4 and None to 4.0 and NaN.
    asked = {name: pd.Series([row[name] for row in rows], dtype=object) for name in ("layers", "pooling")}
    return pd.DataFrame(rows).assign(**asked)


def score_candidates(
    X, y, candidates: list[Candidate], *, scores, task: str = "auto", max_samples=None, random_state=0
) -> list[Scored]:
    """Fit, embed and score all candidates, best first; see `rank_backbones` for the parameters."""
    _refuse_mixed(candidates)
    task = resolve_task(y, task)
    y = as_task_targets(y, task)
    check_consistent_length(X, y)
    functions = _check_scores(scores, task)
    n_samples = len(y)
    # An error in y concerns all candidates, so it is raised before any of them is embedded.
    target_columns(y, n_samples, task)
    if max_samples is not None and max_samples < n_samples:
        stratify = y if task == "classification" else None
        n_classes = len(np.unique(y)) if task == "classification" else 0
        if max_samples < n_classes:
            raise ValueError(f"max_samples={max_samples} is fewer than the {n_classes} classes. Use more, or None.")
        X, _, y, _ = train_test_split(X, y, train_size=int(max_samples), stratify=stratify, random_state=random_state)
    scored = []
    with warnings.catch_warnings():
        for candidate in candidates:
            scored.append(_score(candidate, X, y, functions, task, random_state))
            if modality_of(candidate.embedder) == "text":
                # All candidates have the same X, so one warning about it is enough.
                warnings.simplefilter("ignore", InputWarning)
    if not any(np.isfinite(each.row[name]) for each in scored for name in functions):
        raise _none_scored(scored)
    first = next(iter(functions))
    _warn_failed(scored)
    return sorted(scored, key=lambda each: _descending(each.row[first]))


def _refuse_mixed(candidates: list[Candidate]) -> None:
    """Refuse candidates that read X in different ways, such as paths as texts and as files."""
    firsts: dict[str, str] = {}
    for candidate in candidates:
        modality = modality_of(candidate.embedder)
        if modality is not None:
            firsts.setdefault(modality, f"{type(candidate.embedder).__name__} {candidate.name!r}")
    if len(firsts) > 1:
        (one, first), (other, second), *_ = firsts.items()
        raise ValueError(
            f"candidates: {first} reads X as {one} and {second} as {other}, so that their scores would be of different "
            "data. Rank those of each kind on their own."
        )


def _descending(value: float) -> float:
    return -value if np.isfinite(value) else float("inf")


def _check_scores(scores: Any, task: str) -> dict[str, Callable]:
    """Return functions of rows, y, task and seed by the names of their columns."""
    if isinstance(scores, str) or not isinstance(scores, Sequence) or not scores:
        raise ValueError(f"scores={scores!r} must be a list of at least one score, such as ['logme'].")
    found: dict[str, Callable] = {}
    for score in scores:
        if callable(score):
            found[score_name(score)] = _of_user(score)
        elif score not in SCORES:
            hint = (
                " It needs a source head's probabilities, which embedders lack: use 'nleep'." if score == "leep" else ""
            )
            hint = hint or did_you_mean(str(score), SCORES)
            raise ValueError(f"scores holds {score!r}, which is unknown.{hint} Use {', '.join(map(repr, SCORES))}.")
        elif task == "regression" and score in _FOR_CLASSES_ONLY:
            raise ValueError(f"scores holds {score!r}, which is defined for classes only. For numbers use 'logme'.")
        else:
            found[score] = SCORES[score]
    return found


def score_name(score: str | Callable) -> str:
    """Return the name of the column of a score."""
    return score if isinstance(score, str) else getattr(score, "__name__", type(score).__name__)


def _of_user(function: Callable) -> Callable:
    return lambda rows, y, task, seed: float(function(rows, y))


def _score(candidate: Candidate, X, y, functions: dict[str, Callable], task: str, seed) -> Scored:
    """Score one candidate. An error is stored in its row, since other candidates may succeed."""
    nan, embedder = float("nan"), candidate.embedder
    errors: dict[str, Exception] = {}
    asked = {} if embedder is None else embedder.get_params(deep=False)
    row = {
        "candidate": candidate.name,
        **dict.fromkeys(functions, nan),
        "layers": asked.get("layers"),
        "pooling": asked.get("pooling"),
        **asdict(Cost()),
        **dict.fromkeys([f"{name}_seconds" for name in functions], nan),
        "width": nan,
        "megabytes": nan,
        "error": "",
    }
    try:
        if candidate.error is not None:
            raise candidate.error
        embedded, cost = embed_timed(embedder, X, y)
        rows = _check_readable(embedded)
        row |= asdict(cost)
        row["width"], row["megabytes"] = rows.shape[1], megabytes_of(embedder)
    except Exception as error:
        return Scored(row | {"error": _one_line(error)}, None, error)
    for name, function in functions.items():
        try:
            row[name], row[f"{name}_seconds"] = timed(function, rows, y, task, seed)
        except Exception as error:
            errors[name] = error
    row["error"] = "; ".join(f"{name}: {_one_line(error)}" for name, error in errors.items())
    return Scored(row, embedder, next(iter(errors.values()), None))


def _check_readable(embedded: Any) -> np.ndarray:
    """Return finite rows of numbers from an array or a dataframe."""
    if hasattr(embedded, "toarray"):
        raise ValueError(
            "it returns a sparse matrix instead of dense rows of numbers. Put a projection behind it, such as "
            "make_pipeline(TfidfVectorizer(), TruncatedSVD(100))."
        )
    rows = np.asarray(embedded)
    if rows.ndim != 2 or rows.dtype.kind not in "fiub":
        raise ValueError(f"it returns {rows.dtype} of shape {rows.shape} instead of dense rows of numbers.")
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(rows)} rows are not finite, first the row of sample {bad[0]}. Remove samples that "
            "cannot be read, so that all candidates are compared on the same ones."
        )
    return rows


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _none_scored(scored: list[Scored]) -> Exception:
    """Return an error with the first line of each candidate's reason."""
    reasons: dict[str, list[str]] = {}
    names = [each.row["candidate"] for each in scored]
    for each in scored:
        lines = [] if each.error is None else str(each.error).splitlines()
        told = f"{type(each.error).__name__}: {lines[0] if lines else ''}"
        layers = f", layers={each.row['layers']}" if names.count(each.row["candidate"]) > 1 else ""
        reason = "no finite score" if each.error is None else told
        reasons.setdefault(reason, []).append(f"{each.row['candidate']}{layers}")
    listed = [f"  {name}: {reason}" for reason, those in reasons.items() for name in those]
    if len(reasons) == 1 and len(scored) > 1:
        listed = [f"  all of them: {next(iter(reasons))}"]
    # Where all refuse the type of X, it is that which is wrong.
    kind = TypeError if all(isinstance(each.error, TypeError) for each in scored) else ValueError
    count = f"none of the {len(scored)}" if len(scored) > 1 else "the only one given"
    error = kind("\n".join([f"candidates: {count} could {'' if len(scored) > 1 else 'not '}be scored.", *listed]))
    error.__cause__ = scored[0].error
    return error


def _warn_failed(scored: list[Scored]) -> None:
    failed = [each.row for each in scored if each.embedder is None]
    partly = [each.row for each in scored if each.embedder is not None and each.row["error"]]
    told = []
    for rows, what in ((failed, "failed"), (partly, "lack a score")):
        if rows:
            first = f"the first {rows[0]['candidate']!r} ({rows[0]['error']})"
            told.append(f"{len(rows)} of {len(scored)} candidates {what}, {first}.")
    if told:
        rest = "The others are ranked; see" if failed else "See"
        warn(" ".join([*told, f"{rest} the column 'error' of the ranking."]), SkembedWarning)
