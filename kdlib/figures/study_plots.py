"""Figures of the study itself: training, memorization, usefulness. Notebooks 01 to 10, 15, 18."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.analysis.plane import MEASURES, front
from kdlib.analysis.rates import student_sizes
from kdlib.config.exact_match import WINDOW
from kdlib.config.methods import PAPER, label, ordered
from kdlib.figures import style

DRAWN = ("teacher", *PAPER)  # where more methods could not be told apart
LANE = 0.06  # between lanes of `training_paths`, of the root of a share


def lengths(tokens: pd.DataFrame) -> Figure:
    """Tokens of prompts and responses: columns part ("prompt", "response"), tokens."""
    figure, [[axes]] = style.panels(1, 1, 7, 3.4)
    sns.histplot(tokens, x="tokens", hue="part", element="step", bins=40, ax=axes)
    axes.axvline(WINDOW, **style.DOTTED)
    axes.annotate(f"k = {WINDOW}", (WINDOW + 1, axes.get_ylim()[1] * 0.95), va="top")
    axes.set(xlabel="length (tokens)", ylabel="rows")
    return figure


def layer_costs(costs: pd.DataFrame, kept: Mapping[str, Sequence[int]]) -> Figure:
    """What each layer is worth (layer, nats_more); the more sizes keep it, the darker its bar."""
    figure, [[bars], [rows]] = style.panels(
        2, 1, 8, 4, sharex=True, gridspec_kw={"height_ratios": (4, len(kept))}
    )
    keeping = [sum(layer in layers for layers in kept.values()) for layer in costs["layer"]]
    shades = [str(1 - 0.75 * count / len(kept)) for count in keeping]
    bars.bar(costs["layer"], costs["nats_more"], color=shades, edgecolor="0.25")
    bars.set(ylabel="loss without it, minus that\nof all (nats per token)", yscale="log")
    for place, (size, layers) in enumerate(kept.items()):
        rows.plot(layers, [place] * len(layers), "s", color="0.2", label=size)
    rows.set_yticks(range(len(kept)), [f"{size} keeps" for size in kept])
    rows.set(xlabel="layer", ylim=(len(kept) - 0.5, -0.5))
    return figure


def loss_curves(paths: pd.DataFrame, sizes: Sequence[str] = ()) -> Figure:
    """Loss and memorization by epoch (`rates.paths`); `sizes` of the study give the line styles."""
    figure, [[left, right]] = style.panels(1, 2, 9, 3.8)
    shown, ylabel = "exact_rate", style.MEMORIZED
    if not paths.loc[paths["split"] == "member", shown].any():  # flat at 0
        shown, ylabel = "accuracy", style.NONE_MEMORIZED
    for (method, size), part in paths.groupby(["method", "size"], sort=False):
        name = label(method) if method == size else f"{label(method)}, {size}"
        dashes = style.of_size(style.LINES, size, sizes or student_sizes(paths))
        line = {"linestyle": dashes, "color": style.look(method)["color"]}
        member, held_out = (part[part["split"] == one] for one in ("member", "held_out"))
        left.plot("epoch", "nats_per_token", data=member, label=name, **line)
        left.plot("epoch", "nats_per_token", data=held_out, label="", alpha=0.45, **line)
        right.plot("epoch", shown, data=member, **line)
    left.set(xlabel="epoch", ylabel="loss (nats per token)\npale: held-out rows")
    right.set(xlabel="epoch", ylabel=ylabel, ylim=(-0.02, 1.02))
    return style.below(figure, left, ncols=4)


def memorization_by_k(tidy: pd.DataFrame) -> Figure:
    """Share of rows whose first k tokens are word for word (`rates.memorization`, of one size)."""
    figure, [[axes]] = style.panels(1, 1)
    curves = tidy[tidy["k"] > 0].groupby(["method", "split", "k"])["value"].mean()
    for method in ordered(tidy["method"]):
        colour = style.look(method)["color"]
        axes.plot(curves[method, "member"], color=colour, label=label(method))
        axes.plot(curves[method, "held_out"], ":", color=colour)
    axes.set(xlabel="window k (tokens)", ylabel="word for word (share of tuples)", ylim=(-0.02, 1))
    return style.beside(axes, title="member rows\n(dotted: held-out)")


def memorization_by_size(table: pd.DataFrame) -> Figure:
    """The paper's methods by size, with their intervals (`paper_tables.table1`)."""
    figure, [[axes]] = style.panels(1, 1)
    sizes = ["teacher", *student_sizes(table)]
    drawn = table[table["method"].isin(DRAWN)].assign(x=lambda rows: rows["size"].map(sizes.index))
    for method in ordered(drawn["method"]):
        part = drawn[drawn["method"] == method].sort_values("x")
        shift = 0.0 if method == "teacher" else 0.09 * (PAPER.index(method) - (len(PAPER) - 1) / 2)
        style.intervals(axes, part["x"] + shift, part, "member", markersize=8, linestyle="")
    floor = drawn.groupby("x")["held_out"].max()
    ends = floor.index - 0.4, floor.index + 0.4  # wider than the marks, which may lie on it
    axes.hlines(floor, *ends, label="held-out rows (highest)", **style.DOTTED)
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set(xlabel="model size", ylabel=style.MEMORIZED, ylim=(-0.02, None))
    return style.beside(axes)


