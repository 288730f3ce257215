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


def plane(points: pd.DataFrame, kinds: Mapping[str, str], useful: str = "useful") -> Figure:
    """Students of `analysis.plane.points` through training, a panel for each of its MEASURES.

    `kinds` says of each student to which kind it belongs. The front of a kind is a stair: what lies
    to its right and below is beaten. Who is on one, trained, in the first panel is drawn in colour
    and has a number where it is most useful on it; below the panels stands who it is. All others
    are grey.
    """
    figure, [panels] = style.panels(1, len(MEASURES), 14, 5, sharey=True, width_ratios=(2, 1, 1))
    fronts = _fronts(points, kinds)
    colours = dict(zip(dict.fromkeys(kinds.values()), KINDS, strict=False))
    on = pd.concat([one for (_, measure), one in fronts.items() if measure == FIRST])
    on = on[on["epoch"] > 0].drop_duplicates("method", keep="last")
    named = {name: str(place) for place, name in enumerate(on["method"], 1)}
    for axes, (measure, words) in zip(panels, MEASURES.items(), strict=True):
        for method, path in points.sort_values("epoch").groupby("method"):
            own = {"color": colours[kinds[method]], "zorder": 2} if method in named else {}
            how: dict[str, Any] = {"color": "0.8", "linewidth": 0.9, "markersize": 3, "zorder": 1}
            axes.plot(path[measure], path["useful"], ".-", **how | own)
        if measure != "membership":
            style.near_zero(axes)
            words += style.ROOT
        axes.set(xlabel=fill(words, 28), xlim=axes.get_xlim())
    _spread_the_top(panels[0], pd.concat(fronts.values())["useful"], points["useful"].min())
    for axes, measure in zip(panels, MEASURES, strict=True):
        for kind, colour in colours.items():
            _stair(axes, fronts[kind, measure], measure, color=colour, label=f"front: {kind}")
    at = on[["method", FIRST, "useful"]].itertuples(index=False)
    labels.numbers(
        panels[0], [labels.End(x, y, named[who], colours[kinds[who]]) for who, x, y in at]
    )
    panels[0].set(ylabel=f"{useful},\nspread out at the top")
    style.below(figure, panels[0], "upper center", ncols=len(colours))
    handles = [Line2D([], [], linestyle="", label=f"{named[one]}  {label(one)}") for one in named]
    inks = [colours[kinds[one]] for one in named]
    return style.below(figure, handles, ncols=3, labelcolor=inks, handlelength=0)


def _fronts(points: pd.DataFrame, kinds: Mapping[str, str]) -> dict[tuple[str, str], pd.DataFrame]:
    """The front of each kind by each measure."""
    of = points["method"].map(kinds)
    every = [(kind, measure) for kind in dict.fromkeys(kinds.values()) for measure in MEASURES]
    return {(kind, measure): front(points[of == kind], measure) for kind, measure in every}


def _stair(axes: Axes, best: pd.DataFrame, measure: str, **how: Any) -> None:
    """The edge of what a front beats, from the foot of the panel to its right side."""
    across = [*best[measure][:1], *best[measure], axes.get_xlim()[1]]
    up = [axes.get_ylim()[0], *best["useful"], *best["useful"][-1:]]
    axes.plot(across[: len(up)], up, drawstyle="steps-post", linewidth=2, zorder=3, **how)


def _spread_the_top(axes: Axes, fronts: pd.Series, least: float) -> None:
    """Upwards on a scale that tells the fronts apart, with all the paths below them."""
    top, reach = fronts.max(), max(fronts.max() - fronts.min(), 1e-6) / 2
    both = (
        lambda up: -np.arcsinh((top - up) / reach),
        lambda shown: top + reach * np.sinh(shown),
    )
    axes.set_yscale("function", functions=both)
    ticks = {
        *MaxNLocator(4).tick_values(least, top),
        *MaxNLocator(4).tick_values(*fronts.agg(["min", "max"])),
    }
    axes.yaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.yaxis.set_major_formatter("{x:.2f}")
    axes.set(ylim=(least - 0.1 * (top - least), top + reach / 3))


