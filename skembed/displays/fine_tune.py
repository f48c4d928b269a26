"""Display of the history of a fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from skembed.displays.estimators import fitted_fine_tuner
from skembed.utils.plot_layout import (
    cell_size,
    fit_label,
    font_points,
    keep_inside,
    row_points,
    shorten_to,
    text_inches,
    wrap_to,
)
from skembed.utils.plotting import BEST, COLOUR, GREY, bare, legend_label, panels, pyplot, shorten_middle

__all__ = ["FineTuneDisplay"]

#: Share of the width of a panel that its legend and its labels leave to the lines.
_LINES_SHARE = 0.6
#: Length of a slanted name of a stage, as a share of the height of the first panel's cell.
_SLANTED_NAME_SHARE = 0.5
#: Inches that the labels below the last panel take.
_BELOW_INCHES = 0.5
#: Epochs that are alike in these are one attempt.
_ATTEMPT_KEYS = ("stage", "attempt", "round")
#: Losses of which one is so many times the usual are drawn on a logarithmic axis.
_LOG_SCALE_RATIO = 30
#: Rates that the legend names, at most; of more the head's, the top, the middle and the lowest block's.
_MAX_NAMED_RATES = 6


class Span(NamedTuple):
    """Epochs that trained the same blocks with the same regularization."""

    name: str
    epochs: tuple[int, ...]


class FineTuneDisplay:
    """Losses, scores and learning rates over the epochs of a fit.

    Stages are shaded and named. The name includes the attempt if a stage was repeated with stronger regularization, and
    the round if all blocks were trained once more. Each stage starts from the best weights so far, so the lines are
    broken between stages. The epoch that was kept is marked, and so are the loss and the score of the linear probe.
    Build it with `from_estimator`.

    Parameters
    ----------
    history : list of dict
        Value of `FineTuneClassifier.history_`.
    kept : {"fine-tuned", "probe"}
        Model that was kept.
    probe_score, validation_score : float, default=None
        Held-out scores of the linear probe and of the kept model; None if no samples were held out.
    probe_loss : float, default=None
        Held-out loss of the linear probe.
    score_name : str, default="score"
        Name of the score.

    Attributes
    ----------
    axes_ : ndarray of Axes
        Axes of the loss, of the score if samples were held out, and of the learning rates.
    figure_ : matplotlib Figure
        Figure that contains them.
    best_epoch_ : int or None
        Epoch whose weights were kept, which is marked; None if the probe was kept.

    Examples
    --------
    >>> from skembed import FineTuneClassifier
    >>> from skembed.displays import FineTuneDisplay
    >>> texts = ["the invoice is overdue", "your parcel has arrived", "payment was refused", "delivery is delayed"] * 5
    >>> labels = ["money", "parcel", "money", "parcel"] * 5
    >>> classifier = FineTuneClassifier(strategy="head", max_epochs=3, random_state=0).fit(texts, labels)
    >>> display = FineTuneDisplay.from_estimator(classifier)  # doctest: +SKIP
    >>> [ax.get_ylabel() for ax in display.axes_]  # doctest: +SKIP
    ['loss', 'accuracy', 'learning rate']
    """

    def __init__(
        self,
        history: Sequence[Mapping[str, Any]],
        *,
        kept: str,
        probe_score: float | None = None,
        validation_score: float | None = None,
        probe_loss: float | None = None,
        score_name: str = "score",
    ):
        self.history = history
        self.kept = kept
        self.probe_score = probe_score
        self.validation_score = validation_score
        self.probe_loss = probe_loss
        self.score_name = score_name

    @classmethod
    def from_estimator(cls, estimator, *, ax=None) -> FineTuneDisplay:
        """Draw the history of a fitted fine-tuner.

        Parameters
        ----------
        estimator : FineTuneClassifier, FineTuneRegressor, or a Pipeline with one of them
            Fitted estimator.
        ax : Axes or sequence of Axes, default=None
            Axes to divide, or one per panel. None makes a figure.

        Returns
        -------
        FineTuneDisplay
            Display that has been drawn.

        Raises
        ------
        ValueError
            If nothing was trained.
        TypeError
            If `estimator` is another kind of estimator.
        NotFittedError
            If `estimator` is not fitted.
        ImportError
            If matplotlib is not installed.
        """
        from skembed.finetune.base import score_name_of

        fitted, _ = fitted_fine_tuner(estimator, cls.__name__)
        display = cls(
            fitted.history_,
            kept=fitted.kept_,
            probe_score=fitted.probe_score_,
            validation_score=fitted.validation_score_,
            probe_loss=None if fitted.probe_score_ is None else fitted.diagnosis_.numbers["probe_loss"],
            score_name=score_name_of(fitted),
        )
        return display.plot(ax=ax)

    def plot(self, ax=None) -> FineTuneDisplay:
        """Draw the history.

        Parameters
        ----------
        ax : Axes or sequence of Axes, default=None
            Axes to draw on; None makes a figure.

        Returns
        -------
        FineTuneDisplay
            This display, with `axes_`, `figure_` and `best_epoch_`.

        Raises
        ------
        ValueError
            If the history is empty, or the number of axes differs from that of panels.
        """
        pyplot(type(self).__name__)
        if not self.history:
            raise ValueError(
                "history is empty: nothing was trained (max_epochs=0), and the linear probe was kept. "
                "Fit with max_epochs of 1 or more to have something to draw."
            )
        spans, judged = _spans(self.history), self.history[0]["valid_score"] is not None
        heights = [3, 2, 2] if judged else [3, 2]
        axes = panels(
            type(self).__name__, ax, (len(heights), 1), figsize=(9, 7 if judged else 5), heights=heights, sharex=True
        )
        self.axes_, self.figure_ = axes, axes[0].figure
        self.best_epoch_ = _best_epoch(self.history) if self.kept == "fine-tuned" else None
        self._draw_losses(axes[0], spans)
        if judged:
            self._draw_scores(axes[1], spans)
        self._draw_rates(axes[-1], spans)
        title = wrap_to(self._title(), cell_size(axes[0])[0] - 0.9, font_points("medium"))
        axes[0].set_title(title, fontsize="medium", loc="left")
        above = _name_stages(axes[0], spans) + 0.2 * (1 + title.count("\n"))
        labels = ["loss", *([self.score_name] if judged else []), "learning rate"]
        for each, label, room in zip(axes, labels, _inner_heights(axes, heights, above), strict=True):
            text, points = fit_label(label, room)
            each.set_ylabel(text, fontsize=points)
            _shade(each, spans)
            if self.best_epoch_ is not None:
                each.axvline(self.best_epoch_, color=BEST, linestyle="--", linewidth=1.2, zorder=1)
            bare(each, grid="y")
            each.margins(y=0.1)  # a mark at the very edge would be cut in half
            _draw_legend(each, room)
        for each in axes[:-1]:
            each.tick_params(labelbottom=False)
        axes[-1].set_xlabel("epoch")
        axes[-1].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes[-1].set_xlim(0.5, len(self.history) + 0.5)
        keep_inside(axes)
        return self

    def _draw_losses(self, ax, spans: list[Span]) -> None:
        train, valid = (self._column(name) for name in ("train_loss", "valid_loss"))
        _broken_line(ax, spans, train, color=GREY, marker="o", label="training")
        if np.isfinite(valid).any():
            _broken_line(ax, spans, valid, color=COLOUR, marker="s", label="held out")
            _level(ax, self.probe_loss)
            self._mark(ax, valid)
        # The held-out loss is what is looked at: beside it a training loss of nearly nothing may lie at the bottom.
        usual = np.nanmedian(valid if np.isfinite(valid).any() else train)
        if np.nanmax([train, valid]) > _LOG_SCALE_RATIO * usual > 0:
            ax.set_yscale("log")

    def _draw_scores(self, ax, spans: list[Span]) -> None:
        scores = self._column("valid_score")
        _broken_line(ax, spans, scores, color=COLOUR, marker="s", label="held out")
        _level(ax, self.probe_score)
        self._mark(ax, scores)

    def _draw_rates(self, ax, spans: list[Span]) -> None:
        """Draw rates of the head, and of the blocks from the top (light) to the lowest (dark)."""
        import matplotlib

        # The head comes first and the blocks from the top; the epoch with the most of them has them all.
        names = max((list(record["rates"]) for record in self.history), key=len)
        colours = ["black", *matplotlib.colormaps["viridis"](np.linspace(0.85, 0.0, max(1, len(names) - 1)))]
        spoken = set(names)
        if len(names) > _MAX_NAMED_RATES:
            spoken = {names[0], names[1], names[len(names) // 2], names[-1]}
        for name, colour in zip(names, colours, strict=False):
            rates = np.array([record["rates"].get(name, np.nan) for record in self.history], dtype=float)
            rates[rates <= 0] = np.nan  # some schedules end at zero, which a logarithmic axis has not
            _broken_line(
                ax, spans, rates, color=colour, marker=".", label=legend_label(name) if name in spoken else None
            )
        ax.set_yscale("log")

    def _mark(self, ax, values: np.ndarray) -> None:
        if self.best_epoch_ is not None:
            value = values[self.best_epoch_ - 1]
            ax.scatter([self.best_epoch_], [value], s=90, color=BEST, zorder=4, label=f"kept, {value:.3f}")

    def _column(self, name: str) -> np.ndarray:
        return np.array([np.nan if record[name] is None else record[name] for record in self.history], dtype=float)

    def _title(self) -> str:
        name, probe, own = self.score_name, self.probe_score, self.validation_score
        if self.best_epoch_ is None:
            return f"Kept: the linear probe, which no epoch beat{'' if probe is None else f' ({name} {probe:.3f})'}"
        scores = "" if own is None or probe is None else f": {name} {own:.3f}, the linear probe's {probe:.3f}"
        return f"Kept: {self.history[self.best_epoch_ - 1]['stage']}, epoch {self.best_epoch_}{scores}"


def _spans(history: Sequence[Mapping[str, Any]]) -> list[Span]:
    """Return attempts in order; a stage that is repeated unchanged is another round of it."""
    spans: list[Span] = []
    seen: Counter[tuple[str, int]] = Counter()
    numbered = enumerate(history, start=1)
    for _, records in groupby(numbered, key=lambda pair: tuple(pair[1].get(name) for name in _ATTEMPT_KEYS)):
        epochs, own = zip(*records, strict=True)
        stage, attempt = own[0]["stage"], own[0]["attempt"]
        seen[stage, attempt] += 1
        again = f", attempt {attempt}" if attempt > 1 else ""
        again += f", round {seen[stage, attempt]}" if seen[stage, attempt] > 1 else ""
        spans.append(Span(stage + again, epochs))
    return spans


def _best_epoch(history: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the last epoch that was the best so far, from 1; it is the one that was kept."""
    return next((number for number in range(len(history), 0, -1) if history[number - 1]["best"]), None)


