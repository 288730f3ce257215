"""Figures of whose text a student reads. For notebook 07_on_policy."""

import pandas as pd
from matplotlib.figure import Figure

from kdlib.figures import labels, style

GREYS = ("0.8", "0.5", "0.2")  # no method's colours


def replay(shares: pd.DataFrame, mean_age: pd.Series) -> Figure:
    """By epoch: the shares of steps that read each kind of text, and how old replayed text is."""
    figure, [[left, right]] = style.panels(1, 2, 9, 3.4)
    bars = {"stacked": True, "width": 0.9, "rot": 0, "legend": False}
    shares.plot.bar(ax=left, color=GREYS, **bars)
    left.set(xlabel="epoch", ylabel="share of optimizer steps")
    right.plot(mean_age.index, mean_age, "o-", color=GREYS[-1])
    right.set(xlabel="epoch", ylabel="mean age of replayed text\n(optimizer steps)", ylim=(0, None))
    return style.below(figure, left, "upper center", ncols=3)


def student_share(method: str, table: pd.DataFrame) -> Figure:
    """What a method memorizes, and its losses, by the share of steps on the student's text.

    `table`: a line a share, columns (metric, split) of `rates.summary`. Where nothing is memorized
    at any share, the losses stand alone.
    """
    value, lo, hi = (table[column, "member"] for column in ("memorized", "lo", "hi"))
    memorizes = bool(value.any())
    figure, [[*first, last]] = style.panels(1, 1 + memorizes, 6 + 4 * memorizes, 3.4)
    for axes in first:
        rates = pd.DataFrame({"value": value, "lo": lo, "hi": hi})
        style.intervals(axes, table.index, rates, **style.look(method))
        axes.set(ylabel=style.MEMORIZED, ylim=(-0.02, 1))
    for split, alpha in (("member", 1), ("held_out", 0.45)):
        name = f"{split} rows".replace("_", "-")
        nats = table["nats_per_token", split]
        last.plot(table.index, nats, alpha=alpha, label=name, **style.look(method))
    last.set(ylabel="loss (nats per token)")
    for axes in (*first, last):
        axes.set(xlabel="share of steps on the student's text")
    labels.at_ends(last)
    return figure
