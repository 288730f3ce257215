"""Figures of what teacher and students have in common.

Drawn in notebook 11_inheritance.
"""

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kdlib.analysis.rates import student_sizes
from kdlib.figures import style

# region that the student has, the same without the student, colour, what it is
PAIRS = (
    ("all three", "teacher and SFT", "#0173b2", "teacher and SFT student"),
    ("teacher and student", "teacher alone", "#de8f05", "teacher, not SFT student"),
    ("SFT and student", "SFT alone", "#029e73", "SFT student, not teacher"),
    ("student alone", None, "#cc78bc", "neither of the two"),
)
NARROW = 0.035  # share of the axis below which a count has no room in its bar


def _panels(table: pd.DataFrame, height: float) -> tuple[Figure, dict[str, Any], list[str]]:
    """One panel below the other for the sizes, one line in each for every student's method."""
    sizes, methods = student_sizes(table), style.students(table)
    tall = 1.3 + height + len(sizes) * (0.25 + 0.3 * len(methods))
    figure, panels = style.panels(len(sizes), 1, 8.4, tall, sharex=True)
    for axes, size in zip(panels[:, 0], sizes, strict=True):
        style.names_down(axes, methods)
        axes.grid(axis="y", visible=False)
        axes.set(ylabel=size)
    return figure, dict(zip(sizes, panels[:, 0], strict=True)), methods


def inheritance(regions: pd.DataFrame) -> Figure:
    """Rows by who else memorizes them: the student's to the right of 0, the others to the left.

    Args:
        regions: of all seeds together, see `inheritance.regions`.
    """
    figure, panels, methods = _panels(regions, 1.1)
    counts = regions.pivot(index=["size", "method"], columns="metric", values="hits").loc[
        list(panels)
    ]
    sides = {
        1: {pair[0]: (pair[2], "white") for pair in PAIRS},
        -1: {pair[1]: (sns.light_palette(pair[2], 3)[1], "0.15") for pair in PAIRS if pair[1]},
    }
    ends = {side: max(1, counts[[*parts]].sum(axis=1).max()) for side, parts in sides.items()}
    for size, axes in panels.items():
        for side, parts in sides.items():
            start = 0
            for region, (colour, ink) in parts.items():
                count = counts.loc[size].loc[methods, region].astype(int).to_numpy()
                look = {"color": colour, "linewidth": 0, "zorder": 2}
                bars = axes.barh(range(len(methods)), side * count, left=side * start, **look)
                texts = [str(one) if one >= NARROW * sum(ends.values()) else "" for one in count]
                axes.bar_label(bars, texts, label_type="center", color=ink, fontsize=9)
                start = start + count
        axes.axvline(0, color="0.2", linewidth=1)
        axes.set_xlim(-1.04 * ends[-1], 1.04 * ends[1])
        axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
    axes.set(xlabel="rows not memorized by the student (pale)  |  memorized by it (full)")
    handles = [Patch(color=colour, label=who) for _, _, colour, who in PAIRS]
    style.outside(figure, handles, ncols=2, title="memorized by")
    return figure


def passed_on(shares: pd.DataFrame, chance: pd.DataFrame) -> Figure:
    """What comes down of the rows that the teacher memorizes and the SFT student does not.

    Args:
        shares: of all seeds together, see `inheritance.shares`.
        chance: of one null, see `permutation_test.chance`.
    """
    figure, panels, methods = _panels(shares, 0.6)
    places = pd.Series(range(len(methods)), methods)
    for size, axes in panels.items():
        passed, neither, null = (
            table[(table["size"] == size) & (table["metric"] == metric)]
            for table, metric in ((shares, "passed_on"), (shares, "neither"), (chance, "passed_on"))
        )
        lines = places[null["method"]]
        axes.barh(lines, null["hi"] - null["lo"], left=null["lo"], color="0.75", zorder=1)
        axes.vlines(null["expected"], lines - 0.4, lines + 0.4, color="0.45", zorder=1)
        style.dots(axes, methods, passed, markersize=8, zorder=3)
        hollow = {"color": "0.2", "markerfacecolor": "none", "zorder": 4}
        axes.plot(neither["value"], places[neither["method"]], "o", **hollow)
    axes.set(xlabel="memorized by the distilled student (share)", xlim=(-0.02, None))
    hollow |= {"marker": "o", "linestyle": "", "label": "of rows that neither memorizes"}
    handles = [
        Line2D([], [], color="0.2", marker="s", label="of rows that only the teacher memorizes"),
        Patch(color="0.75", label="the same by chance (95%)"),
        Line2D([], [], **hollow),
    ]
    style.outside(figure, handles, ncols=2)
    return figure


def teacher_transfer(gaps: pd.DataFrame) -> Figure:
    """How much better a teacher that read rows makes its students know them, who did not.

    Args:
        gaps: nats per token, see `teacher_transfer.gaps`.
    """
    methods = style.students(gaps)
    figure, [[axes]] = style.panels(1, 1, 7, 1.6 + 0.5 * len(methods))
    gained = gaps.assign(value=-gaps["value"], lo=-gaps["hi"], hi=-gaps["lo"])
    handles = []
    for rows, shift, face, named in (
        ("left_out", -0.13, {}, "rows that the teacher read"),
        ("held_out", 0.13, {"markerfacecolor": "white"}, "held-out rows"),
    ):
        style.dots(axes, methods, gained[gained["rows"] == rows], shift=shift, markersize=8, **face)
        handles.append(Line2D([], [], color="0.2", marker="s", label=named, **face))
    axes.axvline(0, **style.DOTTED)
    axes.set(xlabel="gained through the teacher of all rows (nats per token)")
    style.outside(figure, handles, ncols=2)
    return figure