def _broken_line(ax, spans: list[Span], values: np.ndarray, *, color, marker: str, label: str | None) -> None:
    """Draw a line over all epochs, broken between stages."""
    x, y = [], []
    for span in spans:
        x += [*span.epochs, np.nan]
        y += [*values[np.array(span.epochs) - 1], np.nan]
    ax.plot(x, y, color=color, marker=marker, markersize=4, linewidth=1.5, label=label, zorder=3)


def _level(ax, value: float | None) -> None:
    """Draw the value of the linear probe over all epochs."""
    if value is not None and np.isfinite(value):
        ax.axhline(value, color="black", linestyle=":", linewidth=1.5, label=f"linear probe, {value:.3f}")


def _shade(ax, spans: list[Span]) -> None:
    for number, span in enumerate(spans):
        colour = GREY if number % 2 else "white"
        ax.axvspan(span.epochs[0] - 0.5, span.epochs[-1] + 0.5, color=colour, alpha=0.12, linewidth=0, zorder=0)


def _inner_heights(axes, heights: Sequence[int], above: float) -> list[float]:
    """Return the inches of each panel, less the texts above the first and below the last."""
    cells = [cell_size(ax)[1] for ax in axes]
    places = [ax.get_subplotspec() for ax in axes]
    if any(place is None or place.get_gridspec() is not places[0].get_gridspec() for place in places):
        return [0.8 * cell for cell in cells]
    return [(sum(cells) - above - _BELOW_INCHES) * height / sum(heights) - 0.1 for height in heights]


