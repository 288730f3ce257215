"""What defences leave: on the plane, and by how closely students fit. For notebook 15_defences."""

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator

from kdlib.analysis.plane import BEFORE, MEASURES, front
from kdlib.config.defences import DEFENCES
from kdlib.config.methods import label
from kdlib.figures import labels, style

FIRST = next(iter(MEASURES))
MARKERS = "ovs^DP*X<>hd8"  # of a student without a defence, then of each defence
KINDS = ("0.15", "#0173b2", "#d55e00")  # colours of the kinds of students on the plane
COLOURS = {"SFT": "0.35", label("word_kd"): "#0173b2"}


def plane(points: pd.DataFrame, kinds: Mapping[str, str], ylabel: str = "useful") -> Figure:
    """Students of `analysis.plane.points` through training, a panel for each of its MEASURES.

    `kinds` says of each student to which kind it belongs. The front of a kind is a stair: what lies
    to its right and below is beaten. Who is on one, trained, in the first panel is drawn in colour
    and has a number where it is most useful on it; below the panels stands who it is. All others
    are grey.
    """
    figure, [panels] = style.panels(1, len(MEASURES), 14, 5, sharey=True, width_ratios=(2, 1, 1))
    fronts = _fronts(points, kinds)
    colours = dict(zip(dict.fromkeys(kinds.values()), KINDS, strict=False))
    on_front = pd.concat([part for (_, measure), part in fronts.items() if measure == FIRST])
    on_front = on_front[on_front["epoch"] > 0].drop_duplicates("method", keep="last")
    numbers = {method: str(number) for number, method in enumerate(on_front["method"], 1)}
    for axes, (measure, xlabel) in zip(panels, MEASURES.items(), strict=True):
        for method, path in points.sort_values("epoch").groupby("method"):
            highlight = {"color": colours[kinds[method]], "zorder": 2} if method in numbers else {}
            options: dict[str, Any] = {
                "color": "0.8",
                "linewidth": 0.9,
                "markersize": 3,
                "zorder": 1,
            }
            axes.plot(path[measure], path["useful"], ".-", **options | highlight)
        if measure != "membership":
            style.near_zero(axes)
            xlabel += style.ROOT
        axes.set(xlabel=fill(xlabel, 28), xlim=axes.get_xlim())
    _spread_the_top(panels[0], pd.concat(fronts.values())["useful"], points["useful"].min())
    for axes, measure in zip(panels, MEASURES, strict=True):
        for kind, colour in colours.items():
            _stair(axes, fronts[kind, measure], measure, color=colour, label=f"front: {kind}")
    ends = on_front[["method", FIRST, "useful"]].itertuples(index=False)
    labels.numbers(
        panels[0],
        [labels.End(x, y, numbers[method], colours[kinds[method]]) for method, x, y in ends],
    )
    panels[0].set(ylabel=f"{ylabel},\nspread out at the top")
    style.below(figure, panels[0], "upper center", ncols=len(colours))
    handles = [
        Line2D([], [], linestyle="", label=f"{numbers[method]}  {label(method)}")
        for method in numbers
    ]
    text_colours = [colours[kinds[method]] for method in numbers]
    return style.below(figure, handles, ncols=3, labelcolor=text_colours, handlelength=0)


def _fronts(points: pd.DataFrame, kinds: Mapping[str, str]) -> dict[tuple[str, str], pd.DataFrame]:
    """The front of each kind by each measure."""
    row_kinds = points["method"].map(kinds)
    pairs = [(kind, measure) for kind in dict.fromkeys(kinds.values()) for measure in MEASURES]
    return {(kind, measure): front(points[row_kinds == kind], measure) for kind, measure in pairs}


def _stair(axes: Axes, best: pd.DataFrame, measure: str, **kwargs: Any) -> None:
    """The edge of what a front beats, from the foot of the panel to its right side."""
    x = [*best[measure][:1], *best[measure], axes.get_xlim()[1]]
    y = [axes.get_ylim()[0], *best["useful"], *best["useful"][-1:]]
    axes.plot(x[: len(y)], y, drawstyle="steps-post", linewidth=2, zorder=3, **kwargs)


def _spread_the_top(axes: Axes, fronts: pd.Series, bottom: float) -> None:
    """Upwards on a scale that tells the fronts apart, with all the paths below them."""
    top, scale = fronts.max(), max(fronts.max() - fronts.min(), 1e-6) / 2
    functions = (
        lambda y: -np.arcsinh((top - y) / scale),
        lambda scaled: top + scale * np.sinh(scaled),
    )
    axes.set_yscale("function", functions=functions)
    ticks = {
        *MaxNLocator(4).tick_values(bottom, top),
        *MaxNLocator(4).tick_values(*fronts.agg(["min", "max"])),
    }
    axes.yaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.yaxis.set_major_formatter("{x:.2f}")
    axes.set(ylim=(bottom - 0.1 * (top - bottom), top + scale / 3))


