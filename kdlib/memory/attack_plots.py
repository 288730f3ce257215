"""Figures of the memorization lab: tidy table in, figure out. Style and colours are `plots`'.

Drawn in notebooks 09 and 11 to 13.
"""

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.memory.scores import CHANCE
from kdlib.methods import LABELS
from kdlib.plots import COLOURS, MARKERS


def extraction(table: pd.DataFrame) -> Figure:
    """What comes out, by what the attacker has; one line per method, dotted for held-out rows.

    Args:
        table: of one size, see `scores.extraction`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for axes, attack in ((left, "given"), (right, "samples")):
        chosen = table[table["attack"] == attack]
        for (variant, split), part in chosen.groupby(["variant", "split"], sort=False):
            line = "-" if split == "member" else ":"
            look = {"color": COLOURS[variant], "marker": MARKERS[variant], "linestyle": line}
            label = LABELS[variant] if split == "member" else None
            error = [part["value"] - part["lo"], part["hi"] - part["value"]]
            axes.errorbar(part["at"], part["value"], yerr=error, capsize=2, label=label, **look)
    left.set(xlabel="share of the response that is given", ylabel="rows that come out (share)")
    left.set(ylim=(-0.02, 1.02))
    right.set(xscale="log", xlabel=f"samples, one right with a probability of {CHANCE:g}")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside right upper",
        frameon=False,
        title="member rows\n(dotted: held-out)",
    )
    return figure


def counterfactual(table: pd.DataFrame) -> Figure:
    """Memorized share of the same rows with and without having been trained on, per method.

    Args:
        table: see `halves.gains`.
    """
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    methods = [name for name in LABELS if name in set(table["variant"])]
    for place, variant in enumerate(methods):
        part = table[table["variant"] == variant].set_index("metric")
        for metric, face in (("hit_inside", COLOURS[variant]), ("hit_outside", "white")):
            row = part.loc[metric]
            error = [[row["value"] - row["lo"]], [row["hi"] - row["value"]]]
            look = {"color": COLOURS[variant], "marker": MARKERS[variant], "markersize": 9}
            axes.errorbar(row["value"], place, xerr=error, capsize=3, markerfacecolor=face, **look)
    axes.set_yticks(range(len(methods)), [LABELS[name] for name in methods])
    axes.set(ylim=(len(methods) - 0.5, -0.5), xlim=(-0.02, 1.02))
    axes.set(xlabel="memorized (share of the rows); filled: trained on, empty: left out")
    return figure


def roc(curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """ROC curves on two scales: all of it, and the corner of few false positives.

    Args:
        curves: false- and true-positive rates, see `membership.roc`, by variant.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    for variant, (false, true) in curves.items():
        left.plot(false, true, color=COLOURS[variant], label=LABELS[variant])
        right.step(false, true, where="post", color=COLOURS[variant])
    low = 0.5 / max(len(false) for false, _ in curves.values())
    for axes, scale in ((left, "linear"), (right, "log")):
        axes.plot([low, 1], [low, 1], ":", color="0.4")
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
    attacks = list(dict.fromkeys(table["score"]))
    methods = [name for name in LABELS if name in set(table["variant"])]
    columns = [("auc", 0.5, "AUC"), ("tpr_1pct", 0.01, "member rows found at 1% false positives")]
    columns = [one for one in columns if table[one[0]].notna().any()]  # the rate takes many rows
    figure, grid = plt.subplots(
        *(len(columns), len(attacks)),
        figsize=(2 + 1.5 * len(attacks), 0.5 + len(columns) * (0.7 + 0.22 * len(methods))),
        sharex="row",
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for line, (column, guess, title) in zip(grid, columns, strict=True):
        for axes, attack in zip(line, attacks, strict=True):
            axes.axvline(guess, color="0.4", linestyle=":")
            part = table[table["score"] == attack].set_index("variant")
            for place, method in enumerate(methods):
                if method in part.index:
                    _interval(axes, part.loc[method], column, place)
        line[len(attacks) // 2].set_xlabel(title)
    for axes, attack in zip(grid[0], attacks, strict=True):
        axes.set_title(fill(attack.replace("_", " "), 11), fontsize="medium")
    grid[0, 0].set(ylim=(len(methods) - 0.5, -0.5))
    grid[0, 0].set_yticks(range(len(methods)), [LABELS[name] for name in methods])
    return figure


def _interval(axes: Axes, row: pd.Series, column: str, place: int) -> None:
    error = [[row[column] - row[f"{column}_lo"]], [row[f"{column}_hi"] - row[column]]]
    look = {"color": COLOURS[row.name], "marker": MARKERS[row.name], "markersize": 6}
    axes.errorbar(row[column], place, xerr=np.maximum(error, 0), capsize=2, **look)


def membership_vs_memorization(points: pd.DataFrame, low: float, high: float) -> Figure:
    """AUC of the loss against memorized rows, one mark per method, with 95% intervals.

    Args:
        points: variant, memorized, memorized_lo, memorized_hi, auc, auc_lo, auc_hi, of one size and
            the teacher.
        low: the least AUC that was published for students; the band is drawn.
        high: the greatest.
    """
    figure, axes = plt.subplots(layout="constrained")
    axes.axhspan(low, high, color="0.93", zorder=0)
    axes.axhline(0.5, color="0.4", linestyle=":")
    for _, row in points.iterrows():
        x, y = row["memorized"], row["auc"]
        wide = [[x - row["memorized_lo"]], [row["memorized_hi"] - x]]
        high_low = [[y - row["auc_lo"]], [row["auc_hi"] - y]]
        variant = row["variant"]
        look = {"color": COLOURS[variant], "marker": MARKERS[variant], "markersize": 8}
        look |= {"capsize": 2, "linestyle": "", "label": LABELS[variant]}
        axes.errorbar(x, y, xerr=wide, yerr=high_low, **look)
    axes.set(xlabel="memorized member rows (share)", ylabel="membership: AUC of the loss")
    axes.set(xlim=(-0.03, None))
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def exposure(table: pd.DataFrame) -> Figure:
    """Exposure of canaries by how often they were planted, and the share that is extracted.

    Args:
        table: by variant and repetitions, see `exposure.by`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    methods = [name for name in LABELS if name in set(table["variant"])]
    for place, variant in enumerate(methods):
        part = table[table["variant"] == variant].sort_values("repetitions")
        x = part["repetitions"] * 1.05 ** (place - (len(methods) - 1) / 2)
        look = {"color": COLOURS[variant], "marker": MARKERS[variant], "capsize": 2}
        for axes, column in ((left, "exposure"), (right, "secret")):
            error = [
                (part[column] - part[f"{column}_lo"]).clip(lower=0),
                (part[f"{column}_hi"] - part[column]).clip(lower=0),
            ]
            axes.errorbar(x, part[column], yerr=error, label=LABELS[variant], **look)
    times = sorted(table["repetitions"].unique())
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(times, [str(t) for t in times])
        axes.set(xlabel="times shown in an epoch")
    for level in (table["chance"].iloc[0], table["most"].iloc[0]):
        left.axhline(level, color="0.4", linestyle=":")
    left.set(ylabel="exposure (bits)\ndotted: never planted, and most", ylim=(-0.2, None))
    right.set(ylabel="secrets written (share),\nthe words before them given", ylim=(-0.03, 1.03))
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return figure
