"""Words beside what they name: where lines end, a number beside its point, none over another."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from scipy.optimize import isotonic_regression

from kdlib.figures import style

SIZE = 9  # of the words, in points
BEHIND: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}


class End(NamedTuple):
    """Where a line ends, what is written there, and the line's colour."""

    x: float
    y: float
    text: str
    colour: Any


def apart(wanted: Sequence[float], least: float, low: float = 0, high: float = 1) -> Any:
    """The places nearest to those wanted, in their order, no two nearer than `least`.

    All from `low` to `high`, as long as there is room.
    """
    placed = np.array(wanted, float)
    if len(placed):
        order, steps = np.argsort(placed, kind="stable"), least * np.arange(len(placed))
        free = isotonic_regression(placed[order] - steps).x
        placed[order] = np.clip(free, low, max(low, high - steps[-1])) + steps
    return placed


def ink(colour: Any) -> Any:
    """A colour of a line, dark enough for words on white."""
    share = (0.18 / max(style.light(colour), 0.18)) ** (1 / 2.2)  # the contrast is 4.5 to 1
    return tuple(share * one for one in to_rgb(colour))


def ends(axes: Axes, form: str = "") -> list[End]:
    """The last points of the lines of the axes that have a label, which is their text.

    With `form`, such as ".0%", their height so written stands behind it.
    """
    found = []
    for one, name in zip(*axes.get_legend_handles_labels(), strict=True):
        line: Any = one[0] if isinstance(one, tuple) else one  # with error bars
        x, y = (np.asarray(part, float) for part in line.get_data())
        if known := np.flatnonzero(np.isfinite(x) & np.isfinite(y)).tolist():
            at = x[known[-1]], y[known[-1]]
            found.append(End(*at, f"{name} {at[1]:{form}}" if form else name, line.get_color()))
    return found


def unnamed(axes: Axes, dashes: str = ":", text: str = "held-out (dotted)") -> list[End]:
    """The highest end of the lines so dotted or dashed, named once for all of them, if any."""
    lines: list[Any] = [one for one in axes.lines if one.get_linestyle() == dashes]
    last = [one.get_xydata()[-1] for one in lines]
    return [End(x, y, text, "0.4") for x, y in sorted(last, key=lambda end: end[1])[-1:]]


def at_ends(axes: Axes, named: Iterable[End] | None = None, near: float = 0) -> None:
    """Each line's name right of the panel, as high as it ends, or as near as there is room.

    A thin line leads from the end to a name that does not stand beside it. An end in the left
    `near` of the panel (a share of it) has its name beside it within the panel. Call it when all
    is drawn: the limits stay as they are.
    """
    named = ends(axes) if named is None else list(named)
    at, least = _places(axes, named)
    inside = at[:, 0] < near
    for here in (inside, ~inside):
        heights = apart(at[here, 1], least)
        for i, height in zip(np.flatnonzero(here), heights, strict=True):
            x, y = at[i]
            to = x + 0.03 if x < near else 1.03
            _write(axes, named[i], (to, height), leads=to - x > 0.05 or abs(y - height) > 0.01)


def _write(axes: Axes, one: End, to: tuple[float, float], leads: bool) -> None:
    """The words of an end, where they are to stand."""
    how: dict[str, Any] = {"color": ink(one.colour), "fontsize": SIZE, "va": "center"}
    if leads:
        line = {"arrowstyle": "-", "color": one.colour, "linewidth": 0.7}
        how["arrowprops"] = line | {"shrinkA": 1, "relpos": (0, 0.5)}
    if to[0] < 1:
        how["bbox"] = BEHIND
    where: dict[str, Any] = {"textcoords": "axes fraction", "annotation_clip": False}
    axes.annotate(one.text, (one.x, one.y), to, ha="left", **where, **how)


def numbers(axes: Axes, points: Sequence[End]) -> None:
    """A number in a disc beside each point, no two over each other; their key is elsewhere."""
    at, least = _places(axes, points)
    for one, x, height in zip(points, at[:, 0], apart(at[:, 1], 1.35 * least), strict=True):
        disc = {"boxstyle": "circle,pad=0.15", "facecolor": one.colour, "edgecolor": "white"}
        how: dict[str, Any] = {"color": "white", "fontsize": SIZE - 1, "bbox": disc, "zorder": 5}
        how["arrowprops"] = {"arrowstyle": "-", "color": one.colour, "linewidth": 0.7}
        how |= {"ha": "center", "va": "center", "annotation_clip": False}
        to = (x + (0.07 if x < 0.5 else -0.07), height)
        axes.annotate(one.text, (one.x, one.y), to, textcoords="axes fraction", **how)


def _places(axes: Axes, points: Sequence[End]) -> tuple[Any, float]:
    """Points as shares of the panel, and the height of a line of words as a share of its height."""
    figure: Any = axes.figure
    figure.draw_without_rendering()  # the limits and the height that it will have
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    places = np.reshape([(one.x, one.y) for one in points], (-1, 2))
    shown = axes.transAxes.inverted().transform(axes.transData.transform(places))
    return shown, 1.3 * SIZE / 72 * figure.dpi / axes.get_window_extent().height


def note(axes: Axes, text: str) -> None:
    """The number that a figure is about, in the upper left of the panel."""
    how: dict[str, Any] = {"ha": "left", "va": "top", "color": "0.2", "bbox": BEHIND, "zorder": 5}
    axes.text(0.03, 0.97, text, transform=axes.transAxes, fontsize=SIZE, **how)


def beside(axes: Axes, point: Iterable[float], text: str) -> None:
    """The words of one point, right of it and a little above."""
    x, y = point
    how: dict[str, Any] = {"textcoords": "offset points", "ha": "left", "va": "bottom"}
    axes.annotate(text, (x, y), (9, 8), fontsize=SIZE, color="0.2", bbox=BEHIND, **how)


def above(axes: Axes, point: tuple[float, float], text: str) -> None:
    """The words of one point, above its mark."""
    how: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "bottom"}
    axes.annotate(text, point, (0, 6), fontsize=SIZE, bbox=BEHIND, **how)


def values(axes: Axes, places: Any, heights: Any) -> None:
    """Each height beside its mark, to the right of it."""
    how: dict[str, Any] = {"textcoords": "offset points", "ha": "left", "va": "center"}
    how |= {"fontsize": SIZE - 1, "color": "0.2", "bbox": BEHIND}
    for place, height in zip(places, heights, strict=True):
        axes.annotate(f"{height:.2f}", (place, height), (9, 0), **how)


def right_of(axes: Axes, ends: Any, places: Any, values: Any) -> None:
    """Each value right of where its interval ends; of places those that the ends have."""
    for index, end in ends.items():
        at: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{values[index]:.1f}", (end, places[index]), fontsize=SIZE - 1, **at)


def down(axes: Axes, texts: Iterable[tuple[float, str]]) -> None:
    """Numbers right of the panel, one for each of its lines: place and text."""
    for place, text in texts:
        where: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
        axes.text(1.015, place, text, fontsize=SIZE, color="0.2", **where)
