"""Figures of the study itself: training, memorization, usefulness. Notebooks 01 to 10 and 18."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib.analysis.rates import student_sizes
from kdlib.config.exact_match import WINDOW
from kdlib.config.methods import DISTILLED, PAPER, label, ordered
from kdlib.figures import labels, style

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


def layer_costs(costs: pd.DataFrame, kept_layers: Mapping[str, Sequence[int]]) -> Figure:
    """What each layer is worth (layer, nats_more); the more sizes keep it, the darker its bar."""
    figure, [[bars], [rows]] = style.panels(
        2, 1, 8, 4, sharex=True, gridspec_kw={"height_ratios": (4, len(kept_layers))}
    )
    counts = [sum(layer in layers for layers in kept_layers.values()) for layer in costs["layer"]]
    shades = [str(1 - 0.75 * count / len(kept_layers)) for count in counts]
    bars.bar(costs["layer"], costs["nats_more"], color=shades, edgecolor="0.25")
    bars.set(ylabel="loss without it, minus that\nof all (nats per token)", yscale="log")
    for i, (size, layers) in enumerate(kept_layers.items()):
        rows.plot(layers, [i] * len(layers), "s", color="0.2", label=size)
    rows.set_yticks(range(len(kept_layers)), [f"{size} keeps" for size in kept_layers])
    rows.set(xlabel="layer", ylim=(len(kept_layers) - 0.5, -0.5))
    return figure


def loss_curves(paths: pd.DataFrame, sizes: Sequence[str] = ()) -> Figure:
    """Loss and memorization by epoch (`rates.paths`); `sizes` of the study give the line styles."""
    figure, [[left, right]] = style.panels(1, 2, 10.5, 3.8)
    column, ylabel = "exact_rate", style.MEMORIZED
    if not paths.loc[paths["split"] == "member", column].any():  # flat at 0
        column, ylabel = "accuracy", style.NONE_MEMORIZED
    single = paths["method"].nunique() == 1  # then it is named once, above
    for (method, size), part in paths.groupby(["method", "size"], sort=False):
        parts = [label(method)] * (not single) + [size] * (method != size)
        linestyle = style.of_size(style.LINES, size, sizes or student_sizes(paths))
        options = {"linestyle": linestyle, "color": style.look(method)["color"]}
        member, held_out = (part[part["split"] == split] for split in ("member", "held_out"))
        left.plot(
            "epoch", "nats_per_token", data=member, label=", ".join([*parts, "member"]), **options
        )
        pale = options | {"alpha": 0.45, "label": ", ".join([*parts, "held-out"])}
        left.plot("epoch", "nats_per_token", data=held_out, **pale)
        right.plot("epoch", column, data=member, label=", ".join(parts or [size]), **options)
    left.set(xlabel="epoch", ylabel="loss (nats per token)")
    right.set(xlabel="epoch", ylabel=ylabel, ylim=(-0.02, 1.02))
    if single:
        figure.suptitle(label(paths["method"].iloc[0]), fontsize="medium")
    labels.at_ends(left)
    labels.at_ends(right, labels.ends(right, ".0%"))
    return figure


def memorization_by_k(tidy: pd.DataFrame) -> Figure:
    """Share of rows whose first k tokens are word for word (`rates.memorization`, of one size)."""
    figure, [[axes]] = style.panels(1, 1)
    curves = tidy[tidy["k"] > 0].groupby(["method", "split", "k"])["value"].mean()
    for method in ordered(tidy["method"]):
        colour = style.look(method)["color"]
        axes.plot(curves[method, "member"], color=colour, label=label(method))
        axes.plot(curves[method, "held_out"], ":", color=colour)
    axes.set(xlabel="window k (tokens)", ylabel="word for word (share of tuples)", ylim=(-0.02, 1))
    labels.at_ends(axes, [*labels.ends(axes, ".2f"), *labels.unnamed(axes)])
    return figure


def memorization_by_size(table: pd.DataFrame) -> Figure:
    """The paper's methods by size, with their intervals (`paper_tables.table1`)."""
    sizes = ["teacher", *student_sizes(table)]
    figure, [[axes]] = style.panels(1, 1, 1 + 2.1 * len(sizes), 4.6)
    drawn = table[table["method"].isin(DRAWN)].assign(x=lambda rows: rows["size"].map(sizes.index))
    for method in ordered(drawn["method"]):
        part = drawn[drawn["method"] == method].sort_values("x")
        shift = 0.0 if method == "teacher" else 0.23 * (PAPER.index(method) - len(PAPER) / 2)
        style.intervals(axes, part["x"] + shift, part, "member", markersize=8, linestyle="")
        labels.values(axes, part["x"] + shift, part["member"])
    floor = drawn.groupby("x")["held_out"].max()
    ends = floor.index - 0.5, floor.index + 0.45  # wider than the marks, which may lie on it
    axes.hlines(floor, *ends, label="held-out rows (highest)", **style.DOTTED)
    axes.set_xticks(range(len(sizes)), sizes)
    axes.grid(visible=False, axis="x")
    axes.set(xlabel="model size", ylabel=style.MEMORIZED, xlim=(-0.55, len(sizes) - 0.5))
    axes.set(ylim=(-0.03, 0.02 + 1.02 * drawn[["member", "member_hi"]].max(axis=None)))
    return style.below(figure, axes, "upper center", ncols=3)