def _draw_legend(ax, height: float) -> None:
    """Draw the legend beside a panel, in a size at which its entries fit the height."""
    points = row_points(height, len(ax.get_legend_handles_labels()[1]), "small")
    ax.legend(
        loc="upper left", bbox_to_anchor=(1.005, 1.03), frameon=False, fontsize=points, labelspacing=0.15,
        handlelength=1.5, markerscale=points / font_points("small"),
    )  # fmt: skip


def _name_stages(ax, spans: list[Span]) -> float:
    """Name the stages over their epochs, slanted where a name is wider than its stage; return the inches it takes."""
    width, height = cell_size(ax)
    points, per_epoch = font_points("small"), _LINES_SHARE * width / sum(len(span.epochs) for span in spans)
    names = [span.name for span in spans]
    fits = all(text_inches(span.name, points) < per_epoch * len(span.epochs) for span in spans)
    if not fits:
        longest = max(names, key=len)
        longest, points = fit_label(longest, _SLANTED_NAME_SHARE * height, n_lines=1)
        points = min(points, font_points("small"))
        names = [shorten_to(name, _SLANTED_NAME_SHARE * height, points, shorten_middle) for name in names]
    top = ax.secondary_xaxis("top")
    top.set_xticks([np.mean(span.epochs) for span in spans], names)
    top.tick_params(length=0, labelsize=points)
    top.spines["top"].set_visible(False)
    if fits:
        return 0.2
    top.tick_params(rotation=45)
    for label in top.get_xticklabels():
        label.set(ha="left", rotation_mode="anchor")
    return 0.15 + 0.75 * max(text_inches(name, points) for name in names)
