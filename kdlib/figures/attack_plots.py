"""Figures of attacks: extraction, membership, canaries. For notebooks 09, 10 and 13."""

from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdlib.analysis.extraction import CHANCE
from kdlib.config.methods import label, ordered
from kdlib.figures import style


def extraction(table: pd.DataFrame) -> Figure:
    """What comes out, by what the attacker has (`extraction.extraction`, of one size)."""
    figure, [[left, right]] = style.panels(1, 2, 10, 4.2, sharey=True)
    for (attack, _, split), part in table.groupby(["attack", "method", "split"], sort=False):
        look: dict[str, Any] = {} if split == "member" else {"linestyle": ":", "label": ""}
        style.intervals(left if attack == "given" else right, part["at"], part, **look)
    left.set(xlabel="share of the response that is given", ylabel="rows that come out (share)")
    right.set(xlabel=f"samples, one right with a probability of {CHANCE:g}", xscale="log")
    left.set(ylim=(-0.02, 1.02))
    return style.below(figure, left, "right upper", title="member rows\n(dotted: held-out)")


def counterfactual(table: pd.DataFrame) -> Figure:
    """Memorized share of the same rows, trained on and left out (`counterfactual.gains`)."""
    figure, [[axes]] = style.panels(1, 1, 7, 3.4)
    for metric, face in (("hit_inside", "auto"), ("hit_outside", "white")):
        part = table[table["metric"] == metric]
        style.dots(axes, ordered(table["method"]), part, markersize=9, markerfacecolor=face)
    axes.set(xlabel="memorized (share of the rows); filled: trained on, empty: left out")
    axes.set(xlim=(-0.02, 1.02))
    return figure


def roc(curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """ROC curves by method (`roc.roc`): all of it, and the corner of few false positives."""
    figure, [[left, right]] = style.panels(1, 2, 10, 4.4)
    low = 0.5 / max(len(false) for false, _ in curves.values())
    for axes, scale, steps in ((left, "linear", "default"), (right, "log", "steps-post")):
        for method, curve in curves.items():
            colour = style.look(method)["color"]
            axes.plot(*curve, label=label(method), color=colour, drawstyle=steps)
        axes.plot([low, 1], [low, 1], **style.DOTTED)
        axes.set(xlabel="false positives (share of held-out rows)", xscale=scale, yscale=scale)
    left.set(ylabel="true positives (share of member rows)")
    right.set(xlim=(low, 1), ylim=(low, 1.1), title="the same, logarithmic")
    left.legend(loc="lower right", frameon=False)
    return figure


def membership(table: pd.DataFrame) -> Figure:
    """AUC and, with 100 held-out rows, hits at 1% false positives (`attacks.summary`, one size)."""
    scores, methods = list(dict.fromkeys(table["score"])), ordered(table["method"])
    columns = [("auc", 0.5, "AUC"), ("tpr_1pct", 0.01, "member rows found at 1% false positives")]
    columns = [one for one in columns if table[one[0]].notna().any()]
    size = (2 + 1.5 * len(scores), 0.5 + len(columns) * (0.7 + 0.22 * len(methods)))
    figure, grid = style.panels(len(columns), len(scores), *size, sharex="row", sharey=True)
    for line, (column, guess, title) in zip(grid, columns, strict=True):
        for axes, score in zip(line, scores, strict=True):
            axes.axvline(guess, **style.DOTTED)
            part = table[table["score"] == score]
            style.dots(axes, methods, part, column, markersize=6, capsize=2)
            if column == "auc":
                axes.set_title(fill(score.replace("_", " "), 11), fontsize="medium")
        line[len(scores) // 2].set_xlabel(title)
    return figure


def membership_vs_memorization(points: pd.DataFrame, low: float, high: float) -> Figure:
    """AUC of the loss (column auc) against memorized, by method; low to high was published."""
    figure, [[axes]] = style.panels(1, 1)
    axes.axhspan(low, high, color="0.93", zorder=0)
    axes.axhline(0.5, **style.DOTTED)
    mark: dict[str, Any] = {"markersize": 8, "linestyle": "", "capsize": 2}
    for _, row in points.iterrows():
        style.intervals(axes, row["auc"], row, "memorized", across=True, **mark, label="")
        style.intervals(axes, row["memorized"], row, "auc", **mark)
    axes.set(xlabel=style.MEMORIZED, ylabel="membership: AUC of the loss", xlim=(-0.03, None))
    return style.beside(axes)


def exposure(table: pd.DataFrame) -> Figure:
    """Exposure and extraction of canaries by how often they were planted (`canary_exposure.by`)."""
    figure, [[left, right]] = style.panels(1, 2, 10, 4.4)
    style.by_times(left, table, "repetitions", "exposure")
    style.by_times(right, table, "repetitions", "secret")
    for level in table[["chance", "most"]].iloc[0]:
        left.axhline(level, **style.DOTTED)
    left.set(ylabel="exposure (bits)\ndotted: never planted, and most", ylim=(-0.2, None))
    right.set(ylabel="secrets written (share),\nthe words before them given", ylim=(-0.03, 1.03))
    return style.below(figure, left, ncols=5)
