"""Figures of the study itself: training, memorization and usefulness.

Drawn in notebooks 01 to 10.
"""

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kdlib.analysis.rates import student_sizes
from kdlib.config.definitions import WINDOW
from kdlib.config.methods import PAPER, label, ordered
from kdlib.figures import style

DRAWN = ("teacher", *PAPER)  # where more methods could not be told apart


def lengths(tokens: pd.DataFrame) -> Figure:
    """How many tokens prompts and responses have: columns part ("prompt", "response"), tokens."""
    figure, [[axes]] = style.panels(1, 1, 7, 3.4)
    sns.histplot(tokens, x="tokens", hue="part", element="step", bins=40, ax=axes)
    axes.axvline(WINDOW, **style.DOTTED)
    axes.annotate(f"k = {WINDOW}", (WINDOW + 1, axes.get_ylim()[1] * 0.95), va="top")
    axes.set(xlabel="length (tokens)", ylabel="rows")
    return figure


def loss_curves(paths: pd.DataFrame, sizes: Sequence[str] | None = None) -> Figure:
    """Loss of member and held-out rows and memorization of any runs, epoch by epoch.

    Args:
        paths: see `rates.paths`.
        sizes: all of the study, for the line styles; default: those of `paths`.
    """
    sizes = sizes or student_sizes(paths)
    figure, [[left, right]] = style.panels(1, 2, 9, 3.8)
    for (method, size), part in paths.groupby(["method", "size"], sort=False):
        name = label(method) if method == size else f"{label(method)}, {size}"
        line = {"linestyle": style.of_size(style.LINES, size, sizes)}
        line["color"] = style.look(method)["color"]
        member, held_out = (part[part["split"] == one] for one in ("member", "held_out"))
        left.plot("epoch", "nats_per_token", data=member, label=name, **line)
        left.plot("epoch", "nats_per_token", data=held_out, label="", alpha=0.45, **line)
        right.plot("epoch", "exact_rate", data=member, **line)
    left.set(xlabel="epoch", ylabel="loss (nats per token)\npale: held-out rows")
    right.set(xlabel="epoch", ylabel=style.MEMORIZED, ylim=(-0.02, 1.02))
    style.outside(figure, left, ncols=4)
    return figure


def memorization_by_k(tidy: pd.DataFrame) -> Figure:
    """Share of tuples whose first k tokens are word for word, against k.

    Args:
        tidy: exact_rate rows (see `rates.memorization`), k from 1 to WINDOW, of one size.
    """
    figure, [[axes]] = style.panels(1, 1)
    curves = tidy[tidy["k"] > 0].groupby(["method", "split", "k"])["value"].mean()
    for method in ordered(tidy["method"]):
        for split, line, name in (("member", "-", label(method)), ("held_out", ":", "")):
            colour = style.look(method)["color"]
            curves[method, split].plot(ax=axes, color=colour, linestyle=line, label=name)
    axes.set(xlabel="window k (tokens)", ylabel="word for word (share of tuples)", ylim=(-0.02, 1))
    style.beside(axes, title="member rows\n(dotted: held-out)")
    return figure


def memorization_by_size(rates: pd.DataFrame, held_out: pd.DataFrame) -> Figure:
    """Memorization of the paper's methods by size: mean over seeds, least to greatest.

    Args:
        rates: method, size, mean, min, max of member rows (see `rates.spread`).
        held_out: the same of held-out rows; their highest mean is drawn.
    """
    figure, [[axes]] = style.panels(1, 1)
    sizes = ["teacher", *student_sizes(rates)]
    table = rates.rename(columns={"mean": "value", "min": "lo", "max": "hi"})
    for method in DRAWN:
        part = table[table["method"] == method].sort_values(
            "size", key=lambda of: of.map(sizes.index)
        )
        shift = 0.0 if method == "teacher" else 0.09 * (PAPER.index(method) - (len(PAPER) - 1) / 2)
        style.intervals(axes, part["size"].map(sizes.index) + shift, part, markersize=8)
    floor = held_out[held_out["method"].isin(DRAWN)].groupby("size")["mean"].max().reindex(sizes)
    axes.plot(floor.to_numpy(), marker="x", label="held-out rows (highest)", **style.DOTTED)
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set(xlabel="model size", ylabel=style.MEMORIZED, ylim=(-0.02, None))
    style.beside(axes)
    return figure


