"""Figures of which rows stay, and of predicting it. For notebook 12_what_stays."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib.analysis.attributes import ATTRIBUTES
from kdlib.analysis.rates import student_sizes
from kdlib.config.methods import label, ordered
from kdlib.figures import labels, style


def odds_ratios(table: pd.DataFrame) -> Figure:
    """Odds of being memorized per standard deviation (fitted lines of `regression.odds`).

    An odds ratio whose interval leaves out 1 has its number beside it.
    """
    names, methods = list(dict.fromkeys(table["attribute"])), ordered(table["method"])
    sizes = student_sizes(table)
    figsize = (3.2 + 2.4 * len(sizes), 1.6 + 0.6 * len(names))
    figure, [panels] = style.panels(1, len(sizes), *figsize, sharex=True, sharey=True)
    for axes, size in zip(panels, sizes, strict=True):
        part = table[table["size"] == size]
        style.grouped(axes, part, names, "attribute")
        significant = part[(part["lo"] > 1) | (part["hi"] < 1)]
        labels.right_of(
            axes,
            significant["hi"],
            style.side_by_side(part, names, "attribute"),
            significant["value"],
        )
        axes.axvline(1, **style.DOTTED, zorder=0)
        axes.set(xscale="log", title=size)
        axes.set_xticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "1", "2", "4"])
        axes.minorticks_off()
    style.names_down(panels[0], [ATTRIBUTES[name] for name in names])
    figure.supxlabel("odds ratio per standard deviation (right: stays more often)")
    handles = [
        Line2D([], [], label=label(method), linestyle="", **style.look(method))
        for method in methods
    ]
    return style.below(figure, handles, "upper center", ncols=len(methods))


def forecast(scores: pd.DataFrame, bins: pd.DataFrame) -> Figure:
    """PR-AUC of predictors (test: in words; `forecast.score`), and one's `forecast.calibration`."""
    figure, [[left, right]] = style.panels(1, 2, 11, 4.2, width_ratios=[1.4, 1])
    positions = range(len(scores))
    style.intervals(left, positions, scores, "pr_auc", across=True, color="0.2", fmt="o")
    left.plot(scores["base_rate"], positions, "|", color="0.4", markersize=16, markeredgewidth=2)
    style.names_down(left, list(scores["test"]))
    left.set(xlabel="PR-AUC (upright bar: base rate)", xlim=(0, 1))
    labels.down(left, zip(positions, scores["pr_auc"].map("{:.2f}".format), strict=True))
    right.plot([0, 1], [0, 1], **style.DOTTED)
    style.intervals(right, bins["predicted"], bins, color="0.2", fmt="o-")
    right.set(xlabel="predicted probability", ylabel="memorized (share of the bin)")
    right.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    return figure


def onion(table: pd.DataFrame) -> Figure:
    """Memorized share before and after a removal (`forecast.onion`); thin lines: several seeds."""
    figure, [panels] = style.panels(1, 2, 9, 4, sharey=True)
    titles = {"predicted": "predicted rows removed", "random": "random rows removed"}
    for axes, (removal, title) in zip(panels, titles.items(), strict=True):
        for part, colour, marker in (("removed", "#d55e00", "o"), ("kept", "#0173b2", "s")):
            rows = table[(table["left_out"] == removal) & (table["part"] == part)]
            if len(rows):
                shares = rows[["before", "after"]].div(rows["n"], axis=0).to_numpy().T
                if len(rows) > 1:
                    axes.plot(shares, color=colour, alpha=0.35, linewidth=1)
                n, before, after = rows[["n", "before", "after"]].sum()
                name = f"{part} rows: {before} to {after} of {n}"
                axes.plot([before / n, after / n], marker, ls="-", c=colour, lw=2.5, label=name)
                axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
        axes.set_xticks([0, 1], ["before", "after"])
        axes.set(title=title, xlim=(-0.25, 1.25), ylim=(-0.03, 1.03))
    panels[0].set(ylabel="memorized (share)")
    return figure
