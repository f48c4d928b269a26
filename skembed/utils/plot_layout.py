"""Room for the texts of a picture: cells of the grid, shortened texts, and axes that fit."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = [
    "SEPARATOR",
    "cell_size",
    "fit_label",
    "fit_parts",
    "font_points",
    "keep_inside",
    "row_points",
    "shorten_to",
    "text_inches",
    "wrap_to",
]

#: Between parts of a text that are facts of their own.
SEPARATOR = " · "
#: Distance in points between texts and the border of a cell, and between panels.
_PAD = 4.0
#: Smallest part of a cell that the axes themselves take, in each direction.
_MIN_SHARE = 0.15
#: Sizes of texts barely change with the axes, so that a few passes settle the layout.
_PASSES = 4


def cell_size(ax: Any) -> tuple[float, float]:
    """Return the width and height in inches of the cell of axes, half of the gaps included.

    Axes that were placed by hand have their own size.
    """
    place = ax.get_subplotspec()
    left, bottom, right, top = ax.get_position().extents if place is None else _cell(place, ax.figure)
    width, height = ax.figure.bbox.size / ax.figure.dpi
    return (right - left) * width, (top - bottom) * height


def _cell(place: Any, figure: Any) -> tuple[float, float, float, float]:
    """Return left, bottom, right and top of a cell, as shares of the figure."""
    grid = place.get_gridspec()
    bottoms, tops, lefts, rights = grid.get_grid_positions(figure)
    parent = getattr(grid, "_subplot_spec", None)
    outer = (0.0, 0.0, 1.0, 1.0) if parent is None else _cell(parent, figure)
    (row, last_row), (column, last_column) = ((span.start, span.stop - 1) for span in (place.rowspan, place.colspan))
    return (
        outer[0] if column == 0 else (rights[column - 1] + lefts[column]) / 2,
        outer[1] if last_row == grid.nrows - 1 else (bottoms[last_row] + tops[last_row + 1]) / 2,
        outer[2] if last_column == grid.ncols - 1 else (rights[last_column] + lefts[last_column + 1]) / 2,
        outer[3] if row == 0 else (bottoms[row - 1] + tops[row]) / 2,
    )


def font_points(size: str | float) -> float:
    """Return the size of a font in points, from a name such as "small" or a number."""
    from matplotlib.font_manager import FontProperties

    return float(FontProperties(size=size).get_size_in_points())


@lru_cache(maxsize=4096)
def text_inches(text: str, points: float, weight: str = "normal") -> float:
    """Return the width of the widest line of a text in inches, without math mode."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=points, weight=weight)
    with warnings.catch_warnings():
        # The text that is drawn warns about glyphs that the font lacks.
        warnings.simplefilter("ignore")
        widths = [text_to_path.get_text_width_height_descent(line, font, False)[0] for line in text.split("\n")]
    return max(widths) / 72


def shorten_to(text: Any, inches: float, points: float, cut: Callable[[str, int], str], weight: str = "normal") -> str:
    """Return a text shortened to a width by a function of the number of characters.

    At least four characters remain.
    """
    line, n_characters = str(text), len(str(text))
    while n_characters > 4 and text_inches(line, points, weight) > inches:
        n_characters -= 1
        line = cut(str(text), n_characters)
    return line