def fitted(ends: pd.DataFrame, path: pd.DataFrame) -> Figure:
    """Each student of `plane.at_end` at its last epoch, and the way of SFT (`cause.memorized`).

    Left to right the rows are fitted more closely. Who lies on the line memorizes what SFT does
    where it fits them as closely; who lies below memorizes less: whose distance is greatest is
    named, with it (`lowest`). Filled: beside SFT; hollow: beside word-level KD; other methods by
    their names.
    """
    figure, [[axes]] = style.panels(1, 1, 9, 4.6)
    axes.plot(path["nats"], path["value"], color=style.look("sft")["color"], zorder=1)
    kd, shapes = label("word_kd"), {name: MARKERS[place] for place, name in enumerate(_names())}
    seen: dict[str, str] = {}
    for line in ends.to_dict("records"):
        name = label(line["method"])
        taught, own = name.startswith(kd), name.removeprefix(f"{kd} + ")
        own = "" if name in (kd, label("sft")) else own.partition(",")[0]
        if own not in shapes:  # neither of the two, or before fine-tuning
            if name != BEFORE:
                axes.plot(line["nats"], line["value"], "x", color="0.15", markersize=8)
                at = (line["nats"], line["value"])
                beside: dict[str, Any] = {"textcoords": "offset points", "fontsize": "small"}
                axes.annotate(name, at, (-8, 0), ha="right", va="center", **beside)
            continue
        seen[own] = shapes[own]
        look: dict[str, Any] = {"marker": shapes[own], "color": COLOURS[kd if taught else "SFT"]}
        look["markerfacecolor"] = "none" if taught else look["color"]
        axes.plot(line["nats"], line["value"], linestyle="", markersize=8, **look)
    axes.invert_xaxis()
    axes.set(xlabel="loss on the member rows at the end (nats per token)", ylabel=style.MEMORIZED)
    _least(axes, ends)
    axes.legend(handles=_key(seen), loc="upper left", fontsize="small")
    return figure


def on_fronts(points: pd.DataFrame, kinds: Mapping[str, str]) -> str:
    """Words: how far to the right the fronts of `plane` reach by each measure."""
    fronts, said = _fronts(points, kinds), []
    for measure, words in MEASURES.items():
        most = max(best[measure].max() for (_, by), best in fronts.items() if by == measure)
        said.append(f"{words.partition(' (')[0]}: {f'up to {most:.2g}' if most else 'all at 0'}")
    return "; ".join(said)


def lowest(ends: pd.DataFrame) -> str:
    """Words: who of the students of `fitted` lies lowest beside SFT, and of how many."""
    below = _lead(ends)
    least, chosen = f"{label(below.idxmin())}: {below.min():+.3f}", f"lowest of {len(below)}"
    return f"{least} to SFT at its loss ({chosen}, no interval)"


def _lead(ends: pd.DataFrame) -> pd.Series:
    """By student what it memorizes less SFT where that fits as closely, as far as known."""
    others = ends[~ends["method"].isin((BEFORE, "sft"))].set_index("method")
    return (others["value"] - others["sft_there"]).dropna()


def _least(axes: Axes, ends: pd.DataFrame) -> None:
    """How far the student that lies lowest beside SFT lies below it."""
    below = _lead(ends)
    if below.min() < 0:
        line = ends.set_index("method").loc[below.idxmin()]
        how: dict[str, Any] = {"fontsize": labels.SIZE, "color": "0.2", "ha": "right"}
        how["arrowprops"] = {"arrowstyle": "-", "color": "0.4", "linewidth": 0.7}
        at, text = (line["nats"], line["value"]), fill(lowest(ends), 34)
        axes.annotate(text, at, (0.72, 0.4), textcoords="axes fraction", **how)
        axes.vlines(line["nats"], line["value"], line["sft_there"], color="0.4", lw=1, zorder=1)


def _key(seen: Mapping[str, str]) -> list[Line2D]:
    """The legend of `fitted`: a mark for each defence that was seen."""
    kd, plain = label("word_kd"), dict[str, Any](color="0.35", linestyle="")
    marks = [Line2D([], [], marker=seen[one], label=one or "no defence", **plain) for one in seen]
    hollow = dict[str, Any](color=COLOURS[kd], marker="o", markerfacecolor="none", linestyle="")
    way = Line2D([], [], color=style.look("sft")["color"], label="SFT on its way")
    return [way, *marks, Line2D([], [], label=f"hollow: with {kd}", **hollow)]


def _names() -> list[str]:
    return ["", *(one.label.partition(",")[0] for one in DEFENCES.values())]
