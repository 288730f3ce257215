"""Figures of attacks: extraction, membership, canaries. For notebooks 09, 10 and 13."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from kdlib.analysis.extraction import CHANCE
from kdlib.config.methods import label, ordered
from kdlib.figures import labels, style


def extraction(table: pd.DataFrame) -> Figure:
    """What comes out, by what the attacker has (`extraction.extraction`, of one size)."""
    figure, [[left, right]] = style.panels(1, 2, 10.5, 4.2, sharey=True)
    methods = ordered(table["method"])
    for (attack, method, split), part in table.groupby(["attack", "method", "split"], sort=False):
        options: dict[str, Any] = {} if split == "member" else {"linestyle": ":", "label": ""}
        offset = methods.index(method) - (len(methods) - 1) / 2  # so that bars stand side by side
        if attack == "given":
            style.intervals(left, part["at"] + 0.008 * offset, part, **options)
        else:
            style.intervals(right, part["at"] * 1.1**offset, part, **options)
    left.set(xlabel="share of the response that is given", ylabel="rows that come out (share)")
    right.set(
        xlabel=f"samples drawn\n(at least one right: {CHANCE:.0%} likely, or more)", xscale="log"
    )
    left.set(ylim=(-0.02, 1.02))
    for axes in (left, right):
        labels.at_ends(axes, [*labels.ends(axes, ".2f"), *labels.unnamed(axes)])
    return figure


def counterfactual(table: pd.DataFrame) -> Figure:
    """Memorized share of the same rows, trained on and left out (`counterfactual.gains`)."""
    figure, [[axes]] = style.panels(1, 1, 7, 3.4)
    for metric, face in (("hit_inside", "auto"), ("hit_outside", "white")):
        part = table[table["metric"] == metric]
        shift = 0.13 if face == "white" else -0.13  # both may be 0
        options: dict[str, Any] = {"markersize": 9, "markerfacecolor": face}
        style.dots(axes, ordered(table["method"]), part, shift=shift, **options)
    axes.set(xlabel="memorized (share of the rows); filled: trained on, empty: left out")
    axes.set(xlim=(-0.02, 1.02))
    return figure


def roc(curves: pd.DataFrame) -> Figure:
    """ROC curves by method (`roc.roc`, of one seed): all, and the corner of few false positives."""
    figure, [[left, right]] = style.panels(1, 2, 10, 4.4)
    low = curves["false"][curves["false"] > 0].min() / 2
    for axes, scale, steps in ((left, "linear", "default"), (right, "log", "steps-post")):
        for i, (method, curve) in enumerate(curves.groupby("method", sort=False)):
            options = {"color": style.look(method)["color"], "linestyle": style.LINES[i % 4]}
            axes.plot(
                curve["false"], curve["true"], label=label(method), drawstyle=steps, **options
            )
        diagonal = [low * (1 / low) ** (step / 50) for step in range(51)]  # a curve on the right
        axes.plot(diagonal, diagonal, color="0.7", linewidth=1, zorder=0)
        axes.set(xlabel="false positives (share of held-out rows)", xscale=scale)
    left.annotate("guessing", (0.6, 0.55), color="0.5", rotation=40, ha="center", va="center")
    left.set(ylabel="true positives (share of member rows)")
    right.axvline(0.01, **style.DOTTED)
    right.annotate("1%", (0.0105, 0.02), color="0.4")
    right.set(xlim=(low, 1), title="the same, few false positives spread out")
    return style.below(figure, left, ncols=4)


def membership(table: pd.DataFrame, scope: str) -> Figure:
    """AUC and, with 100 held-out rows, hits at 1% false positives (`attacks.summary`, one size).

    `scope`, the title, says of which seeds and rows all scores are.
    """
    scores = list(dict.fromkeys(table["score"]))
    columns = [
        ("auc", 0.5, "AUC, spread out near 1"),
        ("tpr_1pct", 0.01, "member rows found at 1% false positives"),
    ]
    columns = [spec for spec in columns if table[spec[0]].notna().any()]
    figsize = (1.5 + 4.5 * len(columns), 1.4 + 0.13 * len(scores) * table["method"].nunique())
    figure, [panels] = style.panels(1, len(columns), *figsize, sharey=True)
    for axes, (column, chance, title) in zip(panels, columns, strict=True):
        axes.axvline(chance, **style.DOTTED)
        style.grouped(axes, table, scores, "score", column, markersize=6, capsize=2)
        axes.set(xlabel=f"{title} (dotted: guessing)")
        if column == "auc":
            style.near_one(axes)
    style.names_down(panels[0], [score.replace("_", " ") for score in scores])
    figure.suptitle(scope, fontsize="medium")
    return style.below(figure, panels[0], ncols=6)


def membership_vs_memorization(points: pd.DataFrame, low: float, high: float) -> Figure:
    """AUC of the loss (column auc) against memorized, by method; low to high was published."""
    figure, [[axes]] = style.panels(1, 1)
    axes.axhspan(low, high, color="0.93", zorder=0)
    axes.axhline(0.5, **style.DOTTED)
    for text, height in (("published for distilled students", high), ("guessing", 0.5)):
        text_options: dict[str, Any] = {
            "xycoords": axes.get_yaxis_transform(),
            "ha": "right",
            "va": "top",
        }
        axes.annotate(text, (0.99, height - 0.005), color="0.4", fontsize="small", **text_options)
    options: dict[str, Any] = {"markersize": 8, "linestyle": "", "capsize": 2}
    for _, row in points.iterrows():
        style.intervals(axes, row["auc"], row, "memorized", across=True, **options, label="")
        style.intervals(axes, row["memorized"], row, "auc", **options)
    lowest = points.loc[points["memorized"].where(points["method"] != "teacher").idxmin()]
    text = (
        f"{label(lowest['method'])}: memorized {lowest['memorized']:.3f}, AUC {lowest['auc']:.3f}"
    )
    labels.beside(axes, lowest[["memorized", "auc"]], text)
    style.near_zero(axes)
    axes.set(xlabel=style.MEMORIZED + style.ROOT, ylabel="membership: AUC of the loss")
    return style.beside(axes)


def exposure(table: pd.DataFrame) -> Figure:
    """Exposure and extraction of canaries by how often they were planted (`canary_exposure.by`).

    A column of panels for each method, of one size: above exposure, below what is written.
    """
    methods, highest = ordered(table["method"]), table["most"].iloc[0]
    levels = {"never planted": table["chance"].iloc[0], "the most": highest}
    figure, panels = style.panels(
        2, len(methods), 1.2 + 2.1 * len(methods), 5.4, sharex=True, sharey="row"
    )
    for (upper, lower), method in zip(panels.T, methods, strict=True):
        part = table[table["method"] == method]
        for axes, column in ((upper, "exposure"), (lower, "secret")):
            style.by_times(axes, part, "repetitions", column)
            axes.set(xlabel="")
        for level in levels.values():
            upper.axhline(level, **style.DOTTED)
        upper.set(title=label(method), ylim=(-0.03 * highest, 1.12 * highest))
    top_left, lower = panels[:, 0]
    options: dict[str, Any] = {"xycoords": top_left.get_yaxis_transform(), "ha": "right"}
    for text, level in levels.items():
        top_left.annotate(
            text, (0.99, level + 0.02 * highest), color="0.4", fontsize="small", **options
        )
    top_left.set(ylabel="exposure (bits)")
    lower.set(ylabel="secrets written (share),\nafter the words before", ylim=(-0.03, 1.03))
    figure.supxlabel("times shown in an epoch")
    return figure