def memorization_by_repetitions(table: pd.DataFrame, size: str) -> Figure:
    """Canaries memorized by how often they are planted (`rates.repetitions`): teacher, a size."""
    figure, [[axes]] = style.panels(1, 1)
    mask = table["method"].isin(DRAWN) & table["size"].isin(("teacher", size))
    canaries = table[mask & (table["kind"] == "canary")]
    style.by_times(axes, canaries, "times")
    n = " to ".join(f"{x:g}" for x in dict.fromkeys((canaries["n"].min(), canaries["n"].max())))
    axes.set(xlabel=f"times shown in an epoch ({n} canaries each)", ylim=(-0.03, 1.03))
    axes.set(ylabel="canaries memorized (share)")
    axes.set_title(f"students: {size}", fontsize="medium")
    labels.at_ends(axes, labels.ends(axes, ".2f"))
    return figure


def utility_vs_memorization(points: pd.DataFrame, trivial: pd.Series) -> Figure:
    """Usefulness against memorization; one large mark per model, small ones for several seeds.

    `points`: method, size, seed, exact_rate (members), useful (held-out); `trivial`: the usefulness
    of answers that need no model, by who gives them, each a line.
    """
    figure, [[axes]] = style.panels(1, 1)
    sizes, several = ["teacher", *student_sizes(points)], points["seed"].nunique() > 1
    for method, part in points.groupby("method", sort=False):
        if method in ("base", *DRAWN):
            mark, faint = style.look(method), {"alpha": 0.7, "ec": "white", "lw": 0.6, "zorder": 3}
            mean = part.groupby("size")[["exact_rate", "useful"]].mean()
            areas, small = (
                [style.of_size(style.AREAS, size, sizes) for size in values]
                for values in (mean.index, part["size"])
            )
            if several:
                small = [max(14, 0.35 * area) for area in small]
                axes.scatter(part["exact_rate"], part["useful"], small, **faint, **mark)
            axes.scatter(mean["exact_rate"], mean["useful"], areas, label=label(method), **mark)
    options: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "zorder": 1}
    axes.hlines(trivial, 0, 1, lw=1.2, label="without a model", **options, **style.DOTTED)
    for i, (name, height) in enumerate(trivial.sort_values().items()):
        x = 0.16 + 0.2 * (i % 2)  # names of lines close together are side by side
        axes.text(x, height, str(name), va="bottom", fontsize="small", color="0.3", **options)
    style.near_zero(axes)
    axes.set(xlabel=style.MEMORIZED + style.ROOT, ylabel="usefulness of held-out answers")
    _least_kept(axes, points)
    title = "larger mark,\nlarger model" + "\n(small: seeds)" * several
    return style.beside(axes, title=title)


def _least_kept(axes: Axes, points: pd.DataFrame) -> None:
    """The usefulness of the distilled student that falls furthest behind SFT of its size."""
    usefulness = points.groupby(["size", "method"])["useful"].mean().unstack()
    gaps = usefulness[[*DISTILLED]].sub(usefulness["sft"], axis=0).stack()
    if gaps.min() < 0:
        size, method = gaps.idxmin()
        rows = points[(points["method"] == method) & (points["size"] == size)]
        text = f"{label(method)}, {size}: {gaps.min():+.3f} to SFT"
        labels.beside(axes, rows[["exact_rate", "useful"]].mean(), text)


