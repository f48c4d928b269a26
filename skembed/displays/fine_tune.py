"""The history of a fine-tuning as a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from skembed._plotting import BEST, COLOUR, GREY, bare, panels, pyplot
from skembed.displays.estimators import fitted_fine_tuner

__all__ = ["FineTuneDisplay"]

#: Characters of a stage's name that fit over one inch.
_CHARACTERS_AN_INCH = 13
#: Epochs that are alike in these are one attempt.
_TOGETHER = ("stage", "attempt", "round")
#: Losses of which one is so many times the usual are drawn on a logarithmic axis.
_WIDE = 30
#: Rates that the legend names, at most; of more the head's, the top, the middle and the lowest block's.
_NAMED_RATES = 6


class Span(NamedTuple):
    """Epochs that trained the same blocks with the same regularisation."""

    name: str
    epochs: tuple[int, ...]


class FineTuneDisplay:
    """Losses, scores and learning rates over the epochs of a fine-tuning.

    Stages are shaded and named, with the attempt where one was tried again with stronger regularisation, and the round
    where all blocks were trained once more; each begins with the best weights so far, so the lines are broken between
    them. The epoch that was kept is marked, and the loss and score of the linear probe that it had to beat. Build it
    with `from_estimator`.

    Parameters
    ----------
    history : list of dict
        As `FineTuneClassifier.history_`.
    kept : {"fine-tuned", "probe"}
        What the estimator is.
    probe_score, validation_score : float, default=None
        Held-out score of the linear probe, and of what was kept; None where nothing was held out.
    probe_loss : float, default=None
        Held-out loss of the linear probe.
    score_name : str, default="score"
        What the score is called.

    Attributes
    ----------
    axes_ : ndarray of Axes
        Loss; score, where samples were held out; learning rates.
    figure_ : matplotlib Figure
        Figure that holds them.
    best_epoch_ : int or None
        Epoch that is marked: the one whose weights were kept. None where the probe was.

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
            Fitted.
        ax : Axes or sequence of Axes, default=None
            Where to draw: a place that is divided, or as many axes as there are panels. None makes a figure.

        Returns
        -------
        FineTuneDisplay
            Drawn.

        Raises
        ------
        ValueError
            If nothing was trained.
        TypeError
            If it is another estimator.
        NotFittedError
            If it is not fitted.
        ImportError
            If matplotlib is not installed.
        """
        fitted, _ = fitted_fine_tuner(estimator, cls.__name__)
        display = cls(
            fitted.history_,
            kept=fitted.kept_,
            probe_score=fitted.probe_score_,
            validation_score=fitted.validation_score_,
            probe_loss=None if fitted.probe_score_ is None else fitted.diagnosis_.numbers["probe_loss"],
            score_name=fitted._score_name(),
        )
        return display.plot(ax=ax)

    def plot(self, ax=None) -> FineTuneDisplay:
        """Draw the history.

        Parameters
        ----------
        ax : Axes or sequence of Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        FineTuneDisplay
            Itself, with `axes_`, `figure_` and `best_epoch_`.

        Raises
        ------
        ValueError
            If there is no epoch in the history, or another number of axes than of panels.
        """
        pyplot(type(self).__name__)
        if not self.history:
            raise ValueError(
                "history is empty: nothing was trained (max_epochs=0), and the linear probe is what was kept. "
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
        # Beside the panels there is room in a figure of one's own; within them lines run behind the legend.
        beside = {"loc": "upper left", "bbox_to_anchor": (1.005, 1.03), "frameon": False}
        placed = beside if ax is None else {"frameon": True, "framealpha": 0.85, "edgecolor": "none"}
        for each in axes:
            _shade(each, spans)
            if self.best_epoch_ is not None:
                each.axvline(self.best_epoch_, color=BEST, linestyle="--", linewidth=1.2, zorder=1)
            bare(each, grid="y")
            each.margins(y=0.1)  # a mark at the very edge would be cut in half
            each.legend(fontsize="small", **placed)
        for each in axes[:-1]:
            each.tick_params(labelbottom=False)
        axes[-1].set_xlabel("epoch")
        axes[-1].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes[-1].set_xlim(0.5, len(self.history) + 0.5)
        _name_stages(axes[0], spans)
        axes[0].set_title(self._title(), fontsize="medium", loc="left")
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
        if np.nanmax([train, valid]) > _WIDE * usual > 0:
            ax.set_yscale("log")
        ax.set_ylabel("loss")

    def _draw_scores(self, ax, spans: list[Span]) -> None:
        scores = self._column("valid_score")
        _broken_line(ax, spans, scores, color=COLOUR, marker="s", label="held out")
        _level(ax, self.probe_score)
        self._mark(ax, scores)
        ax.set_ylabel(self.score_name)

    def _draw_rates(self, ax, spans: list[Span]) -> None:
        """The head's, and of the blocks from the top, which is light, to the lowest, which is dark."""
        import matplotlib

        # The head comes first and the blocks from the top; the epoch with the most of them has them all.
        names = max((list(record["rates"]) for record in self.history), key=len)
        colours = ["black", *matplotlib.colormaps["viridis"](np.linspace(0.85, 0.0, max(1, len(names) - 1)))]
        spoken = set(names)
        if len(names) > _NAMED_RATES:
            spoken = {names[0], names[1], names[len(names) // 2], names[-1]}
        for name, colour in zip(names, colours, strict=False):
            rates = np.array([record["rates"].get(name, np.nan) for record in self.history], dtype=float)
            rates[rates <= 0] = np.nan  # some schedules end at zero, which a logarithmic axis has not
            _broken_line(ax, spans, rates, color=colour, marker=".", label=name if name in spoken else None)
        ax.set_yscale("log")
        ax.set_ylabel("learning rate")

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
    """Attempts in order; a stage that is tried as before once more is another round of it."""
    spans: list[Span] = []
    seen: Counter[tuple[str, int]] = Counter()
    numbered = enumerate(history, start=1)
    for _, records in groupby(numbered, key=lambda pair: tuple(pair[1].get(name) for name in _TOGETHER)):
        epochs, own = zip(*records, strict=True)
        stage, attempt = own[0]["stage"], own[0]["attempt"]
        seen[stage, attempt] += 1
        again = f", attempt {attempt}" if attempt > 1 else ""
        again += f", round {seen[stage, attempt]}" if seen[stage, attempt] > 1 else ""
        spans.append(Span(stage + again, epochs))
    return spans


def _best_epoch(history: Sequence[Mapping[str, Any]]) -> int | None:
    """The last epoch that was the best so far, from 1: what is better is kept, so none after it was."""
    return next((number for number in range(len(history), 0, -1) if history[number - 1]["best"]), None)


def _broken_line(ax, spans: list[Span], values: np.ndarray, *, color, marker: str, label: str | None) -> None:
    """A line over all epochs, broken between stages."""
    x, y = [], []
    for span in spans:
        x += [*span.epochs, np.nan]
        y += [*values[np.array(span.epochs) - 1], np.nan]
    ax.plot(x, y, color=color, marker=marker, markersize=4, linewidth=1.5, label=label, zorder=3)


def _level(ax, value: float | None) -> None:
    """What the linear probe has, over all epochs."""
    if value is not None and np.isfinite(value):
        ax.axhline(value, color="black", linestyle=":", linewidth=1.5, label=f"linear probe, {value:.3f}")


def _shade(ax, spans: list[Span]) -> None:
    for number, span in enumerate(spans):
        colour = GREY if number % 2 else "white"
        ax.axvspan(span.epochs[0] - 0.5, span.epochs[-1] + 0.5, color=colour, alpha=0.12, linewidth=0, zorder=0)


def _name_stages(ax, spans: list[Span]) -> None:
    """Names over the stages they belong to; slanted where one of them is wider than its stage."""
    inches = ax.figure.get_figwidth() * ax.get_position().width / sum(len(span.epochs) for span in spans)
    fits = all(len(span.name) <= _CHARACTERS_AN_INCH * inches * len(span.epochs) for span in spans)
    top = ax.secondary_xaxis("top")
    top.set_xticks([np.mean(span.epochs) for span in spans], [span.name for span in spans])
    top.tick_params(length=0, labelsize="small")
    top.spines["top"].set_visible(False)
    if not fits:
        top.tick_params(rotation=45)
        for label in top.get_xticklabels():
            label.set(ha="left", rotation_mode="anchor")