def memorization_by_repetitions(table: pd.DataFrame, size: str) -> Figure:
    """Canaries memorized by how often they are planted (`rates.repetitions`): teacher, a size."""
    figure, [[axes]] = style.panels(1, 1)
    drawn = table["method"].isin(DRAWN) & table["size"].isin(("teacher", size))
    shown = table[drawn & (table["kind"] == "canary")]
    style.by_times(axes, shown, "times")
    n = " to ".join(f"{one:g}" for one in dict.fromkeys((shown["n"].min(), shown["n"].max())))
    axes.set(xlabel=f"times shown in an epoch ({n} canaries each)", ylim=(-0.03, 1.03))
    axes.set(ylabel="canaries memorized (share)")
    marks, names = axes.get_legend_handles_labels()
    if shown["lo"].isna().all():  # too few: marks without bars
        marks = [mark.lines[0] for mark in marks]
    return style.beside(axes, title=f"students: {size}", handles=marks, labels=names)


def utility_vs_memorization(points: pd.DataFrame, trivial: pd.Series) -> Figure:
    """Usefulness against memorization; one large mark per model, small ones for several seeds.

    `points`: method, size, seed, exact_rate (members), useful (held-out); `trivial`: the usefulness
    of answers that need no model, by who gives them, each a line.
    """
    figure, [[axes]] = style.panels(1, 1)
    sizes, several = ["teacher", *student_sizes(points)], points["seed"].nunique() > 1
    for method, part in points.groupby("method", sort=False):
        if method in ("base", *DRAWN):
            mark, seeds = style.look(method), {"alpha": 0.7, "ec": "white", "lw": 0.6, "zorder": 3}
            mean = part.groupby("size")[["exact_rate", "useful"]].mean()
            areas, small = (
                [style.of_size(style.AREAS, size, sizes) for size in which]
                for which in (mean.index, part["size"])
            )
            if several:
                small = [max(14, 0.35 * area) for area in small]
                axes.scatter(part["exact_rate"], part["useful"], small, **seeds, **mark)
            axes.scatter(mean["exact_rate"], mean["useful"], areas, label=label(method), **mark)
    across: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "zorder": 1}
    axes.hlines(trivial, 0, 1, lw=1.2, label="without a model", **across, **style.DOTTED)
    for place, (name, height) in enumerate(trivial.sort_values().items()):
        along = 0.16 + 0.2 * (place % 2)  # names of lines close together are side by side
        axes.text(along, height, str(name), va="bottom", fontsize="small", color="0.3", **across)
    style.near_zero(axes)
    axes.set(xlabel=style.MEMORIZED + style.ROOT, ylabel="usefulness of held-out answers")
    named = "larger mark,\nlarger model" + "\n(small: seeds)" * several
    return style.beside(axes, title=named)


