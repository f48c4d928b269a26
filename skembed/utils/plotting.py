"""The only import of matplotlib, and the colors and habits that pictures share."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

__all__ = [
    "BEST",
    "COLOUR",
    "GREY",
    "bare",
    "class_style",
    "legend_label",
    "luminance",
    "panels",
    "plain_labels",
    "pyplot",
    "shorten",
    "shorten_middle",
    "shorten_start",
    "visible_name",
]

#: One hue for what was measured, another for the best, and gray for what was not: distinct in print and for
#: color-blind readers [1]_.
COLOUR, BEST, GREY = "#4477aa", "#cc6677", "#777777"
#: Classes: the muted scheme of [1]_, the hues that are easily taken for each other far apart, black
#: among them, and its palest last.
#:
#: .. [1] Tol (2021), Colour Schemes, SRON/EPS/TN/09-002.
_CLASSES = (
    "#332288", "#cc6677", "#117733", "#88ccee", "#882255", "#44aa99", "#aa4499", "#999933", "#000000", "#ddcc77",
)  # fmt: skip
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def pyplot(who: str) -> Any:
    """Return matplotlib.pyplot.

    Parameters
    ----------
    who : str
        Name of what needs it, for the error.

    Raises
    ------
    ImportError
        If matplotlib is not installed; says how to install it.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(f'{who} needs matplotlib: pip install "skembed[plot]"') from error
    return plt


def panels(
    who: str,
    ax: Any,
    shape: tuple[int, int],
    *,
    figsize: tuple[float, float],
    heights: Sequence[float] | None = None,
    widths: Sequence[float] | None = None,
    sharex: bool = False,
    sharey: bool = False,
) -> np.ndarray:
    """Return several axes: of a new figure, in the place of one, or the given ones.

    Parameters
    ----------
    who : str
        Name of what draws, for errors.
    ax : None, Axes, or sequence of Axes
        None makes a figure of `figsize` inches. A single one is hidden and its place divided.
    shape : (int, int)
        Rows and columns.
    heights, widths : sequence of float, optional
        Relative sizes of rows and columns.
    sharex, sharey : bool, default=False
        True if all panels that are made here have the same limits and show them once.

    Returns
    -------
    ndarray of Axes, one-dimensional

    Raises
    ------
    ValueError
        If the number of given axes differs from the number of panels.
    """
    plt = pyplot(who)
    n_axes = shape[0] * shape[1]
    if ax is not None and not hasattr(ax, "get_subplotspec"):
        given = np.array(ax, dtype=object).ravel()
        if len(given) != n_axes:
            raise ValueError(f"ax has {len(given)} axes, and {who} draws {n_axes}. Give that many, one, or None.")
        return given
    if ax is None:
        figure = plt.figure(figsize=figsize, layout="constrained")
        figure.get_layout_engine().set(wspace=0.03)
        grid = figure.add_gridspec(*shape, height_ratios=heights, width_ratios=widths)
    else:
        figure = ax.figure
        place = ax.get_subplotspec()
        if place is None:
            raise ValueError(f"ax was placed by hand, so {who} cannot divide it. Give axes of a grid, or None.")
        ax.set_axis_off()
        grid = place.subgridspec(*shape, height_ratios=heights, width_ratios=widths)
    return np.asarray(grid.subplots(sharex=sharex, sharey=sharey, squeeze=False)).ravel()


def bare(ax: Any, *, grid: str | None = None) -> None:
    """Remove the lines at the top and the right, and draw a grid."""
    ax.spines[["top", "right"]].set_visible(False)
    if grid is not None:
        ax.grid(axis=grid, alpha=0.3)
        ax.set_axisbelow(True)


def plain_labels(labels: Iterable[Any]) -> None:
    """Set labels that contain users' words, without math mode for dollar signs."""
    for label in labels:
        label.set_parse_math(False)


def class_style(number: int) -> tuple[str, str]:
    """Return color and marker of a class; 70 classes differ in at least one.

    Examples
    --------
    >>> class_style(0), class_style(1)
    (('#332288', 'o'), ('#cc6677', 's'))
    >>> len({class_style(i) for i in range(70)})
    70
    """
    return _CLASSES[number % len(_CLASSES)], _MARKERS[number % len(_MARKERS)]


def visible_name(name: Any) -> str:
    """Return a name as text, in quotes where it is empty or blank.

    Examples
    --------
    >>> visible_name("x"), visible_name("")
    ('x', '""')
    """
    text = str(name)
    return text if text.strip() else json.dumps(text)


def legend_label(name: str) -> str:
    """Return a label that a legend shows even if it begins with an underscore.

    Examples
    --------
    >>> legend_label("_x"), legend_label("x")
    (' _x', 'x')
    """
    return f" {name}" if name.startswith("_") else name


def luminance(colour: Any) -> float:
    """Return the relative luminance of a color, from 0 for black to 1 for white (WCAG 2).

    Examples
    --------
    >>> luminance((1.0, 1.0, 1.0)), luminance((0.0, 0.0, 0.0))
    (1.0, 0.0)
    """
    levels = np.asarray(colour, dtype=float)[:3]
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return float(np.round(linear @ (0.2126, 0.7152, 0.0722), 6))


def shorten(text: Any, width: int) -> str:
    """Return one line of at most `width` characters, cut between words if possible.

    Examples
    --------
    >>> shorten("a line\\n  and  another", 30), shorten("supercalifragilistic", 8), shorten("well over ten", 10)
    ('a line and another', 'superca…', 'well over…')
    """
    line = " ".join(str(text).split())
    if len(line) <= width:
        return line
    kept = textwrap.shorten(line, width, placeholder="…")
    return kept if len(kept) > width / 2 else f"{line[: width - 1].rstrip()}…"


def shorten_middle(name: Any, width: int) -> str:
    """Return the beginning and the end of a name, `width` characters in all.

    A name that is empty or blank stands in quotes, or nothing would be seen of it.

    Examples
    --------
    >>> shorten_middle("red-winged blackbird", 13), shorten_middle("robin", 13), shorten_middle(" ", 13)
    ('red-wi…ckbird', 'robin', '" "')
    """
    line = " ".join(str(name).split()) or visible_name(name)
    if len(line) <= width:
        return line
    tail = (width - 1) // 2
    return f"{line[: width - 1 - tail]}…{line[-tail:]}"


def shorten_start(text: Any, width: int) -> str:
    """Return the end of a text, such as a path, whose beginning says less.

    Examples
    --------
    >>> shorten_start("data/images/cats/0012.jpg", 16), shorten_start("cats/1.jpg", 16)
    ('…/cats/0012.jpg', 'cats/1.jpg')
    """
    line = str(text)
    if len(line) <= width:
        return line
    kept = line[-(width - 1) :]
    _, slash, rest = kept.partition("/")
    return f"…/{rest}" if slash and rest else f"…{kept}"
