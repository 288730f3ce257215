"""Figures of which rows stay, and of telling it beforehand: tidy table in, figure out.

Drawn in notebook 12_what_stays.
"""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from kdlib.memory.features import ATTRIBUTES
from kdlib.methods import LABELS
from kdlib.plots import COLOURS, MARKERS


def odds_ratios(table: pd.DataFrame) -> Figure:
    """Odds ratio of being memorized per standard deviation of each attribute; one panel per size.

    Args:
        table: the fitted lines of `effects.odds`; at least one.
    """
    names = list(dict.fromkeys(table["attribute"]))
    sizes, methods = list(dict.fromkeys(table["student"])), list(dict.fromkeys(table["variant"]))
    figure, panels = plt.subplots(
        *(1, len(sizes)),
        figsize=(3.2 + 2.4 * len(sizes), 1.6 + 0.6 * len(names)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    shown = {}
    for axes, size in zip(panels[0], sizes, strict=True):
        for variant, part in table[table["student"] == size].groupby("variant", sort=False):
            shift = 0.16 * (methods.index(variant) - (len(methods) - 1) / 2)
            places = [names.index(name) + shift for name in part["attribute"]]
            error = [part["value"] - part["lo"], part["hi"] - part["value"]]
            look = {"color": COLOURS[variant], "marker": MARKERS[variant], "linestyle": ""}
            label = LABELS[variant]
            shown[label] = axes.errorbar(part["value"], places, xerr=error, capsize=2, **look)
        axes.axvline(1, color="0.4", linestyle=":", zorder=0)
        axes.set(xscale="log", title=size, ylim=(len(names) - 0.5, -0.5))
        axes.set_xticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "1", "2", "4"], minor=False)
        axes.minorticks_off()
    panels[0][0].set_yticks(range(len(names)), [ATTRIBUTES[name] for name in names])
    figure.supxlabel("odds ratio per standard deviation (right: stays more often)", fontsize=12)
    figure.legend(
        shown.values(), shown, loc="outside upper center", ncols=len(shown), frameon=False
    )
    return figure


def told_beforehand(scores: pd.DataFrame, bins: pd.DataFrame) -> Figure:
    """PR-AUC of each predictor beside its base rate, and one predictor's calibration.

    Args:
        scores: test (in words), pr_auc, pr_auc_lo, pr_auc_hi, base_rate.
        bins: see `forecast.calibration`.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.2), width_ratios=[1.4, 1], layout="constrained"
    )
    places = range(len(scores))
    error = [scores["pr_auc"] - scores["pr_auc_lo"], scores["pr_auc_hi"] - scores["pr_auc"]]
    look = {"color": "0.2", "capsize": 3}
    left.errorbar(scores["pr_auc"], places, xerr=error, fmt="o", **look)
    left.plot(scores["base_rate"], places, "|", color="0.4", markersize=16, markeredgewidth=2)
    left.set_yticks(places, scores["test"])
    left.set(xlabel="PR-AUC (upright bar: base rate)", xlim=(0, 1))
    left.set(ylim=(len(scores) - 0.5, -0.5))
    error = [(bins["value"] - bins["lo"]).clip(0), (bins["hi"] - bins["value"]).clip(0)]
    right.plot([0, 1], [0, 1], ":", color="0.4")
    right.errorbar(bins["told"], bins["value"], yerr=error, fmt="o-", **look)
    right.set(xlabel="predicted probability", ylabel="memorized (share of the bin)")
    right.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    return figure


def onion(table: pd.DataFrame) -> Figure:
    """Memorized share of removed and kept rows, before and after; one thin line per seed.

    Args:
        table: seed, left_out ("predicted", "random"), and the columns of `forecast.onion`.
    """
    figure, panels = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    looks = {"removed": ("#d55e00", "o"), "kept": ("#0072b2", "s")}
    titles = {"predicted": "predicted rows removed", "random": "as many random rows removed"}
    for axes, (which, title) in zip(panels, titles.items(), strict=True):
        for part, (colour, marker) in looks.items():
            own = table[(table["left_out"] == which) & (table["part"] == part)]
            if not len(own):
                continue
            for _, row in own.iterrows():
                share = [row["before"] / row["n"], row["after"] / row["n"]]
                axes.plot([0, 1], share, color=colour, alpha=0.35, linewidth=1)
            total = own[["n", "before", "after"]].sum()
            share = [total["before"] / total["n"], total["after"] / total["n"]]
            label = f"{part} rows: {total['before']} to {total['after']} of {total['n']}"
            axes.plot([0, 1], share, marker=marker, color=colour, linewidth=2.5, label=label)
        axes.set_xticks([0, 1], ["before", "after"])
        axes.set(title=title, xlim=(-0.25, 1.25), ylim=(-0.03, 1.03))
        axes.legend(loc="upper center", frameon=False)
    panels[0].set(ylabel="memorized (share)")
    return figure