def training_paths(
    curves: pd.DataFrame, stops: pd.DataFrame, sizes: Sequence[str] = (), useful: str = "useful"
) -> Figure:
    """The paper's methods through training: usefulness against memorization, a panel per size.

    `curves` and `stops`: see `equal_usefulness`; where a method is stopped is ringed, and SFT where
    it is stopped for one of them; the ends are large marks, the start is a cross, or a note where
    it is far less useful. Left of 0 every method has a lane of its own for
    the points at which nothing is memorized.
    """
    sizes = sizes or student_sizes(curves)
    size_of = (max(6, 1 + 4 * len(sizes)), 5)
    figure, [panels] = style.panels(1, len(sizes), *size_of, sharex=True)
    lanes = {method: -((LANE * (place + 1)) ** 2) for place, method in enumerate(PAPER[::-1])}
    for axes, size in zip(panels, sizes, strict=True):
        of_size = curves[(curves["size"] == size) & curves["method"].isin(PAPER)]
        none = of_size["memorized"] == 0
        across = of_size["memorized"].mask(none, of_size["method"].map(lanes))
        of_size, here = of_size.assign(across=across), stops[stops["size"] == size]
        for method in PAPER:
            part = of_size[of_size["method"] == method].sort_values("epoch")
            path, mark, name = part.set_index("across")["useful"], style.look(method), label(method)
            name += " (each point: stopped early)" * (method == "sft")
            wide = 3 if method == "sft" else 1.5
            axes.plot(path, ".-", color=mark["color"], linewidth=wide, label=name)
            axes.plot(path.iloc[:1], "x", color="0.2", zorder=3)
            axes.plot(path.iloc[-1:], markersize=7, **mark)
            stopped = (
                here["sft_epoch"] if method == "sft" else here["epoch"][here["method"] == method]
            )
            _ring(axes, part[part["epoch"].isin(stopped)], mark["color"])
        _from_the_first_epoch(axes, of_size)
        axes.set_title(size, fontsize="medium")
    panels[0].plot([], [], "x", color="0.2", label="start (MiniLLM: after SFT)")
    _ring(panels[0], curves[:0].assign(across=0), "0.3", label="stopped where as useful")
    for axes in panels:  # their common limits are set when all is drawn
        style.near_zero(axes)
        axes.set_xticks([-((LANE * (len(PAPER) + 1) / 2) ** 2), *axes.get_xticks()[1:]])
        axes.xaxis.set_major_formatter(lambda share, _: f"{max(share, 0):g}")
        axes.axvspan(-1, 0, color="0.95", zorder=0)
        axes.set(xlim=(-((LANE * (len(PAPER) + 1)) ** 2), None))
    panels[0].set(ylabel=useful + "\n(a scale for each size)" * (len(sizes) > 1))
    figure.supxlabel(f"{style.MEMORIZED}{style.ROOT}; grey: none, a lane for each method")
    return style.below(figure, panels[0], "upper center", ncols=2)


def _ring(axes: Axes, points: pd.DataFrame, colour: str, **how: Any) -> None:
    """Rings around points, over all marks."""
    how |= {"facecolors": "none", "edgecolors": colour, "lw": 1.2, "zorder": 4}
    axes.scatter(points["across"], points["useful"], 12**2, **how)


