"""Figures of what teacher and students have in common: tidy table in, figure out.

Style and colours are `plots`'. Drawn in notebook 11_inheritance.
"""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kdlib.config import STUDENTS
from kdlib.methods import LABELS, METHODS
from kdlib.plots import COLOURS, MARKERS

_PALETTE = sns.color_palette("colorblind")
# region that the student has, the same without the student, colour, what it is
_PAIRS = (
    ("all three", "teacher and SFT", _PALETTE[0], "teacher and SFT student"),
    ("teacher and student", "teacher alone", _PALETTE[1], "teacher, not SFT student"),
    ("SFT and student", "SFT alone", _PALETTE[2], "SFT student, not teacher"),
    ("student alone", None, _PALETTE[4], "neither of the two"),
)
_NARROW = 0.035  # share of the axis below which a count has no room in its bar


def inheritance(regions: pd.DataFrame) -> Figure:
    """Rows by who else memorizes them: the student's to the right of 0, the others to the left.

    Args:
        regions: of all seeds together, see `inheritance.regions`.
    """
    regions = regions[regions["student"].isin(STUDENTS)]
    figure, panels, methods = _panels(regions, 1.1)
    counts = regions.set_index(["student", "variant", "metric"])["hits"].sort_index()
    right = regions["metric"].isin([pair[0] for pair in _PAIRS])
    keys = ["student", "variant"]
    ends = [max(1, regions[one].groupby(keys)["hits"].sum().max()) for one in (~right, right)]
    for axes, size in zip(panels, STUDENTS, strict=True):
        for place, method in enumerate(methods):
            own = counts[size, method]
            _bars(axes, place, own, [(pair[0], pair[2]) for pair in _PAIRS], 1, sum(ends))
            others = [(pair[1], sns.light_palette(pair[2], 3)[1]) for pair in _PAIRS if pair[1]]
            _bars(axes, place, own, others, -1, sum(ends))
        axes.axvline(0, color="0.2", linewidth=1)
        axes.set(xlim=(-1.04 * ends[0], 1.04 * ends[1]), ylabel=size)
        axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
    panels[-1].set(xlabel="rows not memorized by the student (pale)  |  memorized by it (full)")
    handles = [Patch(color=colour, label=label) for _, _, colour, label in _PAIRS]
    how: dict[str, Any] = {"loc": "outside lower center", "ncols": 2, "frameon": False}
    figure.legend(handles=handles, title="memorized by", **how)
    return figure


def _panels(table: pd.DataFrame, height: float) -> tuple[Figure, list[Axes], list[str]]:
    """One panel below the other for the sizes, one line in each for every distilled method."""
    methods = [name for name in METHODS if name in set(table["variant"])]
    tall = 1.3 + height + 3 * (0.25 + 0.3 * len(methods))
    figure, panels = plt.subplots(
        len(STUDENTS), 1, figsize=(8.4, tall), sharex=True, layout="constrained"
    )
    for axes in panels:
        axes.set_yticks(range(len(methods)), [LABELS[name] for name in methods])
        axes.set_ylim(len(methods) - 0.45, -0.55)
        axes.grid(axis="y", visible=False)
    return figure, list(panels), methods


def _bars(
    axes: Axes,
    place: int,
    counts: pd.Series,
    parts: list[tuple[str, tuple[float, ...]]],
    side: int,
    span: int,
) -> None:
    """One stacked bar from 0 to one side, with its counts where there is room."""
    start = 0
    for region, colour in parts:
        count = int(counts[region])
        look: dict[str, Any] = {"color": colour, "linewidth": 0, "height": 0.8, "zorder": 2}
        axes.barh(place, side * count, left=side * start, **look)
        if count >= _NARROW * span:
            middle = side * (start + count / 2)
            ink: dict[str, Any] = {"color": "white" if side > 0 else "0.15", "fontsize": 9}
            axes.text(middle, place, str(count), ha="center", va="center", **ink)
        start += count


def passed_on(shares: pd.DataFrame, chance: pd.DataFrame) -> Figure:
    """What comes down of the rows that the teacher memorizes and the SFT student does not.

    Args:
        shares: of all seeds together, see `inheritance.shares`.
        chance: of one null, see `chance.chance`.
    """
    figure, panels, methods = _panels(shares, 0.6)
    keys = ["student", "variant", "metric"]
    found, drawn = (one.set_index(keys).sort_index() for one in (shares, chance))
    for axes, size in zip(panels, STUDENTS, strict=True):
        for place, method in enumerate(methods):
            row, null = found.loc[(size, method, "passed_on")], drawn.loc[size, method, "passed_on"]
            width = null["hi"] - null["lo"]
            axes.barh(place, width, left=null["lo"], height=0.8, color="0.75", zorder=1)
            axes.plot([null["expected"]] * 2, [place - 0.4, place + 0.4], color="0.45", zorder=1)
            look = {"color": COLOURS[method], "marker": MARKERS[method], "zorder": 3}
            error = [[row["value"] - row["lo"]], [row["hi"] - row["value"]]]
            axes.errorbar(row["value"], place, xerr=error, capsize=3, markersize=8, **look)
            other = found.loc[(size, method, "neither"), "value"]
            axes.plot(other, place, "o", color="0.2", markerfacecolor="none", zorder=4)
        axes.set(ylabel=size)
    panels[-1].set(xlabel="memorized by the distilled student (share)", xlim=(-0.02, None))
    handles = [
        Line2D([], [], color="0.2", marker="s", label="of rows that only the teacher memorizes"),
        Patch(color="0.75", label="the same by chance (95%)"),
        Line2D([], [], color="0.2", marker="o", markerfacecolor="none", linestyle=""),
    ]
    handles[-1].set_label("of rows that neither memorizes")
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def handed_down(gaps: pd.DataFrame) -> Figure:
    """How much better a teacher that read rows makes its students know them, who did not.

    Args:
        gaps: nats per token, see `handed_down.gaps`.
    """
    methods = [name for name in METHODS if name in set(gaps["variant"])]
    figure, axes = plt.subplots(figsize=(7, 1.6 + 0.5 * len(methods)), layout="constrained")
    for kind, shift, fill in (("left_out", -0.13, True), ("held_out", 0.13, False)):
        rows = gaps[gaps["rows"] == kind].set_index("variant")
        for place, method in enumerate(methods):
            row = rows.loc[method]
            look = {"color": COLOURS[method], "marker": MARKERS[method], "markersize": 8}
            look |= {} if fill else {"markerfacecolor": "white"}
            error = [[row["hi"] - row["value"]], [row["value"] - row["lo"]]]
            axes.errorbar(-row["value"], place + shift, xerr=error, capsize=3, **look)
    axes.axvline(0, color="0.3", linestyle=":")
    axes.set_yticks(range(len(methods)), [LABELS[name] for name in methods])
    axes.set(ylim=(len(methods) - 0.5, -0.5))
    axes.set(xlabel="gained through the teacher of all rows (nats per token)")
    handles = [
        Line2D([], [], color="0.2", marker="s", label="rows that the teacher read"),
        Line2D([], [], color="0.2", marker="s", markerfacecolor="white", label="held-out rows"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure
