"""Figures of what teacher and students have in common. For notebook 11_inheritance."""

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kdlib.analysis.rates import student_sizes
from kdlib.analysis.teacher_transfer import BEYOND
from kdlib.figures import labels, style

# region that the student has, the same without the student, colour, who memorizes it
PAIRS = (
    ("all three", "teacher and SFT", "#0173b2", "teacher and SFT student"),
    ("teacher and student", "teacher alone", "#de8f05", "teacher, not SFT student"),
    ("SFT and student", "SFT alone", "#029e73", "SFT student, not teacher"),
    ("student alone", None, "#cc78bc", "neither of the two"),
)
NARROW = 0.035  # share of the axis below which a count has no room in its bar


def _panels(table: pd.DataFrame, height: float) -> tuple[Figure, dict[str, Axes], list[str]]:
    """One panel below the other for the sizes, one line in each for every student's method."""
    sizes, methods = student_sizes(table), style.students(table)
    total_height = 1.3 + height + len(sizes) * (0.25 + 0.3 * len(methods))
    figure, panels = style.panels(len(sizes), 1, 8.4, total_height, sharex=True)
    for axes, size in zip(panels[:, 0], sizes, strict=True):
        style.names_down(axes, methods)
        axes.grid(axis="y", visible=False)
        axes.set(ylabel=size)
    return figure, dict(zip(sizes, panels[:, 0], strict=True)), methods


def inheritance(regions: pd.DataFrame) -> Figure:
    """Rows by who else memorizes them (`inheritance.regions` of all seeds): the student's right."""
    figure, panels, methods = _panels(regions, 1.1)
    counts = regions.pivot(index=["size", "method"], columns="metric", values="hits").astype(int)
    pale = {pair[1]: sns.light_palette(pair[2], 3)[1] for pair in PAIRS if pair[1]}
    sides = ((1, {pair[0]: pair[2] for pair in PAIRS}, "white"), (-1, pale, "0.15"))
    visible = counts.loc[[*panels]]
    left, right = (max(1, visible[[*parts]].sum(axis=1).max()) for _, parts, _ in sides[::-1])
    for size, axes in panels.items():
        for side, parts, ink in sides:
            start = 0
            for region, colour in parts.items():
                count = counts.loc[size].loc[methods, region].to_numpy()
                options: dict[str, Any] = {"left": side * start, "color": colour, "zorder": 2}
                bars = axes.barh(range(len(methods)), side * count, linewidth=0, **options)
                texts = [str(n) if n >= NARROW * (left + right) else "" for n in count]
                axes.bar_label(bars, texts, label_type="center", color=ink, fontsize=9)
                start = start + count
        axes.axvline(0, color="0.2", linewidth=1)
        axes.set_xlim(-1.04 * left, 1.04 * right)
        axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
    axes.set(xlabel="rows not memorized by the student (pale)  |  memorized by it (full)")
    handles = [Patch(color=colour, label=models) for _, _, colour, models in PAIRS]
    return style.below(figure, handles, ncols=2, title="memorized by")


def passed_on(shares: pd.DataFrame, chance: pd.DataFrame) -> Figure:
    """What comes down of rows that the teacher memorizes and the SFT student does not.

    `inheritance.shares` of all seeds together, `permutation_test.chance` of one null.
    """
    figure, panels, methods = _panels(shares, 0.6)
    tables = ((shares, "passed_on"), (shares, "neither"), (chance, "passed_on"))
    hollow: dict[str, Any] = {"marker": "o", "linestyle": "", "color": "0.2", "fillstyle": "none"}
    for size, axes in panels.items():
        parts = [
            table[(table["size"] == size) & (table["metric"] == metric)] for table, metric in tables
        ]
        parts = [part.set_index("method").reindex(methods).reset_index() for part in parts]
        passed, neither, null = parts
        axes.barh(null.index, null["hi"] - null["lo"], left=null["lo"], color="0.75", zorder=1)
        axes.vlines(null["expected"], null.index - 0.4, null.index + 0.4, color="0.45", zorder=1)
        style.dots(axes, methods, passed, markersize=8, zorder=3)
        axes.plot(neither["value"], neither.index, zorder=4, **hollow)
        pairs = zip(passed["value"], null["expected"], strict=True)
        texts = [f"{share:.0%} (by chance {expected:.0%})" for share, expected in pairs]
        labels.down(axes, [line for line in enumerate(texts) if "nan" not in line[1]])
    for axes in panels.values():  # their common limits are set when all is drawn
        style.near_zero(axes)
    axes.set(xlabel=f"memorized by the distilled student (share){style.ROOT}")
    handles = [
        Line2D([], [], color="0.2", marker="s", label="of rows that only the teacher memorizes"),
        Patch(color="0.75", label="the same by chance (95%)"),
        Line2D([], [], label="of rows that neither memorizes", **hollow),
    ]
    return style.below(figure, handles, ncols=2)


def teacher_transfer(gaps: pd.DataFrame) -> Figure:
    """Loss of rows that students never read, by teacher: `teacher_transfer.gaps`.

    Right of each line stands the filled mark less the empty one: what came through the teacher.
    """
    methods = style.students(gaps)
    figure, [[axes]] = style.panels(1, 1, 7, 1.6 + 0.5 * len(methods))
    for rows, shift, face in (("left_out", -0.13, "auto"), ("held_out", 0.13, "white")):
        part = gaps[gaps["rows"] == rows]
        style.dots(axes, methods, part, shift=shift, markerfacecolor=face)
    axes.axvline(0, **style.DOTTED)
    axes.set(xlabel="loss, taught by all rows less taught by half (nats per token)")
    beyond = gaps[gaps["rows"] == BEYOND].set_index("method")["value"]
    texts = [(methods.index(method), f"{beyond[method]:+.3f} nats") for method in beyond.index]
    labels.down(axes, texts)
    faces = (("rows that the teacher read", "0.2"), ("held-out rows", "white"))
    handles = [
        Line2D([], [], color="0.2", marker="s", mfc=face, label=name) for name, face in faces
    ]
    return style.below(figure, handles, ncols=2)