def training_paths(
    curves: pd.DataFrame,
    stops: pd.DataFrame,
    sizes: Sequence[str] = (),
    ylabel: str = "useful",
    note: str = "",
) -> Figure:
    """The paper's methods through training: usefulness against memorization, a panel per size.

    `curves` and `stops`: see `equal_usefulness`; where a method is stopped is ringed, and SFT where
    it is stopped for one of them; the ends are large marks, the start is a cross, or a note where
    it is far less useful. Left of 0 every method has a lane of its own for
    the points at which nothing is memorized. `note` is written into the first panel.
    """
    sizes = sizes or student_sizes(curves)
    figsize = (max(6.5, 1 + 5 * len(sizes)), 5)
    figure, [panels] = style.panels(1, len(sizes), *figsize, sharex=True)
    lanes = {method: -((LANE * (i + 1)) ** 2) for i, method in enumerate(PAPER[::-1])}
    panel_ends = []
    for axes, size in zip(panels, sizes, strict=True):
        part = curves[(curves["size"] == size) & curves["method"].isin(PAPER)]
        unmemorized = part["memorized"] == 0
        x = part["memorized"].mask(unmemorized, part["method"].map(lanes))
        part, part_stops = part.assign(across=x), stops[stops["size"] == size]
        panel_ends.append([_path(axes, part, method, part_stops) for method in PAPER])
        _from_the_first_epoch(axes, part)
        axes.set_title(size, fontsize="medium")
    panels[0].plot([], [], "x", color="0.2", label="start (MiniLLM: after SFT)")
    _ring(panels[0], curves[:0].assign(across=0), "0.3", label="stopped where as useful")
    for axes in panels:  # their common limits are set when all is drawn
        style.near_zero(axes)
        axes.set_xticks([-((LANE * (len(PAPER) + 1) / 2) ** 2), *axes.get_xticks()[1:]])
        axes.xaxis.set_major_formatter(lambda share, _: f"{max(share, 0):g}")
        axes.axvspan(-1, 0, color="0.95", zorder=0)
        axes.set(xlim=(-((LANE * (len(PAPER) + 1)) ** 2), None))
    panels[0].set(ylabel=ylabel + "\n(a scale for each size)" * (len(sizes) > 1))
    figure.supxlabel(f"{style.MEMORIZED}{style.ROOT}; grey: none, a lane for each method")
    style.below(figure, panels[0], "upper center", ncols=3)
    for axes, ends in zip(panels, panel_ends, strict=True):
        labels.at_ends(axes, ends, near=0.5)
    if note:
        labels.note(panels[0], note)
    return figure


def _path(axes: Axes, points: pd.DataFrame, method: str, stops: pd.DataFrame) -> labels.End:
    """A method's way through a panel of `training_paths`, and where it ends."""
    part, is_sft = points[points["method"] == method].sort_values("epoch"), method == "sft"
    path, mark = part.set_index("across")["useful"], style.look(method)
    options: dict[str, Any] = {"label": "SFT (each point: stopped early)"} if is_sft else {}
    axes.plot(path, ".-", color=mark["color"], linewidth=3 if is_sft else 1.5, **options)
    axes.plot(path.iloc[:1], "x", color="0.2", zorder=3)
    axes.plot(path.iloc[-1:], markersize=7, **mark)
    epochs = stops["sft_epoch"] if is_sft else stops["epoch"][stops["method"] == method]
    _ring(axes, part[part["epoch"].isin(epochs)], mark["color"])
    return labels.End(path.index[-1], path.iloc[-1], label(method), mark["color"])


def _ring(axes: Axes, points: pd.DataFrame, colour: str, **kwargs: Any) -> None:
    """Rings around points, over all marks."""
    kwargs |= {"facecolors": "none", "edgecolors": colour, "lw": 1.2, "zorder": 4}
    axes.scatter(points["across"], points["useful"], 12**2, **kwargs)


