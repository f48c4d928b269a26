"""Display of the ranking of backbones."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skembed.utils.plot_layout import SEPARATOR, cell_size, fit_parts, font_points, keep_inside, shorten_to, wrap_to
from skembed.utils.plotting import BEST, COLOUR, GREY, bare, plain_labels, pyplot, shorten, shorten_start

__all__ = ["TransferabilityDisplay"]

#: Characters of a candidate's name, cut at the front: the end says most.
_NAME_LENGTH = 40
#: Largest parts of a cell's width that names and costs take.
_NAME_SHARE = 0.34
_COST_SHARE = 0.28
#: The same for both in a figure that the display made itself.
_OWN_FIGURE_SHARE = 0.6
#: Inches above and below the rows.
_MARGIN_INCHES = 1.0
_COST_COLUMNS = {"n_embedded", "width", "megabytes"}
_SCORE_LABELS = {
    "logme": "LogME (nats per sample)",
    "h_score": "H-score",
    "nleep": "NLEEP (nats per sample)",
    "transrate": "TransRate (nats per row)",
    "knn": "nearest neighbors, cross-validated score",
    "linear_probe": "linear probe, cross-validated score",
}


class TransferabilityDisplay:
    """Candidates by a score, the best on top, with their size and time.

    Build it with `from_ranking` or `from_estimator`.

    Parameters
    ----------
    ranking : list of dict
        One record per candidate, such as ``table.to_dict("records")`` for the DataFrame of `rank_backbones`.
    score : str
        Column of the score.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the candidates.
    figure_ : matplotlib Figure
        Figure that contains them.

    Examples
    --------
    >>> import pandas as pd
    >>> from skembed.selection import TransferabilityDisplay
    >>> ranking = pd.DataFrame({"candidate": ["a", "b"], "logme": [0.5, 0.2]})
    >>> display = TransferabilityDisplay.from_ranking(ranking)  # doctest: +SKIP
    >>> display.ax_.get_xlabel()  # doctest: +SKIP
    'LogME (nats per sample)'
    """

    def __init__(self, ranking: list[dict[str, Any]], *, score: str):
        self.ranking = ranking
        self.score = score

    @classmethod
    def from_ranking(cls, ranking, *, score: str | None = None, ax=None) -> TransferabilityDisplay:
        """Draw the result of `rank_backbones`.

        Parameters
        ----------
        ranking : DataFrame or list of dict
            The DataFrame of `rank_backbones`, or `BackboneSelector.ranking_`. It needs the column "candidate" and at
            least one score. The columns "layers", "pooling", "width", "megabytes", "embedding_seconds" with
            "n_embedded", and "error" are shown if they exist.
        score : str, default=None
            Column of the score; None uses the first score.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.

        Returns
        -------
        TransferabilityDisplay
            Display that has been drawn.

        Raises
        ------
        ValueError
            If there is no such column, or nothing to draw.
        ImportError
            If matplotlib is not installed.
        """
        lines = ranking.to_dict("records") if hasattr(ranking, "to_dict") else [dict(line) for line in ranking]
        if not lines:
            raise ValueError("ranking is empty. Pass what rank_backbones returned.")
        names = _score_columns(lines[0])
        chosen = score if score is not None else next(iter(names), None)
        if "candidate" not in lines[0] or chosen not in names:
            raise ValueError(
                f"score={score!r}: the ranking has the scores {names} and the columns {list(lines[0])}. "
                "Use one of the scores, and pass what rank_backbones returned."
            )
        return cls(lines, score=chosen).plot(ax=ax)

    @classmethod
    def from_estimator(cls, estimator, *, ax=None) -> TransferabilityDisplay:
        """Draw the ranking that a fitted `BackboneSelector` made.

        Parameters
        ----------
        estimator : BackboneSelector
            Fitted.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.

        Returns
        -------
        TransferabilityDisplay
            Display that has been drawn.

        Raises
        ------
        TypeError
            If `estimator` is another kind of estimator.
        NotFittedError
            If `estimator` is not fitted.
        ImportError
            If matplotlib is not installed.
        """
        if not hasattr(type(estimator), "fit") or not hasattr(estimator, "candidates"):
            raise TypeError(
                f"estimator is a {type(estimator).__name__}. Pass a fitted BackboneSelector; "
                "of a Pipeline its step, such as pipeline[0]."
            )
        check_is_fitted(estimator, "ranking_")
        return cls.from_ranking(estimator.ranking_, ax=ax)

    def plot(self, ax=None) -> TransferabilityDisplay:
        """Draw the candidates.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure that is high enough for all of them.

        Returns
        -------
        TransferabilityDisplay
            This display, with `ax_` and `figure_`.
        """
        plt = pyplot(type(self).__name__)
        values = np.array([line[self.score] for line in self.ranking], dtype=float)
        failed = ~np.isfinite(values)
        if failed.all():
            raise ValueError(f"score={self.score!r} has no finite value: all candidates failed. See 'error'.")
        # Sorted by what is shown, which may not be what the table is sorted by; failures last, in their order.
        order = np.argsort(np.where(failed, np.inf, -values), kind="stable")
        lines, values, failed = [self.ranking[i] for i in order], values[order], failed[order]
        names, n_scored, own = [_name(line) for line in lines], int((~failed).sum()), ax is None
        if ax is None:
            # So wide that what stands to both sides leaves room for the points.
            width = max(8.5, 6.5 + 0.075 * max(len(SEPARATOR.join(parts)) for parts in names))
            _, ax = plt.subplots(figsize=(width, 1.4 + 0.34 * len(lines)), layout="constrained")
        places = np.arange(len(lines))
        # Points and not bars: these scores have no zero that a length could start from.
        ax.hlines(places, values.min(where=~failed, initial=np.inf), values, color=COLOUR, alpha=0.25, linewidth=2)
        ax.scatter(values[~failed], places[~failed], s=45, color=COLOUR, zorder=3)
        ax.scatter(values[:1], places[:1], s=70, color=BEST, zorder=4, label="highest score")
        width, height = cell_size(ax)
        row, name_share = (height - _MARGIN_INCHES) / len(lines), _OWN_FIGURE_SHARE if own else _NAME_SHARE
        labels, name_points = fit_parts(names, name_share * width, row, font_points("medium"), shorten_start)
        costs, points = fit_parts(
            [_cost(line, value) for line, value in zip(lines[:n_scored], values, strict=False)],
            (_OWN_FIGURE_SHARE if own else _COST_SHARE) * width, row, font_points("small"), shorten,
        )  # fmt: skip
        # Reasons begin inside of the axes.
        reasons = [
            shorten_to(_reason(line), (1 - name_share) * width - 0.3, points, shorten) for line in lines[n_scored:]
        ]
        for place, text, lost in zip(places, costs + reasons, failed, strict=True):
            # Points away from the frame, and not a part of its width: the best candidate's dot reaches over it.
            ax.annotate(
                text,
                (0 if lost else 1, place),
                xytext=(8, 0),
                xycoords=ax.get_yaxis_transform(),
                textcoords="offset points",
                va="center",
                color=GREY,
                fontsize=points,
                annotation_clip=False,
                parse_math=False,
            )
        ax.set_yticks(places, labels, fontsize=name_points)
        plain_labels(ax.get_yticklabels())
        ax.set_ylim(len(lines) - 0.4, -0.6)
        ax.margins(x=0.04)
        room = (1 - _NAME_SHARE - _COST_SHARE) * width
        ax.set_xlabel(wrap_to(_SCORE_LABELS.get(self.score, self.score), room, font_points("medium")))
        bare(ax, grid="x")
        # Above the frame, where neither points nor the reasons of failures are.
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0, frameon=False, fontsize="small")
        keep_inside([ax])
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _score_columns(line: dict[str, Any]) -> list[str]:
    """Return the columns of numbers that are neither times nor sizes."""
    return [
        name
        for name, value in line.items()
        if isinstance(value, (int, float, np.number))
        and name not in {*_COST_COLUMNS, "layers"}
        and not name.endswith("_seconds")
    ]


def _name(line: dict[str, Any]) -> list[str]:
    parts = [shorten_start(line["candidate"], _NAME_LENGTH)]
    return parts + [f"{key} {line[key]}" for key in ("layers", "pooling") if _given(line.get(key))]


def _given(value: Any) -> bool:
    """Return True unless a cell is empty; pandas turns None among numbers into NaN."""
    return value is not None and not (isinstance(value, float) and np.isnan(value))


def _cost(line: dict[str, Any], value: float) -> list[str]:
    forms = {"width": "{:.0f} wide", "megabytes": "{:.0f} MB", "embedding_seconds": "{:.1f} s"}
    shown = [form.format(line[key]) for key, form in forms.items() if key in line and np.isfinite(line[key])]
    if line.get("n_embedded", 0) > 0:
        # Seconds alone would make what a cache knew look fast.
        shown[-1] += f" for {line['n_embedded']:.0f}"
    return [f"{value:.3f}", *shown]


def _reason(line: dict[str, Any]) -> str:
    return f"failed: {shorten(line.get('error') or 'no finite score', 71)}"
