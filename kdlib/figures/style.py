"""The series' one style, and the drawing that its figures share. No statistics here.

A figure is a function in one of the *_plots modules: tidy table in (its docstring names what makes
it), figure out. Tables have columns method and size; a column `value` has its interval in `lo` and
`hi`, any other `x` in `x_lo` and `x_hi`. One colour (or shade) and marker stand for a method, one
line style for a size; methods stand in the order of the table of methods, sizes as they appear.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from kdlib.config.methods import METHODS, label, ordered

LINES = ("-", "--", ":", "-.")  # from the first size on
AREAS = (150, 110, 65, 30, 18)  # points squared: the teacher, then likewise
OTHERS = {"base": ("0.55", "P"), "teacher": ("0.15", "*")}
LOOKS = {name: (method.colour, method.marker) for name, method in METHODS.items()} | OTHERS
SHADES = (0, -0.45, 0.4)  # of methods with one colour, in their order: below 0 darker, else paler
SPARE = [(colour, marker) for colour in ("#949494", "#fbafe4", "#ece133") for marker in "8H"]
MEMORIZED = "memorized member rows (share)"
NONE_MEMORIZED = "likeliest is the true token (share)\n(memorized: 0 at every time)"
NEAR_ONE = 60  # the greater, the further `near_one` spreads what lies near 1
ROOT = ", square-root scale"  # see `near_zero`
DOTTED: dict[str, Any] = {"color": "0.4", "linestyle": ":"}  # what a number is held against


def look(method: str) -> dict[str, Any]:
    """Colour and marker of a method, the same throughout; one that a profile adds has a spare."""
    spare = SPARE[zlib.crc32(method.encode()) % len(SPARE)]
    colour, marker = LOOKS.get(method, spare)
    return {"color": _shade(method, colour), "marker": marker}


def _shade(method: str, colour: str) -> str:
    """The colour, or a shade of it for a method that is not the first to have it."""
    same_colour = [name for name in METHODS if METHODS[name].colour == colour]
    amount = SHADES[same_colour.index(method) % len(SHADES)] if method in same_colour else 0
    if not amount:
        return colour
    amount = -amount if light(colour) < 0.1 else amount  # of a dark one the paler first
    red, green, blue = (1 - abs(amount)) * np.array(to_rgb(colour)) + max(amount, 0)
    return to_hex((red, green, blue))


def light(colour: Any) -> float:
    """The luminance of a colour, from 0 to 1 (white)."""
    red, green, blue = to_rgb(colour)
    return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2


def of_size(values: Sequence[Any], size: str, sizes: Sequence[str]) -> Any:
    """What a size looks like: the first value for the first size (or an unknown one), and so on."""
    index = list(sizes).index(size) if size in sizes else 0
    return values[min(index, len(values) - 1)]


def style() -> None:
    """The series' one style; call it before drawing."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update({"figure.dpi": 100, "savefig.dpi": 150, "figure.labelsize": "medium"})


def panels(rows: int, columns: int, width: float = 7, height: float = 4.4, **kwargs: Any) -> Any:
    """A figure of this many inches, and its panels as an array (rows, columns)."""
    kwargs |= {"figsize": (width, height), "squeeze": False, "layout": "constrained"}
    return plt.subplots(rows, columns, **kwargs)


def beside(axes: Any, **kwargs: Any) -> Any:
    """The figure, with the legend to the right of its single panel."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, **kwargs)
    return axes.figure


def below(figure: Figure, source: Any, location: str = "lower center", **kwargs: Any) -> Figure:
    """The figure, with a legend below (or at `location`) of a panel's labels, or of handles."""
    kwargs["handles"] = (
        source.get_legend_handles_labels()[0] if isinstance(source, Axes) else source
    )
    figure.legend(**{"loc": f"outside {location}", "frameon": False} | kwargs)
    return figure


def students(table: pd.DataFrame) -> list[str]:
    """The methods of the students in a table, in order: without base and teacher."""
    return [name for name in ordered(table["method"]) if name not in OTHERS]


def intervals(
    axes: Axes,
    positions: Any,
    table: Any,
    column: str = "value",
    across: bool = False,
    **kwargs: Any,
) -> None:
    """Values with intervals of one method, upwards or `across`, at positions on the other axis."""
    bounds = ("lo", "hi") if column == "value" else (f"{column}_lo", f"{column}_hi")
    value, lo, hi = (np.atleast_1d(table[name]).astype(float) for name in (column, *bounds))
    if "method" in table:
        method = np.atleast_1d(table["method"])[0]
        kwargs = look(method) | {"label": label(method)} | kwargs
    x, y, error = (value, positions, "xerr") if across else (positions, value, "yerr")
    bars: dict[str, Any] = {error: np.maximum([value - lo, hi - value], 0), "capsize": 3}
    axes.errorbar(x, y, **bars | kwargs)


def grouped(
    axes: Axes, table: pd.DataFrame, names: list[Any], by: str, column: str = "value", **kwargs: Any
) -> None:
    """A line of the panel for each name in column `by`, from above, its methods side by side."""
    positions = side_by_side(table, names, by)
    for method in ordered(table["method"]):
        mask = table["method"] == method
        options = {"linestyle": ""} | kwargs
        intervals(axes, positions[mask], table[mask], column, across=True, **options)


def side_by_side(table: pd.DataFrame, names: list[Any], by: str) -> Any:
    """Where `grouped` draws each line of the table."""
    methods = ordered(table["method"])
    shift = 0.7 * ((table["method"].map(methods.index) + 0.5) / len(methods) - 0.5)
    return table[by].map(names.index) + shift


def near_zero(axes: Axes) -> None:
    """Shares across on a square-root scale, which tells small ones apart; after all is drawn."""
    functions = (lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * np.square(x))
    axes.set_xscale("function", functions=functions)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.01, 0.1, 0.25, 0.5, 0.75, 1]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlim=(-0.002, None))


def near_one(axes: Axes) -> None:
    """AUCs across on a scale that tells those near 1 apart; after all is drawn."""
    functions = (lambda x: -np.arcsinh(NEAR_ONE * (1 - x)), lambda x: 1 + np.sinh(x) / NEAR_ONE)
    axes.set_xscale("function", functions=functions)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.5, 0.8, 0.9, 0.97, 0.99, 1]))
    axes.xaxis.set_major_formatter("{x:g}")


def names_down(axes: Axes, names: Sequence[str]) -> None:
    """One line of the panel for each name, from above; methods by their label."""
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def dots(
    axes: Axes,
    methods: list[str],
    table: Any,
    column: str = "value",
    shift: float = 0,
    **kwargs: Any,
) -> None:
    """One line of the panel for each method, from above: the value of its line in the table."""
    for _, row in table[table["method"].isin(methods)].iterrows():
        position = methods.index(row["method"]) + shift
        intervals(axes, position, row, column, across=True, **{"markersize": 7} | kwargs)
    names_down(axes, methods)


def by_times(axes: Axes, table: pd.DataFrame, times: str, column: str = "value") -> None:
    """A line for each method over how often an epoch shows a row, marks side by side."""
    methods, ticks = ordered(table["method"]), sorted(table[times].unique())
    for method in methods:
        part = table[table["method"] == method].sort_values(times)
        shift = 1.04 ** (methods.index(method) - (len(methods) - 1) / 2)
        intervals(axes, part[times] * shift, part, column)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set(xlabel="times shown in an epoch")
