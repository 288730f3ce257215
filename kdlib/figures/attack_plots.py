"""Figures of attacks on a model: extraction, membership, canaries.

Drawn in notebooks 09, 10 and 13.
"""

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdlib.analysis.extraction import CHANCE
from kdlib.config.methods import label, ordered
from kdlib.figures import style


def extraction(table: pd.DataFrame) -> Figure:
    """What comes out, by what the attacker has; one line per method, dotted for held-out rows.

    Args:
        table: of one size, see `extraction.extraction`.
    """
    figure, [[left, right]] = style.panels(1, 2, 10, 4.2, sharey=True)
    for axes, attack in ((left, "given"), (right, "samples")):
        chosen = table[table["attack"] == attack]
        for (_, split), part in chosen.groupby(["method", "split"], sort=False):
            unlike = {} if split == "member" else {"linestyle": ":", "label": ""}
            style.intervals(axes, part["at"], part, **unlike)
    left.set(xlabel="share of the response that is given", ylabel="rows that come out (share)")
    right.set(xlabel=f"samples, one right with a probability of {CHANCE:g}", xscale="log")
    left.set(ylim=(-0.02, 1.02))
    style.outside(figure, left, "right upper", title="member rows\n(dotted: held-out)")
    return figure


def counterfactual(table: pd.DataFrame) -> Figure:
    """Memorized share of the same rows with and without having been trained on, per method.

    Args:
        table: see `counterfactual.gains`.
    """
    figure, [[axes]] = style.panels(1, 1, 7, 3.4)
    methods, metric = ordered(table["method"]), table["metric"]
    style.dots(axes, methods, table[metric == "hit_inside"], markersize=9)
    empty = {"markersize": 9, "markerfacecolor": "white"}
    style.dots(axes, methods, table[metric == "hit_outside"], **empty)
    axes.set(xlabel="memorized (share of the rows); filled: trained on, empty: left out")
    axes.set(xlim=(-0.02, 1.02))
    return figure


def roc(curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """ROC curves on two scales: all of it, and the corner of few false positives.

    Args:
        curves: false- and true-positive rates, see `roc.roc`, by method.
    """
    figure, [[left, right]] = style.panels(1, 2, 10, 4.4)
    low = 0.5 / max(len(false) for false, _ in curves.values())
    for axes, scale in ((left, "linear"), (right, "log")):
        for method, (false, true) in curves.items():
            colour, steps = style.look(method)["color"], "default" if axes is left else "steps-post"
            axes.plot(false, true, color=colour, label=label(method), drawstyle=steps)
        axes.plot([low, 1], [low, 1], **style.DOTTED)
        axes.set(xlabel="false positives (share of held-out rows)", xscale=scale, yscale=scale)
    left.set(ylabel="true positives (share of member rows)")
    right.set(xlim=(low, 1), ylim=(low, 1.1), title="the same, logarithmic")
    left.legend(loc="lower right", frameon=False)
    return figure


def membership(table: pd.DataFrame) -> Figure:
    """AUC, and hits at 1% false positives, by score and method, with 95% intervals.

    Args:
        table: of one size and the teacher, see `attacks.summary`; with fewer than 100 held-out
            rows there are no hits at 1% to be drawn.
    """
    scores, methods = list(dict.fromkeys(table["score"])), ordered(table["method"])
    columns = [("auc", 0.5, "AUC"), ("tpr_1pct", 0.01, "member rows found at 1% false positives")]
    columns = [one for one in columns if table[one[0]].notna().any()]
    wide, tall = 2 + 1.5 * len(scores), 0.5 + len(columns) * (0.7 + 0.22 * len(methods))
    shared = {"sharex": "row", "sharey": True}
    figure, grid = style.panels(len(columns), len(scores), wide, tall, **shared)
    for line, (column, guess, title) in zip(grid, columns, strict=True):
        for axes, score in zip(line, scores, strict=True):
            axes.axvline(guess, **style.DOTTED)
            part = table[table["score"] == score]
            style.dots(axes, methods, part, column, markersize=6, capsize=2)
        line[len(scores) // 2].set_xlabel(title)
    for axes, score in zip(grid[0], scores, strict=True):
        axes.set_title(fill(score.replace("_", " "), 11), fontsize="medium")
    return figure


def membership_vs_memorization(points: pd.DataFrame, low: float, high: float) -> Figure:
    """AUC of the loss against memorized rows, one mark per method, with 95% intervals.

    Args:
        points: method, memorized, auc and their intervals, of one size and the teacher.
        low: the least AUC that was published for students; the band is drawn.
        high: the greatest.
    """
    figure, [[axes]] = style.panels(1, 1)
    axes.axhspan(low, high, color="0.93", zorder=0)
    axes.axhline(0.5, **style.DOTTED)
    for _, row in points.iterrows():
        mark = {"markersize": 8, "linestyle": "", "capsize": 2}
        style.intervals(axes, row["auc"], row, "memorized", across=True, **mark, label="")
        style.intervals(axes, row["memorized"], row, "auc", **mark)
    axes.set(xlabel=style.MEMORIZED, ylabel="membership: AUC of the loss", xlim=(-0.03, None))
    style.beside(axes)
    return figure


def exposure(table: pd.DataFrame) -> Figure:
    """Exposure of canaries by how often they were planted, and the share that is extracted.

    Args:
        table: by method and repetitions, see `canary_exposure.by`.
    """
    figure, [[left, right]] = style.panels(1, 2, 10, 4.4)
    for axes, column in ((left, "exposure"), (right, "secret")):
        style.by_times(axes, table, "repetitions", column)
    for level in (table["chance"].iloc[0], table["most"].iloc[0]):
        left.axhline(level, **style.DOTTED)
    left.set(ylabel="exposure (bits)\ndotted: never planted, and most", ylim=(-0.2, None))
    right.set(ylabel="secrets written (share),\nthe words before them given", ylim=(-0.03, 1.03))
    style.outside(figure, left, ncols=5)
    return figure
