"""Words beside what they name: where lines end, a number beside its point, none over another."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from scipy.optimize import isotonic_regression

from kdlib.figures import style

SIZE = 9  # of the words, in points
TEXT_BOX: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}


class End(NamedTuple):
    """Where a line ends, what is written there, and the line's colour."""

    x: float
    y: float
    text: str
    colour: Any


def spread_apart(targets: Sequence[float], spacing: float, low: float = 0, high: float = 1) -> Any:
    """The positions nearest to `targets`, in their order, no two nearer than `spacing`.

    All from `low` to `high`, as long as there is room.
    """
    positions = np.array(targets, float)
    if len(positions):
        order, steps = np.argsort(positions, kind="stable"), spacing * np.arange(len(positions))
        fitted = isotonic_regression(positions[order] - steps).x
        positions[order] = np.clip(fitted, low, max(low, high - steps[-1])) + steps
    return positions


def text_colour(colour: Any) -> Any:
    """A colour of a line, dark enough for words on white."""
    factor = (0.18 / max(style.light(colour), 0.18)) ** (1 / 2.2)  # the contrast is 4.5 to 1
    return tuple(factor * channel for channel in to_rgb(colour))


def ends(axes: Axes, form: str = "") -> list[End]:
    """The last points of the lines of the axes that have a label, which is their text.

    With `form`, such as ".0%", their height so written stands behind it.
    """
    points = []
    for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
        line: Any = handle[0] if isinstance(handle, tuple) else handle  # with error bars
        x, y = (np.asarray(data, float) for data in line.get_data())
        if finite := np.flatnonzero(np.isfinite(x) & np.isfinite(y)).tolist():
            last = x[finite[-1]], y[finite[-1]]
            points.append(
                End(*last, f"{name} {last[1]:{form}}" if form else name, line.get_color())
            )
    return points


def unnamed(axes: Axes, dashes: str = ":", text: str = "held-out (dotted)") -> list[End]:
    """The highest end of the lines so dotted or dashed, named once for all of them, if any."""
    lines: list[Any] = [line for line in axes.lines if line.get_linestyle() == dashes]
    points = [line.get_xydata()[-1] for line in lines]
    return [End(x, y, text, "0.4") for x, y in sorted(points, key=lambda end: end[1])[-1:]]


def at_ends(axes: Axes, points: Iterable[End] | None = None, near: float = 0) -> None:
    """Each line's name right of the panel, as high as it ends, or as near as there is room.

    A thin line leads from the end to a name that does not stand beside it. An end in the left
    `near` of the panel (a share of it) has its name beside it within the panel. Call it when all
    is drawn: the limits stay as they are.
    """
    points = ends(axes) if points is None else list(points)
    positions, spacing = _places(axes, points)
    inside = positions[:, 0] < near
    for mask in (inside, ~inside):
        heights = spread_apart(positions[mask, 1], spacing)
        for i, height in zip(np.flatnonzero(mask), heights, strict=True):
            x, y = positions[i]
            text_x = x + 0.03 if x < near else 1.03
            _write(
                axes, points[i], (text_x, height), arrow=text_x - x > 0.05 or abs(y - height) > 0.01
            )


def _write(axes: Axes, end: End, position: tuple[float, float], arrow: bool) -> None:
    """The words of an end, where they are to stand."""
    options: dict[str, Any] = {"color": text_colour(end.colour), "fontsize": SIZE, "va": "center"}
    if arrow:
        arrowprops = {"arrowstyle": "-", "color": end.colour, "linewidth": 0.7}
        options["arrowprops"] = arrowprops | {"shrinkA": 1, "relpos": (0, 0.5)}
    if position[0] < 1:
        options["bbox"] = TEXT_BOX
    placement: dict[str, Any] = {"textcoords": "axes fraction", "annotation_clip": False}
    axes.annotate(end.text, (end.x, end.y), position, ha="left", **placement, **options)


def numbers(axes: Axes, points: Sequence[End]) -> None:
    """A number in a disc beside each point, no two over each other; their key is elsewhere."""
    positions, spacing = _places(axes, points)
    for point, x, height in zip(
        points, positions[:, 0], spread_apart(positions[:, 1], 1.35 * spacing), strict=True
    ):
        disc = {"boxstyle": "circle,pad=0.15", "facecolor": point.colour, "edgecolor": "white"}
        options: dict[str, Any] = {
            "color": "white",
            "fontsize": SIZE - 1,
            "bbox": disc,
            "zorder": 5,
        }
        options["arrowprops"] = {"arrowstyle": "-", "color": point.colour, "linewidth": 0.7}
        options |= {"ha": "center", "va": "center", "annotation_clip": False}
        position = (x + (0.07 if x < 0.5 else -0.07), height)
        axes.annotate(
            point.text, (point.x, point.y), position, textcoords="axes fraction", **options
        )


def _places(axes: Axes, points: Sequence[End]) -> tuple[Any, float]:
    """Points as shares of the panel, and the height of a line of words as a share of its height."""
    figure: Any = axes.figure
    figure.draw_without_rendering()  # the limits and the height that it will have
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    coordinates = np.reshape([(point.x, point.y) for point in points], (-1, 2))
    positions = axes.transAxes.inverted().transform(axes.transData.transform(coordinates))
    return positions, 1.3 * SIZE / 72 * figure.dpi / axes.get_window_extent().height


def note(axes: Axes, text: str) -> None:
    """The number that a figure is about, in the upper left of the panel."""
    options: dict[str, Any] = {
        "ha": "left",
        "va": "top",
        "color": "0.2",
        "bbox": TEXT_BOX,
        "zorder": 5,
    }
    axes.text(0.03, 0.97, text, transform=axes.transAxes, fontsize=SIZE, **options)


def beside(axes: Axes, point: Iterable[float], text: str) -> None:
    """The words of one point, right of it and a little above."""
    x, y = point
    options: dict[str, Any] = {"textcoords": "offset points", "ha": "left", "va": "bottom"}
    axes.annotate(text, (x, y), (9, 8), fontsize=SIZE, color="0.2", bbox=TEXT_BOX, **options)


def above(axes: Axes, point: tuple[float, float], text: str) -> None:
    """The words of one point, above its mark."""
    options: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "bottom"}
    axes.annotate(text, point, (0, 6), fontsize=SIZE, bbox=TEXT_BOX, **options)


def values(axes: Axes, positions: Any, heights: Any) -> None:
    """Each height beside its mark, to the right of it."""
    options: dict[str, Any] = {"textcoords": "offset points", "ha": "left", "va": "center"}
    options |= {"fontsize": SIZE - 1, "color": "0.2", "bbox": TEXT_BOX}
    for x, height in zip(positions, heights, strict=True):
        axes.annotate(f"{height:.2f}", (x, height), (9, 0), **options)


def right_of(axes: Axes, ends: Any, positions: Any, values: Any) -> None:
    """Each value right of where its interval ends; of positions those that the ends have."""
    for index, end in ends.items():
        options: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{values[index]:.1f}", (end, positions[index]), fontsize=SIZE - 1, **options)


def down(axes: Axes, texts: Iterable[tuple[float, str]]) -> None:
    """Numbers right of the panel, one for each of its lines: position and text."""
    for position, text in texts:
        options: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
        axes.text(1.015, position, text, fontsize=SIZE, color="0.2", **options)