def _from_the_first_epoch(axes: Axes, points: pd.DataFrame) -> None:
    """Upwards what was trained for an epoch; a note of the start, where it lies far below."""
    trained, before = points.query("epoch > 0")["useful"], points.query("epoch == 0")["useful"]
    low, high = trained.min(), trained.max()
    if before.min() < (least := low - (high - low) / 2):
        axes.set(ylim=(least, None))
        how: dict[str, Any] = {"ha": "left", "va": "bottom", "color": "0.2", "fontsize": "small"}
        how["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        text = f"start: {before.min():.2f} \N{DOWNWARDS ARROW}"
        axes.text(0.02, 0.02, text, transform=axes.transAxes, **how)


def plane(points: pd.DataFrame, kinds: Mapping[str, str], useful: str = "useful") -> Figure:
    """Students of `analysis.plane.points` through training, a panel for each of its MEASURES.

    `kinds` says of each student to which kind it belongs. The front of a kind is a stair: what lies
    to its right and below is beaten. Who is on one, trained, is named in the first panel, where
    it is most useful on it.
    """
    figure, [panels] = style.panels(1, len(MEASURES), 14, 5, sharey=True, width_ratios=(2, 1, 1))
    colours = dict(zip(dict.fromkeys(kinds.values()), ("0.35", "C0", "C3"), strict=False))
    named = []
    for axes, (measure, words) in zip(panels, MEASURES.items(), strict=True):
        for kind, colour in colours.items():
            part = points[points["method"].map(kinds) == kind].sort_values("epoch")
            for _, path in part.groupby("method"):
                how: dict[str, Any] = {"color": colour, "alpha": 0.35, "markersize": 3}
                axes.plot(path[measure], path["useful"], ".-", linewidth=0.8, **how)
            best = front(part, measure)
            stair: dict[str, Any] = {"color": colour, "linewidth": 2.5, "drawstyle": "steps-post"}
            axes.plot(best[measure], best["useful"], label=f"front: {kind}", **stair)
            if axes is panels[0]:
                last = best[best["epoch"] > 0].drop_duplicates("method", keep="last")
                named.append(last.assign(colour=colour))
        axes.set(xlabel=words)
    _name(panels[0], pd.concat(named), next(iter(MEASURES)))
    panels[0].set(ylabel=useful)
    return style.below(figure, panels[0], "upper center", ncols=len(colours))


def _name(axes: Axes, points: pd.DataFrame, across: str) -> None:
    """The students' names to the right of their points and below, none over another."""
    axes.autoscale_view()
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # as they are drawn
    below = 1.0
    for _, point in points.sort_values("useful", ascending=False, kind="stable").iterrows():
        at = point[across], point["useful"]
        place, height = axes.transLimits.transform(at)
        below = min(height - 0.04, below - 0.05)
        left = place < 0.5
        how: dict[str, Any] = {"ha": "left" if left else "right", "va": "center"}
        how["arrowprops"] = {"arrowstyle": "-", "color": point["colour"], "linewidth": 0.5}
        to = (place + (0.04 if left else -0.04), below)
        axes.annotate(label(point["method"]), at, to, textcoords="axes fraction",
                      fontsize="x-small", color=point["colour"], **how)  # fmt: skip


def all_methods(rates: pd.DataFrame, rouge: pd.DataFrame, *first: pd.DataFrame) -> Figure:
    """Methods of `paper_tables.table1` and `table2`; SFT dotted, of the `first` seed dashed."""
    methods, sizes = style.students(rates), student_sizes(rates)
    columns = ((rates, first[0], "member"), (rouge, first[1], "rougeL_held_out"))
    tall = 0.5 + len(sizes) * (0.25 + 0.24 * len(methods))
    figure, grid = style.panels(len(sizes), 2, 10, tall, sharex="col", sharey=True)
    for line, size in zip(grid, sizes, strict=True):
        line[0].set(ylabel=size)
        for axes, (table, alone, name) in zip(line, columns, strict=True):
            style.dots(axes, methods, table[table["size"] == size], name)
            for of, look in ((table, ":"), (alone, "--")):
                for one in of.query("method == 'sft' and size == @size")[name]:
                    axes.axvline(one, color=style.look("sft")["color"], linestyle=look, zorder=0)
    grid[-1, 0].set(xlabel=style.MEMORIZED)
    grid[-1, 1].set(xlabel="held-out ROUGE-L (F1)")
    return figure


def less_than_sft(lines: pd.DataFrame, ways: Mapping[str, str]) -> Figure:
    """What distilled students memorize minus SFT, a panel for each way to compare them.

    `lines`: claim, method, size, value, lo, hi, where the method "all" is the mean over students;
    `ways`: the claims of the panels, and their titles. A student without a value in one of them is
    not comparable there, and its line says so. Each panel has a scale of its own, around 0.
    """
    models = list(dict.fromkeys(zip(lines["method"], lines["size"], strict=True)))
    black: dict[str, Any] = {"color": "black", "marker": "D", "linewidth": 2}
    grey: dict[str, Any] = {"color": "0.4", "fontsize": "small", "ha": "center", "va": "center"}
    grey["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    size_of = (2.5 + 2.8 * len(ways), 1.4 + 0.32 * len(models))
    figure, [panels] = style.panels(1, len(ways), *size_of, sharey=True)
    for axes, (claim, title) in zip(panels, ways.items(), strict=True):
        axes.axvline(0, **style.DOTTED)
        known = lines[(lines["claim"] == claim) & lines["value"].notna()]
        rows = {(row["method"], row["size"]): row for row in known.to_dict("records")}
        for place, model in enumerate(models):
            if model in rows:
                mean = black if model[0] == "all" else {}
                style.intervals(axes, place, rows[model], across=True, **mean)
            else:
                at = axes.get_yaxis_transform()
                axes.text(0.5, place, "not comparable", transform=at, **grey)
        axes.set_title(title, fontsize="medium")
        reach = 1.1 * known[["lo", "hi"]].abs().max(axis=None)
        axes.set(xlim=(-reach, reach) if reach > 0 else (-1, 1))
        axes.locator_params(axis="x", nbins=4)
    named = [f"{label(method)}, {size}" for method, size in models if method != "all"]
    style.names_down(panels[0], ["mean of all", *named])
    figure.supxlabel("memorized, minus what SFT memorizes (share of member rows)")
    return figure
