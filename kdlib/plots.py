"""One function per figure: tidy table in, figure out. No statistics here.

One colour and marker per method, one line style per size, throughout the series.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib import runs
from kdlib.config import SIZES, STUDENTS
from kdlib.methods import LABELS, METHODS, PAPER

_PALETTE = sns.color_palette("colorblind")
COLOURS = {  # one hue for variants of one method
    **{"base": "0.55", "teacher": "0.15", "sft": _PALETTE[3], "word_kd": _PALETTE[0]},
    **{"seq_kd": _PALETTE[2], "seq_kd_beam": _PALETTE[2], "seq_kd_sampled": _PALETTE[2]},
    **{"rkld": _PALETTE[1], "off_policy_rkl": _PALETTE[1]},
    **{"imitkd": _PALETTE[4], "gkd": _PALETTE[5]},
    **{"distillm": "#6a3d9a", "distillm2": "#6a3d9a", "minillm": _PALETTE[9]},  # violet, dark
}
MARKERS = {
    **{"base": "P", "teacher": "*", "sft": "o", "word_kd": "s"},
    **{"seq_kd": "^", "seq_kd_beam": "v", "seq_kd_sampled": ">"},
    **{"rkld": "D", "off_policy_rkl": "d", "imitkd": "p", "gkd": "h"},
    **{"distillm": "X", "distillm2": "<", "minillm": "P"},
}
LINES = {"teacher": "-", "large": "-", "middle": "--", "small": ":"}
AREA = {"teacher": 150, "large": 110, "middle": 65, "small": 30}  # points squared
MEMORIZED = "memorized member rows (share)"


def style() -> None:
    """The series' one style; call it before drawing."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update({"figure.dpi": 100, "savefig.dpi": 150, "figure.figsize": (7, 4.4)})


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG at 150 dpi, atomically."""
    with runs.atomic(path) as part:
        figure.savefig(part, format="png", dpi=150, bbox_inches="tight")


def _beside(axes: Axes, **how: object) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, **how)


def memorization_by_size(rates: pd.DataFrame, held_out: pd.DataFrame) -> Figure:
    """Memorization of the paper's methods by size: mean over seeds, least to greatest, held-out.

    Args:
        rates: variant, student, mean, min, max of member rows (see `tables.spread`).
        held_out: the same of held-out rows.
    """
    figure, axes = plt.subplots(layout="constrained")
    places = {size: i for i, size in enumerate(SIZES)}
    for variant in ("teacher", *PAPER):
        part = rates[rates["variant"] == variant].set_index("student")
        part = part.reindex([size for size in SIZES if size in part.index])
        shift = 0.0 if variant == "teacher" else 0.09 * (PAPER.index(variant) - 1.5)
        x = [places[size] + shift for size in part.index]
        error = [part["mean"] - part["min"], part["max"] - part["mean"]]
        look = {"color": COLOURS[variant], "marker": MARKERS[variant], "markersize": 8}
        axes.errorbar(x, part["mean"], yerr=error, capsize=3, label=LABELS[variant], **look)
    others = held_out[held_out["variant"].isin(("teacher", *PAPER))]
    floor = others.groupby("student")["mean"].max().reindex(SIZES)
    axes.plot(range(len(SIZES)), floor, "x:", color="0.4", label="held-out rows (highest)")
    axes.set_xticks(range(len(SIZES)), SIZES)
    axes.set(xlabel="model size", ylabel=MEMORIZED, ylim=(-0.02, None))
    _beside(axes)
    return figure


def memorization_by_k(tidy: pd.DataFrame) -> Figure:
    """Share of tuples whose first k tokens are word for word, against k, for the middle size.

    Args:
        tidy: exact_rate rows, k from 1 to 50, of one size; split member (line), held_out (dots).
    """
    figure, axes = plt.subplots(layout="constrained")
    for variant in [name for name in LABELS if name in set(tidy["variant"])]:
        for split, line in (("member", "-"), ("held_out", ":")):
            part = tidy[(tidy["variant"] == variant) & (tidy["split"] == split) & (tidy["k"] > 0)]
            curve = part.groupby("k")["value"].mean()
            label = LABELS[variant] if split == "member" else None
            axes.plot(curve.index, curve, line, color=COLOURS[variant], label=label)
    axes.set(xlabel="window k (tokens)", ylabel="word for word (share of tuples)", ylim=(-0.02, 1))
    _beside(axes, title="member rows\n(dotted: held-out)")
    return figure


def utility_vs_memorization(points: pd.DataFrame) -> Figure:
    """Held-out ROUGE-L against memorization; one large mark per model, a small one per seed.

    Drawn for base, teacher and the paper's methods.

    Args:
        points: variant, student, seed, exact_rate (members), rougeL (held-out), both 0 to 1.
    """
    figure, axes = plt.subplots(layout="constrained")
    drawn = points[points["variant"].isin(("base", "teacher", *PAPER))]
    for variant, part in drawn.groupby("variant", sort=False):
        look = {"color": COLOURS[variant], "marker": MARKERS[variant]}
        axes.scatter(part["exact_rate"], part["rougeL"], s=14, alpha=0.4, linewidths=0, **look)
        mean = part.groupby("student")[["exact_rate", "rougeL"]].mean()
        area = [AREA[size] for size in mean.index]
        label = LABELS[variant]
        axes.scatter(mean["exact_rate"], mean["rougeL"], s=area, label=label, **look)
    axes.set(xlabel=MEMORIZED, ylabel="held-out ROUGE-L (F1, greedy)", xlim=(-0.02, None))
    _beside(axes, title="larger mark,\nlarger model")
    return figure


def training_paths(paths: pd.DataFrame) -> Figure:
    """The paper's methods through training: held-out loss against memorization, epoch by epoch.

    Args:
        paths: variant, student, epoch, exact_rate (members), nats_per_token (held-out), means over
            seeds. The SFT line is every early-stopped SFT.
    """
    figure, panels = plt.subplots(
        1, len(STUDENTS), figsize=(10, 4), sharey=True, layout="constrained"
    )
    for axes, size in zip(panels, STUDENTS, strict=True):
        for variant in PAPER:
            part = paths[(paths["variant"] == variant) & (paths["student"] == size)]
            part = part.sort_values("epoch")
            look = {"color": COLOURS[variant], "linewidth": 3 if variant == "sft" else 1.5}
            label = LABELS[variant] + (" (each point: stopped early)" if variant == "sft" else "")
            axes.plot(part["exact_rate"], part["nats_per_token"], ".-", label=label, **look)
            mark = {"marker": MARKERS[variant], "color": COLOURS[variant], "s": 70, "zorder": 3}
            axes.scatter(part["exact_rate"].iloc[-1:], part["nats_per_token"].iloc[-1:], **mark)
        axes.set_title(size, fontsize="medium")
        axes.set(xlabel=MEMORIZED if size == "middle" else "")
    panels[0].set(ylabel="held-out loss (nats per token)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def memorization_by_repetitions(table: pd.DataFrame, size: str = "middle") -> Figure:
    """Canaries memorized by how often they are planted, with Wilson intervals; paper's methods.

    Args:
        table: variant, student, kind, times, value, lo, hi (see `tables.repetitions`).
        size: which students are drawn, beside the teacher.
    """
    figure, axes = plt.subplots(layout="constrained")
    canary = table[table["kind"] == "canary"]
    for place, variant in enumerate(("teacher", *PAPER)):
        wanted = "teacher" if variant == "teacher" else size
        part = canary[(canary["variant"] == variant) & (canary["student"] == wanted)]
        x = part["times"] * 1.04 ** (place - 2)
        error = [
            (part["value"] - part["lo"]).clip(lower=0),
            (part["hi"] - part["value"]).clip(lower=0),
        ]
        look = {"color": COLOURS[variant], "marker": MARKERS[variant], "capsize": 3}
        axes.errorbar(x, part["value"], yerr=error, label=LABELS[variant], **look)
    times = sorted(canary["times"].unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(times, [str(t) for t in times])
    axes.set(xlabel="times shown in an epoch", ylabel="canaries memorized (share)")
    axes.set(ylim=(-0.03, 1.03))
    _beside(axes)
    return figure


def loss_curves(paths: pd.DataFrame) -> Figure:
    """Loss of member and held-out rows and memorization, epoch by epoch, for the runs given.

    Args:
        paths: variant, student, epoch, split, exact_rate, nats_per_token.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for (variant, size), part in paths.groupby(["variant", "student"], sort=False):
        for split, alpha in (("member", 1.0), ("held_out", 0.45)):
            one = part[part["split"] == split].sort_values("epoch")
            look = {"color": COLOURS[variant], "linestyle": LINES[size], "alpha": alpha}
            name = LABELS[variant] if variant == size else f"{LABELS[variant]}, {size}"
            label = name if split == "member" else None
            left.plot(one["epoch"], one["nats_per_token"], label=label, **look)
            if split == "member":
                right.plot(one["epoch"], one["exact_rate"], **look)
    left.set(xlabel="epoch", ylabel="loss (nats per token)\npale: held-out rows")
    right.set(xlabel="epoch", ylabel=MEMORIZED, ylim=(-0.02, 1.02))
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def all_methods(rates: pd.DataFrame, rouge: pd.DataFrame) -> Figure:
    """Every method that was run: memorized rows and usefulness side by side, one line a method.

    Args:
        rates: variant, student, member, member_lo, member_hi, 0 to 1 (see `claims.table1`).
        rouge: variant, student, rougeL_held_out, ..._lo, ..._hi, 0 to 1 (see `claims.table2`).
    """
    methods = [name for name in METHODS if name in set(rates["variant"])]
    figure, panels = plt.subplots(
        *(len(STUDENTS), 2),
        figsize=(10, 0.5 + 3 * (0.25 + 0.24 * len(methods))),
        sharex="col",
        sharey=True,
        layout="constrained",
    )
    columns = ((rates, "member", MEMORIZED), (rouge, "rougeL_held_out", "held-out ROUGE-L (F1)"))
    for line, size in zip(panels, STUDENTS, strict=True):
        for axes, (table, name, title) in zip(line, columns, strict=True):
            part = table[table["student"] == size].set_index("variant")
            _dots(axes, part.loc[methods], name)
            axes.set(xlabel=title if size == STUDENTS[-1] else "")
        line[0].set_yticks(range(len(methods)), [LABELS[name] for name in methods])
        line[0].set(ylabel=size, ylim=(len(methods) - 0.4, -0.6))
    return figure


def _dots(axes: Axes, part: pd.DataFrame, name: str) -> None:
    for place, (method, row) in enumerate(part.iterrows()):
        error = [[row[name] - row[f"{name}_lo"]], [row[f"{name}_hi"] - row[name]]]
        look = {"color": COLOURS[method], "marker": MARKERS[method], "markersize": 7}
        axes.errorbar(row[name], place, xerr=error, capsize=3, **look)
    axes.axvline(part.loc["sft", name], color=COLOURS["sft"], linestyle=":", zorder=0)


def lengths(tokens: pd.DataFrame) -> Figure:
    """How many tokens prompts and responses have.

    Args:
        tokens: columns part ("prompt", "response") and tokens.
    """
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    sns.histplot(tokens, x="tokens", hue="part", element="step", bins=40, ax=axes)
    axes.axvline(50, color="0.3", linestyle=":")
    axes.annotate("k = 50", (51, axes.get_ylim()[1] * 0.95), va="top")
    axes.set(xlabel="length (tokens)", ylabel="rows")
    return figure