def memorization_by_repetitions(table: pd.DataFrame, size: str) -> Figure:
    """Canaries memorized by how often they are planted, with Wilson intervals; paper's methods.

    Args:
        table: see `rates.repetitions`.
        size: which students are drawn, beside the teacher.
    """
    figure, [[axes]] = style.panels(1, 1)
    drawn = table["method"].isin(DRAWN) & table["size"].isin(("teacher", size))
    style.by_times(axes, table[drawn & (table["kind"] == "canary")], "times")
    axes.set(ylabel="canaries memorized (share)", ylim=(-0.03, 1.03))
    style.beside(axes)
    return figure


def utility_vs_memorization(points: pd.DataFrame) -> Figure:
    """Held-out ROUGE-L against memorization; one large mark per model, a small one per seed.

    Drawn for base, teacher and the paper's methods.

    Args:
        points: method, size, seed, exact_rate (members), rougeL (held-out), both 0 to 1.
    """
    figure, [[axes]] = style.panels(1, 1)
    sizes = ["teacher", *student_sizes(points)]
    drawn = points[points["method"].isin(("base", *DRAWN))]
    for method, part in drawn.groupby("method", sort=False):
        mark, mean = style.look(method), part.groupby("size")[["exact_rate", "rougeL"]].mean()
        areas = [style.of_size(style.AREAS, size, sizes) for size in mean.index]
        axes.scatter(
            "exact_rate", "rougeL", 14, data=part, alpha=0.4, linewidths=0, **mark, label=""
        )
        axes.scatter("exact_rate", "rougeL", areas, data=mean, label=label(method), **mark)
    axes.set(xlabel=style.MEMORIZED, ylabel="held-out ROUGE-L (F1, greedy)", xlim=(-0.02, None))
    style.beside(axes, title="larger mark,\nlarger model")
    return figure


def training_paths(paths: pd.DataFrame, sizes: Sequence[str] | None = None) -> Figure:
    """The paper's methods through training: held-out loss against memorization, epoch by epoch.

    Args:
        paths: method, size, epoch, exact_rate (members), nats_per_token (held-out), means over
            seeds. The SFT line is every early-stopped SFT.
        sizes: one panel each; default: those of `paths`.
    """
    sizes = sizes or student_sizes(paths)
    figure, [panels] = style.panels(1, len(sizes), max(6, 1 + 3 * len(sizes)), 4, sharey=True)
    for axes, size in zip(panels, sizes, strict=True):
        for method in PAPER:
            part = paths[(paths["method"] == method) & (paths["size"] == size)]
            path, mark = part.sort_values("epoch"), style.look(method)
            name, wide = label(method), 1.5
            if method == "sft":
                name, wide = f"{name} (each point: stopped early)", 3
            line = {"color": mark["color"], "linewidth": wide, "label": name}
            axes.plot(path["exact_rate"], path["nats_per_token"], ".-", **line)
            axes.plot(path["exact_rate"].iloc[-1:], path["nats_per_token"].iloc[-1:], ms=8, **mark)
        axes.set_title(size, fontsize="medium")
    panels[0].set(ylabel="held-out loss (nats per token)")
    panels[len(sizes) // 2].set(xlabel=style.MEMORIZED)
    style.outside(figure, panels[0], ncols=2)
    return figure


def all_methods(rates: pd.DataFrame, rouge: pd.DataFrame) -> Figure:
    """Every method that was run: memorized rows and usefulness side by side, one line a method.

    Args:
        rates: see `paper_tables.table1`.
        rouge: see `paper_tables.table2`.
    """
    methods, sizes = style.students(rates), student_sizes(rates)
    tall = 0.5 + len(sizes) * (0.25 + 0.24 * len(methods))
    figure, grid = style.panels(len(sizes), 2, 10, tall, sharex="col", sharey=True)
    for line, size in zip(grid, sizes, strict=True):
        for axes, table, name in zip(
            line, (rates, rouge), ("member", "rougeL_held_out"), strict=True
        ):
            part = table[table["size"] == size]
            style.dots(axes, methods, part, name)
            for sft in part.loc[part["method"] == "sft", name]:
                axes.axvline(sft, color=style.look("sft")["color"], linestyle=":", zorder=0)
        line[0].set(ylabel=size)
    grid[-1, 0].set(xlabel=style.MEMORIZED)
    grid[-1, 1].set(xlabel="held-out ROUGE-L (F1)")
    return figure
