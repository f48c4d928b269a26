"""Raw samples in displays: small images, lines of text, and captions under the mouse."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from skembed.exceptions import DecodeError
from skembed.inputs import read_image
from skembed.utils.plotting import shorten, shorten_start

__all__ = ["describe_sample", "follow_mouse", "image_of", "is_image", "line_of", "spread_out"]

#: Pixels from a point at which the mouse is still over it.
_MOUSE_PIXELS = 10


def is_image(sample: Any) -> bool:
    """Return True if a raw sample is an array of the shape of an image, or Pillow reads it."""
    try:
        read_image(sample, at_least=(1, 1))
    except DecodeError:
        return False
    return True


def image_of(sample: Any, size: int, *, index: int) -> Image.Image:
    """Return a whole sample as an image of `size` x `size` pixels, on white.

    Raises
    ------
    DecodeError
        If the sample is not an image. The error names its index.
    """
    try:
        # Twice the size, which leaves the smoothing below something to do.
        image = read_image(sample, at_least=(2 * size, 2 * size))
    except DecodeError as error:
        raise DecodeError(
            f"this sample cannot be drawn as an image: {error.message}", index=index, path=error.path
        ) from error
    # Enlarged digits keep their pixels; photographs are made smaller smoothly.
    way = Image.Resampling.NEAREST if max(image.size) < size else Image.Resampling.BICUBIC
    return ImageOps.pad(image, (size, size), method=way, color=(255, 255, 255))


def _path_of(sample: Any) -> str | None:
    if isinstance(sample, dict):
        return sample.get("path")
    if isinstance(sample, os.PathLike):
        return os.fspath(sample)
    return getattr(sample, "filename", None) or None


def line_of(sample: Any, width: int, *, index: int) -> str:
    """Describe a sample in one line: its text, the end of its path, or its number."""
    if (path := _path_of(sample)) is not None:
        return shorten_start(path, width)
    return shorten(sample, width) if isinstance(sample, str) else f"sample {index}"


def describe_sample(sample: Any, width: int = 44, lines: int = 5) -> str:
    """Describe a sample in some lines; empty for an array.

    Examples
    --------
    >>> print(describe_sample("one two three four five six", width=12, lines=2))
    one two
    three four…
    """
    if (path := _path_of(sample)) is not None:
        return shorten_start(path, width)
    if not isinstance(sample, str):
        return ""
    return "\n".join(textwrap.wrap(sample, width, max_lines=lines, placeholder="…"))


def spread_out(points: np.ndarray, distance: float, most: int) -> list[int]:
    """Choose points that cover all points, with a smallest distance in one direction.

    Each next point is the farthest from the points chosen before, so a crowd gets no more points than fit there.

    Parameters
    ----------
    points : ndarray of shape (n_points, 2)
        Positions; those that are not finite are left out.
    distance : float
        Smallest distance, horizontal or vertical, whichever is larger.
    most : int
        Largest number of points.

    Returns
    -------
    list of int

    Examples
    --------
    >>> spread_out(np.array([[0.0, 0.0], [0.1, 0.0], [5.0, 0.0], [2.0, 0.0]]), 1.5, 10)
    [0, 2, 3]
    """
    places = np.flatnonzero(np.isfinite(points).all(axis=1))
    if not len(places) or most < 1:
        return []
    chosen = [int(places[0])]
    nearest = np.abs(points[places] - points[chosen[0]]).max(axis=1)
    while len(chosen) < most and nearest.max() >= distance:
        chosen.append(int(places[nearest.argmax()]))
        nearest = np.minimum(nearest, np.abs(points[places] - points[chosen[-1]]).max(axis=1))
    return chosen


def follow_mouse(ax: Any, points: np.ndarray, caption: Callable[[int], str]) -> None:
    """Show a caption at the point under the mouse, as long as the figure exists.

    Parameters
    ----------
    ax : matplotlib Axes
        Axes with the points.
    points : ndarray of shape (n_points, 2)
        Positions in the units of the data.
    caption : callable
        Function from the number of a point to its text.
    """
    note = ax.annotate(
        "", (0, 0), xytext=(12, 12), textcoords="offset points", fontsize="small", zorder=10, annotation_clip=False,
        parse_math=False,
        bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "#777777", "alpha": 0.95},
    )  # fmt: skip
    note.set_visible(False)
    note.set_in_layout(False)
    # A partial of a function, which the canvas holds on to; of a method it would keep a weak reference only.
    ax.figure.canvas.mpl_connect("motion_notify_event", partial(_show_caption, ax, note, points, caption))


def _show_caption(ax, note, points: np.ndarray, caption: Callable[[int], str], event) -> None:
    number = None
    if event.inaxes is ax:
        away = np.hypot(*(ax.transData.transform(points) - (event.x, event.y)).T)
        if np.isfinite(away).any() and np.nanmin(away) <= _MOUSE_PIXELS:
            number = int(np.nanargmin(away))
    if number is None and not note.get_visible():
        return
    note.set_visible(number is not None)
    if number is not None:
        x, y = ax.transAxes.inverted().transform((event.x, event.y))
        # Towards the middle, so that it stays inside of the figure.
        note.set_position((12 if x < 0.5 else -12, 12 if y < 0.5 else -12))
        note.set(ha="left" if x < 0.5 else "right", va="bottom" if y < 0.5 else "top")
        note.set_text(caption(number))
        note.xy = points[number]
    ax.figure.canvas.draw_idle()