def _from_the_first_epoch(axes: Axes, points: pd.DataFrame) -> None:
    """Upwards what was trained for an epoch; a note of the start, where it lies far below."""
    trained, before = points.query("epoch > 0")["useful"], points.query("epoch == 0")["useful"]
    low, high = trained.min(), trained.max()
    if before.min() < (bottom := low - (high - low) / 2):
        axes.set(ylim=(bottom, None))
        kw: dict[str, Any] = {"ha": "left", "va": "bottom", "color": "0.2", "fontsize": "small"}
        kw["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        text = f"start: {before.min():.2f} \N{DOWNWARDS ARROW}"
        axes.text(0.02, 0.02, text, transform=axes.transAxes, **kw)


def all_methods(rates: pd.DataFrame, rouge: pd.DataFrame, *first_seed: pd.DataFrame) -> Figure:
    """Methods of `paper_tables.table1` and `table2`; SFT dotted, of the `first_seed` dashed."""
    methods, sizes = style.students(rates), student_sizes(rates)
    columns = ((rates, first_seed[0], "member"), (rouge, first_seed[1], "rougeL_held_out"))
    height = 0.5 + len(sizes) * (0.25 + 0.24 * len(methods))
    figure, grid = style.panels(len(sizes), 2, 10, height, sharex="col", sharey=True)
    for row, size in zip(grid, sizes, strict=True):
        row[0].set(ylabel=size)
        for axes, (table, seed_table, name) in zip(row, columns, strict=True):
            style.dots(axes, methods, table[table["size"] == size], name)
            for source, look in ((table, ":"), (seed_table, "--")):
                for value in source.query("method == 'sft' and size == @size")[name]:
                    axes.axvline(value, color=style.look("sft")["color"], linestyle=look, zorder=0)
    grid[-1, 0].set(xlabel=style.MEMORIZED)
    grid[-1, 1].set(xlabel="held-out ROUGE-L (F1)")
    orange = style.look("sft")["color"]
    names: dict[Any, str] = {":": "SFT, all seeds", "--": "SFT, the first seed alone"}
    handles = [Line2D([], [], color=orange, linestyle=dash, label=names[dash]) for dash in names]
    return style.below(figure, handles, "upper center", ncols=2)


def less_than_sft(lines: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """What distilled students memorize minus SFT, a panel for each way to compare them.

    `lines`: method ("all" for the mean), size, claim, value, lo, hi (`results.compared`); `titles`:
    claims and their titles. A student without a value in a panel is not comparable there; beside
    the mean stands of how many of the students it is (n/m). All panels have one scale.
    """
    models = list(dict.fromkeys(zip(lines["method"], lines["size"], strict=True)))
    figsize = (2.5 + 2.8 * len(titles), 1.4 + 0.32 * len(models))
    figure, [panels] = style.panels(1, len(titles), *figsize, sharex=True, sharey=True)
    for axes, (claim, title) in zip(panels, titles.items(), strict=True):
        axes.axvline(0, **style.DOTTED)
        _differences(axes, lines[(lines["claim"] == claim) & lines["value"].notna()], models)
        axes.set_title(title, fontsize="medium")
    limit = 1.1 * lines.loc[lines["claim"].isin(titles), ["lo", "hi"]].abs().max(axis=None)
    panels[0].set(xlim=(-limit, limit) if limit > 0 else (-1, 1))
    panels[0].locator_params(axis="x", nbins=6)
    names = [f"{label(method)}, {size}" for method, size in models if method != "all"]
    style.names_down(panels[0], ["mean (how many)", *names])
    panels[0].set_ylim(top=-1)  # room for the number
    figure.supxlabel("memorized, minus what SFT memorizes (share of member rows)")
    return figure


def _differences(axes: Axes, differences: pd.DataFrame, models: Sequence[tuple[str, str]]) -> None:
    """A panel of `less_than_sft`: the models from above, those that are known with intervals."""
    grey: dict[str, Any] = {"color": "0.4", "fontsize": "small", "ha": "center", "va": "center"}
    grey |= {"bbox": labels.TEXT_BOX, "transform": axes.get_yaxis_transform()}
    rows = {(row["method"], row["size"]): row for row in differences.to_dict("records")}
    students = [model for model in models if model[0] != "all"]
    for i, model in enumerate(models):
        if model not in rows:
            axes.text(0.5, i, "not comparable", **grey)
        elif model in students:
            style.intervals(axes, i, rows[model], across=True)
        else:
            black: dict[str, Any] = {"color": "black", "marker": "D", "linewidth": 2}
            style.intervals(axes, i, rows[model], across=True, **black)
            mean, count = rows[model]["value"], f"{len(rows.keys() & students)}/{len(students)}"
            labels.above(axes, (mean, i), f"{mean:+.3f} ({count})")