def wrap_to(text: str, inches: float, points: float) -> str:
    """Return a text in as few lines as fit into a width; words stay whole."""
    lines = [text]
    for n_lines in range(1, 1 + len(text.split())):
        lines = textwrap.wrap(text, -(-len(text) // n_lines) + 3 * (n_lines > 1), break_long_words=False)
        if text_inches("\n".join(lines), points) <= inches:
            break
    return "\n".join(lines)


def fit_label(text: str, inches: float, n_lines: int = 2) -> tuple[str, float]:
    """Return a label in a limited number of lines, and its font size of at least 5 points."""
    for points in np.linspace(font_points("medium"), 5.0, 6):
        label = wrap_to(text, inches, points)
        if label.count("\n") < n_lines and text_inches(label, points) <= inches:
            break
    return label, float(points)


def fit_parts(
    rows: Sequence[Sequence[str]], inches: float, row_inches: float, largest: float, cut: Callable[[str, int], str]
) -> tuple[list[str], float]:
    """Return texts broken between their parts to fit in rows, and their font size.

    Parameters
    ----------
    rows : sequence of sequence of str
        Parts of each text.
    inches, row_inches : float
        Width and height that each text may take.
    largest : float
        Size in points where there is room; it goes down to 5 before texts are cut.
    cut : callable
        Shortens a text to a number of characters.
    """
    for points in np.linspace(largest, 5.0, 8):
        n_lines = max(1, int(72 * row_inches / (1.25 * points)))
        blocks = [_break_parts(parts, inches, float(points)) for parts in rows]
        if all(len(block) <= n_lines and text_inches("\n".join(block), points) <= inches for block in blocks):
            break
    kept = [[*block[: n_lines - 1], SEPARATOR.join(block[n_lines - 1 :])] for block in blocks]
    return ["\n".join(shorten_to(line, inches, points, cut) for line in block if line) for block in kept], float(points)


def _break_parts(parts: Sequence[str], inches: float, points: float) -> list[str]:
    lines = [parts[0]]
    for part in parts[1:]:
        joined = lines[-1] + SEPARATOR + part
        lines = [*lines[:-1], joined] if text_inches(joined, points) <= inches else [*lines, part]
    return lines


def keep_inside(axes: Iterable[Any]) -> None:
    """Make axes smaller until their texts, legends and color bars stay inside of their cells.

    Does nothing in a figure with a layout engine, such as "constrained", which makes room itself, and to axes that
    were placed by hand. Axes that fill a grid share its room: their texts may not reach each other.

    Parameters
    ----------
    axes : iterable of Axes
        Finished axes of one display.
    """
    for group in _groups(axes):
        if not _has_engine(group[0].figure) and group[0].get_subplotspec() is not None:
            keeper = _Keeper(group)
            keeper.arrange([ax.get_position(original=True) for ax in group])
            for ax in group:
                ax.set_axes_locator(_Locator(ax, keeper))


class _Keeper:
    """Axes of one display, which are arranged again when their grid or figure changes."""

    def __init__(self, axes: list[Any]):
        self.axes = axes
        self.state: list[Any] = []

    def arrange(self, slots: list[Any]) -> None:
        """Make the axes smaller than these places where their texts need it."""
        pixels = np.array([_pixels(self.axes[0].figure, slot.get_points()) for slot in slots])
        for _ in range(_PASSES):
            _arrange(self.axes, pixels)
        self.state = self._now()

    def update(self) -> None:
        """Arrange axes again after a change, unless a user or a layout engine has moved them."""
        figure = self.axes[0].figure
        by_hand = not all(ax.get_in_layout() for ax in self.axes)
        if by_hand or _has_engine(figure) or self._now() == self.state:
            return
        slots = [ax.get_subplotspec().get_position(figure) for ax in self.axes]
        for ax, slot in zip(self.axes, slots, strict=True):
            _place(ax, slot.bounds)
        self.arrange(slots)

    def _now(self) -> list[Any]:
        figure = self.axes[0].figure
        return [tuple(figure.bbox.size), figure.dpi, *(ax.get_position(original=True).bounds for ax in self.axes)]


class _Locator:
    """Locator of axes, which matplotlib calls whenever it draws or measures them."""

    def __init__(self, ax: Any, keeper: _Keeper):
        self.ax = ax
        self.keeper = keeper

    def __call__(self, ax: Any, renderer: Any) -> Any:
        self.keeper.update()
        return ax.get_position(original=True)

    def get_subplotspec(self) -> Any:
        """Return the cell, for which `tight_layout` asks."""
        return self.ax.get_subplotspec()


def _place(ax: Any, bounds: tuple[float, ...]) -> None:
    ax.set_position(bounds)
    # set_position takes axes out of the layout, where a layout engine that is set later must find them.
    ax.set_in_layout(True)


def _has_engine(figure: Any) -> bool:
    from matplotlib.layout_engine import PlaceHolderLayoutEngine

    engine = figure.get_layout_engine()
    return engine is not None and not isinstance(engine, PlaceHolderLayoutEngine)


def _groups(axes: Iterable[Any]) -> list[list[Any]]:
    """Return groups of axes that fill a grid together, and each other one alone."""
    by_grid: dict[int, list[Any]] = {}
    for ax in axes:
        place = ax.get_subplotspec()
        by_grid.setdefault(id(place.get_gridspec() if place is not None else ax), []).append(ax)
    groups = []
    for group in by_grid.values():
        place = group[0].get_subplotspec()
        whole = place is not None and len(group) == np.prod(place.get_gridspec().get_geometry())
        groups += [group] if whole else [[ax] for ax in group]
    return groups


def _pixels(figure: Any, corners: Any) -> np.ndarray:
    """Left, bottom, right and top in pixels of a rectangle in shares of the figure."""
    return np.ravel(figure.transSubfigure.transform(np.reshape(corners, (2, 2))))


def _arrange(group: list[Any], slots: np.ndarray) -> None:
    """Move axes within their first slots so that their texts have room."""
    figure, places = group[0].figure, [ax.get_subplotspec() for ax in group]
    cells = np.array([_pixels(figure, _cell(place, figure)) for place in places])
    if getattr(places[0].get_gridspec(), "_subplot_spec", None) is not None:
        # Panels in the place of one axes need all of its cell.
        slots = cells
    margins = np.array([_margins(ax) for ax in group])
    grid, pad = places[0].get_gridspec(), _PAD * figure.dpi / 72
    new = np.empty((len(group), 4))
    for low, spans, ratios in (
        (0, [place.colspan for place in places], grid.get_width_ratios()),
        # Rows count from the top; turned around, both directions are alike.
        (1, [_upward(place.rowspan, grid.nrows) for place in places], grid.get_height_ratios()[::-1]),
    ):
        ends = [low, low + 2]
        new[:, ends] = _spread(cells[:, ends] + (pad, -pad), slots[:, ends], margins[:, ends], spans, ratios, pad)
    for ax, corners in zip(group, new, strict=True):
        x0, y0, x1, y1 = figure.transSubfigure.inverted().transform(corners.reshape(2, 2)).ravel()
        _place(ax, (x0, y0, x1 - x0, y1 - y0))


def _upward(rows: range, n_rows: int) -> range:
    return range(n_rows - rows.stop, n_rows - rows.start)


def _margins(ax: Any) -> np.ndarray:
    """Pixels that texts reach over the axes at the left, the bottom, the right and the top."""
    tight, slot = (
        ax.get_tightbbox(call_axes_locator=False),
        _pixels(ax.figure, ax.get_position(original=True).get_points()),
    )
    return np.zeros(4) if tight is None else np.maximum(0, (slot - tight.extents) * (1, 1, -1, -1))


def _spread(cells, slots, margins, spans: list[range], ratios, gap: float) -> np.ndarray:
    """Begin and end of each of the axes in one direction, with margins between them.

    Parameters
    ----------
    cells, slots, margins : ndarray of shape (n_axes, 2)
        Borders of the cells, the axes as they are, and what texts need before and after them, in pixels.
    spans : list of range
        Columns, or rows from the bottom, of each of the axes.
    ratios : sequence of float
        Relative sizes of all columns or rows of the grid.
    gap : float
        Pixels between neighbors.
    """
    used = sorted({span.start for span in spans})
    sizes = np.array([sum(ratios[i] for i in next(span for span in spans if span.start == start)) for start in used])
    number = np.array([used.index(span.start) for span in spans])
    before, after = (np.array([margins[number == i, end].max() for i in range(len(used))]) for end in (0, 1))
    begin = max(slots[:, 0].min(), cells[:, 0].min() + before[0])
    end = min(slots[:, 1].max(), cells[:, 1].max() - after[-1])
    smallest = _MIN_SHARE * (cells[:, 1].max() - cells[:, 0].min())
    inner = max(end - begin - (before[1:] + after[:-1] + gap).sum(), smallest)
    sizes = inner * sizes / sizes.sum()
    begins = begin + np.concatenate([[0.0], np.cumsum(sizes[:-1] + after[:-1] + before[1:] + gap)])
    return np.column_stack([begins, begins + sizes])[number]


def row_points(inches: float, n_rows: int, largest: str | float = "medium") -> float:
    """Size in points of texts that stand in rows of equal height without touching; at least 4."""
    return float(np.clip(0.75 * 72 * inches / max(n_rows, 1), 4.0, font_points(largest)))