def fitted(ends: pd.DataFrame, path: pd.DataFrame) -> Figure:
    """Each student of `plane.at_end` at its last epoch, and the way of SFT (`cause.memorized`).

    Left to right the rows are fitted more closely. Who lies on the line memorizes what SFT does
    where it fits them as closely; who lies below memorizes less: whose distance is greatest is
    named, with it (`lowest`). Filled: beside SFT; hollow: beside word-level KD; other methods by
    their names.
    """
    figure, [[axes]] = style.panels(1, 1, 9, 4.6)
    axes.plot(path["nats"], path["value"], color=style.look("sft")["color"], zorder=1)
    kd, markers = label("word_kd"), {name: MARKERS[i] for i, name in enumerate(_names())}
    legend: dict[str, str] = {}
    for row in ends.to_dict("records"):
        name = label(row["method"])
        distilled, defence = name.startswith(kd), name.removeprefix(f"{kd} + ")
        defence = "" if name in (kd, label("sft")) else defence.partition(",")[0]
        if defence not in markers:  # neither of the two, or before fine-tuning
            if name != BEFORE:
                axes.plot(row["nats"], row["value"], "x", color="0.15", markersize=8)
                position = (row["nats"], row["value"])
                text_options: dict[str, Any] = {"textcoords": "offset points", "fontsize": "small"}
                axes.annotate(name, position, (-8, 0), ha="right", va="center", **text_options)
            continue
        legend[defence] = markers[defence]
        mark: dict[str, Any] = {
            "marker": markers[defence],
            "color": COLOURS[kd if distilled else "SFT"],
        }
        mark["markerfacecolor"] = "none" if distilled else mark["color"]
        axes.plot(row["nats"], row["value"], linestyle="", markersize=8, **mark)
    axes.invert_xaxis()
    axes.set(xlabel="loss on the member rows at the end (nats per token)", ylabel=style.MEMORIZED)
    _least(axes, ends)
    axes.legend(handles=_key(legend), loc="upper left", fontsize="small")
    return figure


def on_fronts(points: pd.DataFrame, kinds: Mapping[str, str]) -> str:
    """Words: how far to the right the fronts of `plane` reach by each measure."""
    fronts, parts = _fronts(points, kinds), []
    for measure, title in MEASURES.items():
        furthest = max(
            best[measure].max()
            for (_, front_measure), best in fronts.items()
            if front_measure == measure
        )
        parts.append(
            f"{title.partition(' (')[0]}: {f'up to {furthest:.2g}' if furthest else 'all at 0'}"
        )
    return "; ".join(parts)


def lowest(ends: pd.DataFrame) -> str:
    """Words: who of the students of `fitted` lies lowest beside SFT, and of how many."""
    gaps = _lead(ends)
    text, note = f"{label(gaps.idxmin())}: {gaps.min():+.3f}", f"lowest of {len(gaps)}"
    return f"{text} to SFT at its loss ({note}, no interval)"


def _lead(ends: pd.DataFrame) -> pd.Series:
    """By student what it memorizes less SFT where that fits as closely, as far as known."""
    students = ends[~ends["method"].isin((BEFORE, "sft"))].set_index("method")
    return (students["value"] - students["sft_there"]).dropna()


def _least(axes: Axes, ends: pd.DataFrame) -> None:
    """How far the student that lies lowest beside SFT lies below it."""
    gaps = _lead(ends)
    if gaps.min() < 0:
        row = ends.set_index("method").loc[gaps.idxmin()]
        options: dict[str, Any] = {"fontsize": labels.SIZE, "color": "0.2", "ha": "right"}
        options["arrowprops"] = {"arrowstyle": "-", "color": "0.4", "linewidth": 0.7}
        position, text = (row["nats"], row["value"]), fill(lowest(ends), 34)
        axes.annotate(text, position, (0.72, 0.4), textcoords="axes fraction", **options)
        axes.vlines(row["nats"], row["value"], row["sft_there"], color="0.4", lw=1, zorder=1)


def _key(legend: Mapping[str, str]) -> list[Line2D]:
    """The legend of `fitted`: a mark for each defence that was seen."""
    kd, options = label("word_kd"), dict[str, Any](color="0.35", linestyle="")
    marks = [
        Line2D([], [], marker=legend[defence], label=defence or "no defence", **options)
        for defence in legend
    ]
    hollow = dict[str, Any](color=COLOURS[kd], marker="o", markerfacecolor="none", linestyle="")
    sft_path = Line2D([], [], color=style.look("sft")["color"], label="SFT on its way")
    return [sft_path, *marks, Line2D([], [], label=f"hollow: with {kd}", **hollow)]


def _names() -> list[str]:
    return ["", *(defence.label.partition(",")[0] for defence in DEFENCES.values())]
